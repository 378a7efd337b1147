"""The engine that works in worker processes of its own on this machine."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import wait

from ..batching import AdaptiveSize
from ..task import Chunk, Task
from . import wire
from .base import Done, WorkerDied
from .workers import Pool, WorkerProcess, borrow_pool, return_pool

__all__ = ["Batch", "ProcessEngine"]

# Finished results wait here, as pickles, until those before them are there; beyond this nothing new is given out.
_MOST_BYTES_WAITING = 256 * 1024**2
# A message this small always fits into an idle socket's buffer, so sending it to a busy worker cannot block.
_SMALL_MESSAGE = 32 * 1024


class Batch:
    """Chunks that travel in one message."""

    def __init__(self, chunks: list[Chunk], name: str) -> None:
        self.chunks = chunks
        self.data = wire.dump_values(
            [wire.chunk_message(c) for c in chunks], where=f"{chunks[0].items} of the input of {name}"
        )
        for chunk in chunks:
            chunk.values, chunk.infos = [], None

    def split(self, without: int, name: str) -> list[Batch]:
        """Return the chunks but one, each in a batch of its own."""
        singles = []
        for chunk, (_, _, values, infos) in zip(self.chunks, wire.load(self.data), strict=True):
            if chunk.number != without:
                chunk.values, chunk.infos = values, infos
                singles.append(Batch([chunk], name))
        return singles


class _Run:
    """One task on its way through a pool."""

    def __init__(self, pool: Pool, task: Task, chunks: Iterator[Chunk]) -> None:
        self.pool = pool
        self.name = task.name
        self.chunks = chunks
        self.size = AdaptiveSize()
        self.again: deque[Batch] = deque()
        self.prepared: Batch | None = None
        self.finished: dict[int, tuple[Batch, bytes] | Done] = {}
        self.bytes_waiting = 0
        self.next_number = 0

    def take(self) -> Batch | None:
        """Return the next batch to give out, None if there is none or too many results are waiting."""
        if self.again:
            return self.again.popleft()
        if self.prepared is not None:
            batch, self.prepared = self.prepared, None
            return batch
        if self.bytes_waiting > _MOST_BYTES_WAITING:
            return None
        chunks = list(islice(self.chunks, self.size.size))
        return Batch(chunks, self.name) if chunks else None

    def feed(self) -> None:
        """Give every idle worker a batch, and every busy one a small one in advance."""
        for backlog in (0, 1):
            for worker in self.pool.workers:
                if len(worker.outstanding) == backlog and not self.give(worker):
                    return

    def give(self, worker: WorkerProcess) -> bool:
        batch = self.take()
        if batch is None:
            return False
        if worker.outstanding and len(batch.data) > _SMALL_MESSAGE:
            self.prepared = batch
            return False
        worker.outstanding.append(batch)
        worker.send(("chunks", batch.data))
        return True

    def receive(self, worker: WorkerProcess) -> None:
        """Take one answer of a worker, or its death."""
        try:
            message = worker.conn.recv_bytes()
        except (EOFError, ConnectionResetError):
            self.bury(worker)
            return
        batch = worker.outstanding.popleft()
        ok, seconds = wire_header(message)
        if not ok:
            raise wire.load_failure(message[wire_header_size:])
        self.size.learn(len(batch.chunks), seconds)
        self.bytes_waiting += len(message)
        self.finished[batch.chunks[0].number] = (batch, message)

    def bury(self, worker: WorkerProcess) -> None:
        """Put another worker in the place of a dead one; fail the chunk that it had in hand, repeat the others."""
        number, reason = self.pool.replace(worker)
        batches = list(worker.outstanding)
        guilty = next((c for b in batches for c in b.chunks if c.number == number), None)
        if guilty is None:
            where = batches[0].chunks[0].items if batches else "its first items"
            raise WorkerDied(f"a worker process of {self.name} {reason} before it could begin with {where} of the "
                             "input (while it imported modules or ran the initializer)")
        for batch in batches:
            self.again.extend(batch.split(guilty.number, self.name))
        self.finished[guilty.number] = Done(guilty, [], self.death(guilty, reason))

    def death(self, chunk: Chunk, reason: str) -> WorkerDied:
        return WorkerDied(f"the worker process that ran {self.name} for {chunk.items} of its input {reason}")

    def ready(self) -> Iterator[Done]:
        """Yield what is finished and whose predecessors have all been yielded."""
        while (entry := self.finished.pop(self.next_number, None)) is not None:
            if isinstance(entry, Done):
                self.next_number += 1
                yield entry
                continue
            batch, message = entry
            self.bytes_waiting -= len(message)
            self.next_number += len(batch.chunks)
            results = wire.load(memoryview(message)[wire_header_size:])
            for chunk, each in zip(batch.chunks, results, strict=True):
                yield Done(chunk, each)

    def __iter__(self) -> Iterator[Done]:
        while True:
            self.feed()
            busy = {w.conn: w for w in self.pool.workers if w.outstanding}
            if not busy:
                return
            for conn in wait(list(busy)):
                self.receive(busy[conn])  # type: ignore[index]
            self.feed()
            yield from self.ready()


def wire_header(message: bytes) -> tuple[bool, float]:
    """Return whether a worker's answer carries results, and the seconds it took."""
    from .worker import HEADER

    ok, seconds = HEADER.unpack_from(message)
    return bool(ok), float(seconds)


wire_header_size = 9


class ProcessEngine:
    """Runs chunks in ``n`` worker processes of this machine.

    The operation and its arguments go to each worker once, tiny chunks travel together, results wait as pickles and
    only up to a bound. A worker that is killed costs the chunk it had in hand, nothing else.
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def run(self, task: Task, chunks: Iterator[Chunk]) -> Iterator[Done]:
        """Yield the chunks in order; see ``Engine``."""
        first = next(chunks, None)
        if first is None:
            return
        pool = borrow_pool(self.n, task)
        good = False
        try:
            yield from _Run(pool, task, _chained(first, chunks))
            good = True
        finally:
            return_pool(pool, good=good)


def _chained(first: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from rest


def announce(name: str, n: int, size: int) -> None:
    """Say on stderr how an operation is going to run."""
    sys.stderr.write(
        f"Running {name} with num_python_subprocesses={n}, num_inputs_per_python_subprocess={size}\n"
    )
