"""The worker's side of the process pool: receive an operation once, then chunks of items, until told to stop."""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from expyre.node.family import end_tree

from ..task import Task
from . import wire

__all__ = ["HEADER", "IDLE", "main", "serve"]

HEADER = struct.Struct("<?ddd")  # did it work; seconds: that it took, in the operation, of CPU time for pickles
IDLE = -1
_MARK = struct.Struct("<q")


def _die_with_parent(lifeline: int) -> None:
    """Wait until the parent has gone, then end this process and what it has started."""
    os.read(lifeline, 1)
    end_tree(os.getpid(), itself=False)
    os._exit(1)


def make_mark() -> Any:
    """Return a file in which a worker notes the first item in hand, so that it is known even if it is killed."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 closed with the worker
    file.write(_MARK.pack(IDLE))
    file.flush()
    return file


def read_mark(fd: int) -> int:
    """Return the number of the first item that a worker had in hand."""
    with mmap.mmap(fd, _MARK.size) as memory:
        return int(_MARK.unpack(memory)[0])


def pin_gpu(gpu: int) -> None:
    """Make a GPU the one that torch uses in this process."""
    import torch

    torch.cuda.set_device(gpu)


def apply_surroundings(surroundings: dict[str, Any]) -> None:
    """Take over the working directory, the environment and the import path of the parent."""
    os.chdir(surroundings["cwd"])
    sys.path[:] = surroundings["path"]
    os.environ.clear()
    os.environ.update(surroundings["environ"])


def work_alone() -> None:
    """Make operations that are called inside operations run in this process, not in further pools."""
    os.environ["WFL_NUM_PYTHON_SUBPROCESSES"] = "0"
    os.environ.pop("WFL_EXECUTOR", None)


class _Worker:
    def __init__(self, conn: Connection, mark: int, task: Task | None) -> None:
        self._conn = conn
        self._mark = memoryview(mmap.mmap(mark, _MARK.size)).cast("q")
        self._note = partial(self._mark.__setitem__, 0)  # no system call: it is called for each item
        self._op = self._pickles = 0.0
        self._task = task
        self._ready = False
        self._receive: dict[str, Callable[[Any], bytes | None]] = {
            "surroundings": self._surroundings, "task": self._take_task, "chunks": self._chunks,
        }

    def _surroundings(self, given: dict[str, Any]) -> None:
        apply_surroundings(given)
        work_alone()
        if given["gpu"] is not None:
            pin_gpu(given["gpu"])

    def _take_task(self, blob: bytes) -> None:
        self._task, self._ready = wire.load(blob), False

    def _chunks(self, blob: bytes) -> bytes:
        if self._task is None:
            raise RuntimeError("a worker got items before it got an operation")
        if not self._ready:
            self._task.initialize()
            self._ready = True
        begin = time.thread_time()
        first, values, infos = wire.load(blob)
        loaded, start = time.thread_time(), time.perf_counter()
        results = self._task.run(first, values, infos, self._note)
        self._op = time.perf_counter() - start
        done = time.thread_time()
        self._note(IDLE)
        data = wire.dump_values(results, where=f"the results of {self._task.name}")
        self._pickles = loaded - begin + time.thread_time() - done
        return data

    def loop(self) -> None:
        """Answer every message with items, or with the first error since the last one; until told to stop."""
        failure: bytes | None = None
        while (message := self._conn.recv()) is not None:
            kind, payload = message
            start = time.perf_counter()
            try:
                answer = self._receive[kind](payload) if failure is None else failure
            except BaseException as error:
                answer = failure = wire.dump_failure(error)
            if kind == "chunks":
                header = HEADER.pack(failure is None, time.perf_counter() - start, self._op, self._pickles)
                self._conn.send_bytes(header + (answer or b""))


def serve(conn: Connection, mark: int, lifeline: int, task: Task | None = None) -> None:
    """Work until the parent says stop or goes away; a task is given if this process was forked."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    try:
        _Worker(conn, mark, task).loop()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def main(argv: list[str]) -> None:
    """Serve in a fresh interpreter, on the file descriptors that are named on the command line."""
    conn, mark, lifeline = (int(each) for each in argv)
    serve(Connection(conn), mark, lifeline)
