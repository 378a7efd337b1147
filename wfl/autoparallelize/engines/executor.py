"""The engine that gives its chunks to a ``concurrent.futures.Executor``: threads, loky, MPI, Dask, Parsl, ..."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from typing import Any

from ..batching import Chunks
from ..task import Task
from . import wire
from .base import Done, WorkerDied
from .order import Batch, Batches, InOrder

__all__ = ["ExecutorEngine", "shared_executor"]

_log = logging.getLogger(__name__)
_SMALL_TASK = 16 * 1024  # bytes of a pickled task that may as well travel with each batch
_MOST_TASKS_KEPT = 4

_Answer = tuple[bool, float, bytes]  # did it work; seconds that it took; results or failure, pickled

# ------------------------------------------------------------------------------------------- in the workers

_tasks: OrderedDict[str, Task] = OrderedDict()
_lock = threading.Lock()


def run_batch(token: str, task_blob: bytes | None, data: bytes) -> _Answer | None:
    """Run a batch of chunks, in a worker; None if it does not know the task yet."""
    start = time.perf_counter()
    try:
        task = _known_task(token, task_blob)
        if task is None:
            return None
        results = task.run(*wire.load(data))
        return True, time.perf_counter() - start, wire.dump_values(results, where=f"the results of {task.name}")
    except BaseException as error:
        return False, time.perf_counter() - start, wire.dump_failure(error)


def _known_task(token: str, task_blob: bytes | None) -> Task | None:
    """Return the task of a token; at the first time in a process, unpickle it and run its initializer."""
    with _lock:
        if token not in _tasks:
            if task_blob is None:
                return None
            task: Task = wire.load(task_blob)
            task.initialize()
            _tasks[token] = task
            while len(_tasks) > _MOST_TASKS_KEPT:
                _tasks.popitem(last=False)
        return _tasks[token]


# ------------------------------------------------------------------------------------------- in the script


class ExecutorEngine:
    """Runs chunks on an executor, which it neither starts nor shuts down.

    The operation and its arguments are pickled once, kept in each worker, and sent again only to workers that do not
    have them.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._workers = _number_of_workers(executor)
        self.announcement = f"{type(executor).__name__} of {self._workers} workers"

    def run(self, task: Task, chunks: Chunks) -> Iterator[Done]:
        """Yield the chunks in order; see ``Engine``."""
        run = _Run(self._executor, self._workers, task, chunks)
        try:
            yield from run.results()
        finally:
            for future in run.pending:
                future.cancel()
            with _lock:
                _tasks.pop(run.token, None)


class _Run:
    def __init__(self, executor: Executor, workers: int, task: Task, chunks: Chunks) -> None:
        self.executor = executor
        self.workers = workers
        self.name = task.name
        self.token = uuid.uuid4().hex
        self.guard = chunks.guard
        self.order = InOrder(chunks.position, chunks.keeper)
        self.batches = Batches(task.name, chunks, self.order)
        self.pending: dict[Future[_Answer | None], Batch] = {}
        self.blob = b""
        self.sent = 0
        if isinstance(executor, ThreadPoolExecutor):
            _tasks[self.token] = task
            task.initialize()
        else:
            self.blob = wire.dump_task(task)

    def results(self) -> Iterator[Done]:
        while True:
            self.feed()
            if not self.pending or (self.guard is not None and self.guard.is_over()):
                yield from self.order.ready() if self.guard is None else self.order.rest()
                return
            done, _ = wait(self.pending, None if self.guard is None else self.guard.patience(), FIRST_COMPLETED)
            for future in done:
                self.receive(future)
            if self.guard is not None and not self.guard.allows():
                self.withdraw()
            self.feed()
            yield from self.order.ready()

    def feed(self) -> None:
        while len(self.pending) < 2 * self.workers:
            batch = self.batches.take(not self.order.full)
            if batch is None:
                return
            self.submit(batch, with_task=self.sent < self.workers or len(self.blob) < _SMALL_TASK)

    def withdraw(self) -> None:
        """Take back what has not begun."""
        for future in [future for future in self.pending if future.cancel()]:
            del self.pending[future]

    def submit(self, batch: Batch, *, with_task: bool) -> None:
        self.sent += 1
        try:
            blob = self.blob if with_task else None
            self.pending[self.executor.submit(run_batch, self.token, blob, batch.data)] = batch
        except BrokenExecutor as error:
            raise self.broken([batch]) from error

    def receive(self, future: Future[_Answer | None]) -> None:
        batch = self.pending.pop(future)
        try:
            answer = future.result()
        except BrokenExecutor as error:
            raise self.broken([batch, *self.pending.values()]) from error
        if answer is None:
            self.submit(batch, with_task=True)
            return
        ok, seconds, data = answer
        if not ok:
            raise wire.load_failure(data)
        self.batches.learn(len(batch.chunk.paths), seconds)
        self.order.add(batch, data, seconds)

    def broken(self, batches: list[Batch]) -> WorkerDied:
        items = ", ".join([batch.chunk.items for batch in batches][:10])
        return WorkerDied(
            f"a worker of {type(self.executor).__name__} died while it ran {self.name}, and broke the executor; "
            f"under way were {items} of the input (the system kills processes when memory runs out)"
        )


def _number_of_workers(executor: Any) -> int:
    for name in ("_max_workers", "num_workers"):
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    return os.cpu_count() or 1


# ------------------------------------------------------------------------------------------- from the environment

_from_env: dict[str, Executor] = {}


def shared_executor(n: int | None) -> Executor | None:
    """Return the executor that stands in for a pool of ``n`` workers (None: not said): the ranks of MPI, or that of
    ``WFL_EXECUTOR`` (``module:factory``); None if there is none, or if ``n`` is 0.
    """  # noqa: D205
    from .. import mpipool_support

    if n and mpipool_support.wfl_mpipool is not None:
        mpipool_support.warn_ignored(n)
        return mpipool_support.wfl_mpipool
    spec = os.environ.get("WFL_EXECUTOR", "").strip()
    if not spec or n == 0:
        return None
    if spec not in _from_env:
        _from_env[spec] = _make_executor(spec)
    return _from_env[spec]


def _make_executor(spec: str) -> Executor:
    module, _, name = spec.partition(":")
    if not module or not name:
        raise ValueError(f"environment variable WFL_EXECUTOR must be module:factory, not {spec!r}")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"environment variable WFL_EXECUTOR={spec}: {error}") from error
    executor: Executor = factory()
    atexit.register(_shut_down, executor)
    return executor


def _shut_down(executor: Executor) -> None:
    with contextlib.suppress(Exception):
        executor.shutdown(wait=True)


