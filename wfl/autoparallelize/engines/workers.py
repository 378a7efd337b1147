"""Worker processes: how they are started, watched, replaced and ended.

Two ways to start one. *fork* copies this process: it takes milliseconds, the worker knows everything that the script
has done so far, and nothing has to be pickled but items. It is not safe when other threads run, or when a library
with threads or a GPU of its own has been loaded; then workers are *fresh* interpreters, which do not run the user's
script again (so scripts need no ``if __name__ == "__main__"``), get the operation by pickle, and stay for the next
calls because starting them takes some tenths of a second. ``WFL_POOL_START`` (``fork`` or ``fresh``) overrules.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections import deque
from multiprocessing.connection import Connection
from typing import Any

from expyre.node.family import end_tree, how_it_ended

from ..task import Task
from . import wire
from .base import number_from_env
from .worker import make_mark, read_mark, serve

__all__ = ["Pool", "WorkerProcess", "borrow_pool", "close_idle_pools", "return_pool", "start_method"]

_UNSAFE_AFTER_FORK = ("torch", "tensorflow", "jax", "cupy", "quippy", "mpi4py.MPI", "tblite")
_parent_ends: set[Any] = set()  # what a forked worker has to close, so that it does not keep other workers alive


def start_method() -> str:
    """Return ``fork`` or ``fresh``, whichever is safe in the present state of this process.

    Raises
    ------
    ValueError
        ``WFL_POOL_START`` is neither of them.
    """
    wanted = os.environ.get("WFL_POOL_START", "")
    if wanted not in ("", "fork", "fresh"):
        raise ValueError(f"environment variable WFL_POOL_START must be 'fork' or 'fresh', not {wanted!r}")
    if wanted:
        return wanted
    safe = (
        sys.platform == "linux"
        and threading.active_count() == 1
        and not multiprocessing.current_process().daemon
        and number_from_env("WFL_TORCH_N_GPUS") in (None, 0)
        and not any(name in sys.modules for name in _UNSAFE_AFTER_FORK)
    )
    return "fork" if safe else "fresh"


def surroundings(gpu: int | None) -> dict[str, Any]:
    """Return what a worker has to share with this process."""
    return {"cwd": os.getcwd(), "path": list(sys.path), "environ": dict(os.environ), "gpu": gpu}


class WorkerProcess:
    """One worker: a process, a connection, and the batches that it has been given."""

    def __init__(self, lifeline: tuple[int, int], gpu: int | None) -> None:
        self.gpu = gpu
        self.outstanding: deque[Any] = deque()
        mine, theirs = socket.socketpair()
        self.conn = Connection(mine.detach())
        self._theirs = theirs
        self._mark = make_mark()
        self._lifeline = lifeline
        self._process: Any = None
        _parent_ends.add(self.conn)

    def fork(self, task: Task) -> None:
        """Start the worker as a copy of this process."""
        process = multiprocessing.get_context("fork").Process(target=self._forked, args=(task,), daemon=True)
        with warnings.catch_warnings():  # the check before has seen no threads but those of numerical libraries
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        self._process = process
        self._theirs.close()

    def _forked(self, task: Task) -> None:
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        for end in list(_parent_ends):
            end.close()
        os.close(self._lifeline[1])
        from .worker import work_alone

        work_alone()
        serve(Connection(self._theirs.detach()), self._mark.fileno(), self._lifeline[0], task)

    def launch(self) -> None:
        """Start the worker as a fresh interpreter."""
        fds = (self._theirs.fileno(), self._mark.fileno(), self._lifeline[0])
        code = "import sys; from wfl.autoparallelize.engines.worker import main; main(sys.argv[1:])"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, fds)], pass_fds=fds, env=env, stdin=subprocess.DEVNULL
        )
        self._theirs.close()

    def send(self, message: Any) -> None:
        """Send a message; that the worker is dead is found out when its answer is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.conn.send(message)

    def set_up(self, task_blob: bytes) -> None:
        """Tell a fresh worker what it is to do, and where."""
        self.send(("surroundings", surroundings(self.gpu)))
        self.send(("task", task_blob))

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return int(self._process.pid)

    def _wait(self, timeout: float | None) -> int | None:
        if isinstance(self._process, subprocess.Popen):
            try:
                return self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                return None
        self._process.join(timeout)
        return None if self._process.exitcode is None else int(self._process.exitcode)

    def autopsy(self) -> tuple[int, str]:
        """Return the number of the first item that a dead worker had in hand, and how it died, in words."""
        code = self._wait(5.0)
        if code is None:
            end_tree(self.pid)
            code = self._wait(None)
        number = read_mark(self._mark.fileno())
        self._close()
        return number, how_it_ended(code or 0)

    def stop(self, *, kill: bool) -> None:
        """End the worker: let it finish, or kill it together with what it has started."""
        if kill:
            end_tree(self.pid)
        else:
            self.send(None)
        if self._wait(None if kill else 2.0) is None:
            end_tree(self.pid)
            self._wait(None)
        self._close()

    def _close(self) -> None:
        _parent_ends.discard(self.conn)
        self.conn.close()
        self._mark.close()


class Pool:
    """A number of workers that serve one task at a time."""

    def __init__(self, n: int, method: str, gpus: int | None) -> None:
        self.method = method
        self.key = (n, method, gpus, os.getpid())
        self.workers: list[WorkerProcess] = []
        self._gpus = [i % gpus if gpus else None for i in range(n)]
        self._lifeline = os.pipe()
        self._task: Task | None = None
        self._blob = b""

    def assign(self, task: Task) -> None:
        """Give all workers a task, starting them if they are not there."""
        self._task = task
        if self.method == "fresh":
            self._blob = wire.dump_task(task)
        if not self.workers:
            for gpu in self._gpus:
                self.workers.append(WorkerProcess(self._lifeline, gpu))
                self._start(self.workers[-1])
            return
        for worker in self.workers:
            worker.set_up(self._blob)

    def _start(self, worker: WorkerProcess) -> None:
        if self.method == "fork" and self._task is not None:
            worker.fork(self._task)
        else:
            worker.launch()
            worker.set_up(self._blob)

    def replace(self, worker: WorkerProcess) -> None:
        """Start a worker in the place of a dead one."""
        new = WorkerProcess(self._lifeline, worker.gpu)
        self.workers[self.workers.index(worker)] = new
        self._start(new)

    def alive(self) -> bool:
        """Return whether all workers are there."""
        return all(worker._wait(0) is None for worker in self.workers)

    def close(self, *, kill: bool = False) -> None:
        """End all workers."""
        for worker in self.workers:
            if not kill:
                worker.send(None)
        for worker in self.workers:
            if worker._process is not None:
                worker.stop(kill=kill)
        self.workers = []
        for fd in self._lifeline:
            with contextlib.suppress(OSError):
                os.close(fd)


_idle: dict[tuple[Any, ...], Pool] = {}
_idle_lock = threading.Lock()


def borrow_pool(n: int, task: Task) -> Pool:
    """Return a pool of ``n`` workers that have the task: one that an earlier call has left, or a new one.

    Raises
    ------
    RuntimeError
        GPUs are to be assigned, and torch is not installed.
    """
    gpus = number_from_env("WFL_TORCH_N_GPUS") or None
    if gpus:
        _need_torch()
    method = start_method()
    with _idle_lock:
        pool = _idle.pop((n, method, gpus, os.getpid()), None)
    if pool is not None and not pool.alive():
        pool.close(kill=True)
        pool = None
    pool = pool or Pool(n, method, gpus)
    try:
        pool.assign(task)
    except BaseException:
        pool.close(kill=True)
        raise
    return pool


def _need_torch() -> None:
    from importlib.util import find_spec

    if "torch" not in sys.modules and find_spec("torch") is None:
        raise RuntimeError("WFL_TORCH_N_GPUS assigns GPUs through torch, which is not installed here")


def return_pool(pool: Pool, *, good: bool) -> None:
    """Keep the fresh workers of a call that went well for the next one; end all others."""
    if not good or pool.method == "fork":
        pool.close(kill=not good)
        return
    with _idle_lock:
        other, _idle[pool.key] = _idle.get(pool.key), pool
    if other is not None:
        other.close()


def close_idle_pools() -> None:
    """End the workers that wait for a next call."""
    with _idle_lock:
        pools = [pool for pool in _idle.values() if pool.key[-1] == os.getpid()]
        _idle.clear()
    for pool in pools:
        pool.close(kill=True)


atexit.register(close_idle_pools)
