"""A project whose system ``queue`` is a queue of its own on this machine, and scripts that use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from queue_tools import Queue, fresh_queue, until

from expyre import config
from expyre.config import Project


class Place:
    """A project, its queue, and a ledger into which calls write that they have run."""

    def __init__(self, root: Path, queue: Queue, project: Project) -> None:
        self.root, self.queue, self.project = root, queue, project
        self.ledger = root / "ledger"

    def ran(self) -> list[str]:
        """Return what the calls have written, in order of the words."""
        return sorted(self.ledger.read_text().split()) if self.ledger.exists() else []

    def statuses(self) -> dict[str, str]:
        """Return the status of each job of the record, by the name of the job."""
        return {row.name: row.status for row in self.project.record.query()}

    def script(self, text: str, **env: str) -> subprocess.Popen[str]:
        """Start a script in the project."""
        return start_script(self.root, text, **env)


def start_script(root: Path, text: str, **env: str) -> subprocess.Popen[str]:
    """Start a script in the project of a directory; its argument is the ledger there."""
    path = root / "script.py"
    path.write_text(text)
    words = [sys.executable, str(path), str(root / "ledger")]
    env = {**os.environ, "EXPYRE_ROOT": str(root / ".expyre"), **env}
    return subprocess.Popen(words, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


AS_THEY_RUN = "as they run"
_SQUARES = """
import os, sys, time
from expyre import Executor

def work(ledger, number):
    handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{number}\\n".encode())
    os.close(handle)
    time.sleep(SECONDS)
    return number * number

with Executor(max_time="5m", **OPTIONS) as executor:
    futures = [executor.submit(work, sys.argv[1], i) for i in range(4)]
    print("submitted", flush=True)
    print([future.result() for future in futures])
"""


def check_that_a_killed_script_finds_its_jobs(project: Project, root: Path, step: str, **options: object) -> None:
    """Kill a script of four calls at a step, or as its jobs run, and run it again: each call has been made once."""
    text = _SQUARES.replace("SECONDS", "1" if step == AS_THEY_RUN else "0.3").replace("OPTIONS", repr(options))
    ledger = root / "ledger"
    first = start_script(root, text, EXPYRE_KILL_AT=step)
    if step == AS_THEY_RUN:
        until(ledger.exists)
        first.kill()
    _, err = first.communicate(timeout=200)
    assert first.returncode == -signal.SIGKILL, err
    out, err = start_script(root, text).communicate(timeout=200)
    assert out == "submitted\n[0, 1, 4, 9]\n", err
    assert sorted(ledger.read_text().split()) == [*"0123"]
    assert len(list(project.record.query())) == 4


@contextmanager
def place_for_jobs(root: Path, cores: int = 4) -> Iterator[Place]:
    """Give a project with a queue of some cores; nothing of it is left afterwards."""
    (root / ".expyre").mkdir()
    node = {"num_cores": cores, "max_time": None, "max_mem": "4GB", "num_gpus": 0}
    for queue in fresh_queue(root):
        system = {
            "host": None,
            "scheduler": "local",
            "partitions": {"all": node},
            "scheduler_options": {"dir": str(queue.spool.path), "grace": 0.5},
        }
        (root / ".expyre" / "config.json").write_text(json.dumps({"systems": {"queue": system}}))
        config.init(root / ".expyre")
        project = config.project()
        yield Place(root, queue, project)
        project.close()
