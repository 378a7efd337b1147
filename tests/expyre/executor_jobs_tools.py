"""A project whose system ``queue`` is a queue of its own on this machine, and scripts that use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from queue_tools import Queue, fresh_queue

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
        path = self.root / "script.py"
        path.write_text(text)
        words = [sys.executable, str(path), str(self.ledger)]
        return subprocess.Popen(
            words, cwd=self.root, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


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
