"""Tools for the tests of the queue on this machine: real supervisors in spool directories of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from expyre.node.localqueue import processes
from expyre.node.localqueue.spool import Spool
from expyre.schedulers import Local, Submission
from expyre.states import ALIVE


def until(condition: Callable[[], Any], seconds: float = 200.0, what: str = "it") -> Any:
    """Wait until something is true and return it."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.01)
    return value


class Queue:
    """A queue in a directory of its own and directories for its jobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = Spool(root / "spool")
        self.scheduler = Local(None, options={"dir": str(self.spool.path), "grace": 0.5})
        self.count = 0

    def submission(self, *commands: str, **kwargs: Any) -> Submission:
        self.count += 1
        directory = Path(kwargs.pop("directory", self.root / f"job{self.count}"))
        directory.mkdir(exist_ok=True)
        nodes = {"num_nodes": 1, "num_cores": 1, "num_cores_per_node": 1, **kwargs.pop("nodes", {})}
        values = {"id": f"job{self.count}", "partition": "node", "max_time": 60, **kwargs}
        return Submission(directory=str(directory), commands=commands, nodes=nodes, **values)

    def submit(self, *commands: str, **kwargs: Any) -> str:
        sub = self.submission(*commands, **kwargs)
        answer = self.scheduler.submit_many([sub])[sub.id]
        assert isinstance(answer, str), answer
        return answer

    def state(self, id: str) -> str:
        listing = self.scheduler.listing([id])
        return listing[id].state if id in listing else "not listed"

    def wait(self, *ids: str, seconds: float = 200.0) -> list[str]:
        """Wait until jobs have ended and return how."""


        def ended() -> bool:
            return not any(listing.state in ALIVE for listing in self.scheduler.listing(ids).values())

        try:
            until(ended, seconds, f"the end of {ids}")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.report()}") from None
        return [self.state(id) for id in ids]

    def report(self) -> str:
        """Return what there is to know of the queue, for a test that fails."""
        with self.spool.connect() as db:
            rows = [dict(row) for row in db.execute("SELECT * FROM jobs")]
        log = self.spool.log.read_text() if self.spool.log.exists() else "no log"
        return f"supervisor {self.supervisor()}\n{rows}\n{log}"

    def is_running(self, id: str) -> None:
        until(lambda: self.state(id) == "running", what=f"the start of {id}")

    def supervisor(self) -> int:
        """Return the process id of the supervisor, 0 if there is none."""
        for pid in processes.snapshot():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(self.spool.path) in words and b"-I" in words and words[0] != b"/bin/sh":
                return pid
        return 0

    def members(self, id: str) -> list[processes.Process]:
        """Return the live processes that carry the mark of a job."""
        mark = f"EXPYRE_LOCAL_JOB={self.spool.mark}:{id}"
        return processes.Processes().of(mark, -1, processes.snapshot())

    def close(self) -> None:
        """End the supervisor and what is left of its jobs; only those of this spool."""
        pid = self.supervisor()
        if pid:
            os.kill(pid, signal.SIGKILL)
        mark = f"EXPYRE_LOCAL_JOB={self.spool.mark}:".encode()
        for process in processes.snapshot().values():
            try:
                ours = mark in Path(f"/proc/{process.pid}/environ").read_bytes()
            except OSError:
                continue
            if ours:
                processes.stop_all([process])


def fresh_queue(root: Path) -> Iterator[Queue]:
    """Yield a queue and see to it that nothing of it survives."""
    queue = Queue(root)
    try:
        yield queue
    finally:
        queue.close()


def shell(command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
