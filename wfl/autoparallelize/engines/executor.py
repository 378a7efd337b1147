"""The engine that gives its chunks to a ``concurrent.futures.Executor``: threads, loky, MPI, Dask, Parsl, ..."""

from __future__ import annotations

import sys
import threading
import time
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from typing import Any

from expyre.util import own_import_path

from ..batching import Chunks
from ..task import Task, add_note
from . import wire
from .base import Done, WorkerDied
from .capacity import Capacity
from .here import inside_operation
from .order import Batch, Batches, InOrder

__all__ = ["ExecutorEngine", "abandoned"]

_SMALL_TASK = 16 * 1024  # bytes of a pickled task that may as well travel with each batch
_MOST_TASKS_KEPT = 4

# what executors raise if a worker has died and another has taken its place: Dask; Parsl; expyre
_DEATHS = frozenset({"KilledWorker", "WorkerLost", "ManagerLost", "WorkerDied", "OutOfMemory"})

abandoned: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
"""What nobody waits for any more and could not be cancelled."""

_Parcel = tuple[list[str], bytes]  # where the script finds modules that are not installed; the task, pickled
_Answer = tuple[bool, float, bytes]  # did it work; seconds that it took; results or failure, pickled

# ------------------------------------------------------------------------------------------- in the workers

_tasks: OrderedDict[str, Task] = OrderedDict()
_tasks_of_threads: dict[str, Task] = {}
_lock = threading.Lock()


def run_batch(token: str, number: int, parcel: _Parcel | None, data: bytes) -> _Answer | None:
    """Run a batch of chunks, in a worker; None if it does not know the task yet.

    The number makes a second try another call: Dask gives the same result, or failure, to the same call.
    """
    start = time.perf_counter()
    inside = inside_operation.set(True)
    try:
        task = _known_task(token, parcel)
        if task is None:
            return None
        results = task.run(*wire.load(data))
        return True, time.perf_counter() - start, wire.dump_values(results, where=f"the results of {task.name}")
    except BaseException as error:
        return False, time.perf_counter() - start, wire.dump_failure(error)
    finally:
        inside_operation.reset(inside)


def _known_task(token: str, parcel: _Parcel | None) -> Task | None:
    """Return the task of a token; at the first time in a process, unpickle it and run its initializer."""
    if token in _tasks_of_threads:
        return _tasks_of_threads[token]
    with _lock:
        if token not in _tasks:
            if parcel is None:
                return None
            import_path, blob = parcel
            sys.path.extend(directory for directory in import_path if directory not in sys.path)
            task: Task = wire.load(blob)
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
        self._capacity = Capacity(executor)
        self.announcement = f"{type(executor).__name__} of {self._capacity.workers} workers"

    def run(self, task: Task, chunks: Chunks) -> Iterator[Done]:
        """Yield the chunks in order; see ``Engine``."""
        run = _Run(self._executor, self._capacity, task, chunks)
        try:
            yield from run.results()
        finally:
            abandoned.update(future for future in run.pending if not cancelled(future))
            with _lock:
                _tasks.pop(run.token, None)
                _tasks_of_threads.pop(run.token, None)


class _Run:
    def __init__(self, executor: Executor, capacity: Capacity, task: Task, chunks: Chunks) -> None:
        self.executor = executor
        self.capacity = capacity
        self.name = task.name
        self.token = uuid.uuid4().hex
        self.guard = chunks.guard
        self.order = InOrder(chunks.position, chunks.keeper)
        self.batches = Batches(task.name, chunks, self.order)
        self.pending: dict[Future[_Answer | None], Batch] = {}
        self.parcel: _Parcel = ([], b"")
        self.sent = 0
        self.suspects: deque[Batch] = deque()
        if isinstance(executor, ThreadPoolExecutor):
            _tasks_of_threads[self.token] = task
            task.initialize()
        else:
            self.parcel = (own_import_path(), wire.dump_task(task))

    def results(self) -> Iterator[Done]:
        while True:
            self.feed()
            if not self.pending or (self.guard is not None and self.guard.is_over()):
                yield from self.order.ready() if self.guard is None else self.order.rest()
                return
            done, _ = wait(self.pending, None if self.guard is None else self.guard.patience(), FIRST_COMPLETED)
            while done:  # and let go: Dask keeps, and computes again, what somebody has a future of
                self.receive(done.pop())
            if self.guard is not None and not self.guard.allows():
                self.withdraw()
            self.feed()
            yield from self.order.ready()

    def feed(self) -> None:
        """Give the executor twice as much as it can work on; what workers have died of, alone."""
        if self.suspects:
            if not self.pending and (self.guard is None or self.guard.allows()):
                self.submit(self.suspects[0], with_task=True)
            return
        workers = self.capacity.now()
        while len(self.pending) < 2 * workers:
            batch = self.batches.take(not self.order.full)
            if batch is None:
                return
            self.submit(batch, with_task=self.sent < workers or self.small_task)

    @property
    def small_task(self) -> bool:
        return len(self.parcel[1]) < _SMALL_TASK

    def withdraw(self) -> None:
        """Take back what has not begun."""
        for future in [future for future in self.pending if cancelled(future)]:
            del self.pending[future]

    def submit(self, batch: Batch, *, with_task: bool) -> None:
        self.sent += 1
        try:
            parcel = self.parcel if with_task else None
            self.pending[self.executor.submit(run_batch, self.token, self.sent, parcel, batch.data)] = batch
        except BrokenExecutor as error:
            raise self.broken([batch]) from error

    def receive(self, future: Future[_Answer | None]) -> None:
        batch = self.pending.pop(future)
        try:
            answer = future.result()
        except Exception as error:  # not of the operation: those come as answers
            if isinstance(error, BrokenExecutor) and type(error).__name__ not in _DEATHS:
                raise self.broken([batch, *self.pending.values()]) from error
            self.fail(batch, error)
            return
        if answer is None:
            self.submit(batch, with_task=True)
            return
        ok, seconds, data = answer
        if not ok:
            raise wire.load_failure(data)
        if self.suspects and batch is self.suspects[0]:
            self.suspects.popleft()
        self.batches.learn(len(batch.chunk.paths), seconds)
        self.order.add(batch, data, seconds)

    def fail(self, batch: Batch, error: Exception) -> None:
        """Take in that the executor could not run a batch, because a worker has died or else because it is faulty.

        Others may have been on that worker, too. So each call is tried once more, alone, and fails if that kills again.
        """
        items = f"{batch.chunk.items} of its input"
        who = type(self.executor).__name__
        if type(error).__name__ not in _DEATHS:
            add_note(error, f"raised by {who}, which was to run {self.name} for {items}")
            raise error
        if self.suspects and batch is self.suspects[0]:
            self.suspects.popleft()
            died = WorkerDied(f"a worker of {who} died while it ran {self.name} for {items}: {error}")
            died.__cause__ = error
            self.order.add_done(Done(batch.chunk, [], died))
        else:
            self.suspects.extend(batch.split(self.batches.items_per_call, self.name))

    def broken(self, batches: list[Batch]) -> WorkerDied:
        items = ", ".join([batch.chunk.items for batch in batches][:10])
        return WorkerDied(
            f"a worker of {type(self.executor).__name__} died while it ran {self.name}, and broke the executor; "
            f"under way were {items} of the input (the system kills processes when memory runs out)"
        )


def cancelled(future: Future[Any]) -> bool:
    """Cancel a call that has not begun; return whether it was. Not every executor can."""
    try:
        return future.cancel()
    except NotImplementedError:  # Parsl
        return False
