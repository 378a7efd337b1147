"""Results come as they are finished; here they wait until those before them are there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ..batching import AdaptiveSize, Chunks, Keeper
from ..deadline import Guard
from ..task import Chunk
from . import wire
from .base import Done
from .costs import Costs
from .here import copy_calls

__all__ = ["Batch", "Batches", "InOrder"]

# Finished results wait as pickles, until those before them are there; beyond this nothing new is given out.
_MOST_BYTES_WAITING = 256 * 1024**2
# What has taken less than this may be done again after a crash.
_CHEAP_SECONDS = 0.02


class Batch:
    """A chunk on its way to a worker, pickled.

    Attributes
    ----------
    chunk
        The chunk, without its items.
    data
        Its items and their information.
    parent
        Seconds of CPU time that this process has spent on it.
    op, pickles
        Seconds that it took in the operation, and of CPU time for pickles in the worker.
    """

    def __init__(self, chunk: Chunk, name: str) -> None:
        start = time.thread_time()
        self.chunk = chunk
        self.op = self.pickles = 0.0
        self.data = wire.dump_values(
            (chunk.first, chunk.values, chunk.infos), where=f"{chunk.items} of the input of {name}"
        )
        chunk.values, chunk.infos = [], None
        self.parent = time.thread_time() - start

    def split(self, size: int, name: str) -> list[Batch]:
        """Return a batch for each call of the operation, with ``size`` items."""
        _, values, infos = wire.load_back(self.data)
        paths, first = self.chunk.paths, self.chunk.first
        return [
            Batch(Chunk(first + i, paths[i : i + size], values[i : i + size], infos and infos[i : i + size]), name)
            for i in range(0, len(paths), size)
        ]


class InOrder:
    """Puts the results of batches, and failed chunks, in the order of the chunks."""

    def __init__(self, first: int = 0, keeper: Keeper | None = None, costs: Costs | None = None) -> None:
        self._costs = costs
        self._keeper = keeper
        self._finished: dict[int, tuple[Batch, bytes] | Done] = {}
        self._bytes = 0
        self._next = first

    @property
    def full(self) -> bool:
        """Whether so many results are waiting that no more should be computed."""
        return self._bytes > _MOST_BYTES_WAITING

    def add(self, batch: Batch, data: bytes, seconds: float) -> None:
        """Take the pickled results of a batch that took so many seconds; a costly one that has to wait is kept."""
        if self._keeper is not None and batch.chunk.first != self._next and seconds > _CHEAP_SECONDS:
            self._keeper.keep(batch.chunk, wire.load_back(data))
        self._bytes += len(data)
        self._finished[batch.chunk.first] = (batch, data)

    def add_done(self, done: Done) -> None:
        """Take a chunk that has failed, or whose results were there before."""
        self._finished[done.chunk.first] = done

    def ready(self) -> Iterator[Done]:
        """Yield what is finished and whose predecessors have all been yielded."""
        while (entry := self._finished.pop(self._next, None)) is not None:
            if not isinstance(entry, Done):
                batch, data = entry
                self._bytes -= len(data)
                entry = Done(batch.chunk, self._load(batch, data))
            self._next += len(entry.chunk.paths)
            yield entry

    def rest(self) -> Iterator[Done]:
        """Yield all that is finished, also what comes after something that is not and will not be."""
        for first in sorted(self._finished):
            self._next = first
            yield from self.ready()

    def _load(self, batch: Batch, data: bytes) -> list[Any]:
        start = time.thread_time()
        results: list[Any] = wire.load_back(data)
        if self._costs is not None:
            parent = batch.parent + time.thread_time() - start
            self._costs.learn_there(len(batch.chunk.paths), parent, batch.op, batch.pickles)
        return results


class Batches:
    """Makes batches of the incoming items, as large as suits their cost."""

    def __init__(self, name: str, chunks: Chunks, order: InOrder) -> None:
        self._order = order
        self._name = name
        self._chunks = chunks
        self._size = AdaptiveSize()
        self.put_back: list[Batch] = []

    @property
    def items_per_call(self) -> int:
        """Items per call of the operation."""
        return self._chunks.size

    def learn(self, n: int, seconds: float) -> None:
        """Take in how long a batch, or chunk, of ``n`` items took."""
        calls = -(-n // self._chunks.size)
        self._size.learn(calls, seconds)
        if self.guard is not None:
            self.guard.learn(calls, seconds)

    def take(self, room: bool) -> Batch | None:
        """Return a batch that was put back, else a new one if there is room; None if there is none, or no time."""
        if self.put_back and self._chunks.open:
            return self.put_back.pop(0)
        while room and (chunk := self.take_chunk()) is not None:
            if chunk.results is None:
                return self.pack(chunk)
            self._order.add_done(Done(chunk, chunk.results))
        return None

    @property
    def guard(self) -> Guard | None:
        """What keeps the work within the time of a job."""
        return self._chunks.guard

    def take_chunk(self) -> Chunk | None:
        """Return the next items, not pickled; None if there are none."""
        return self._chunks.take(self._size.size)

    def pack(self, chunk: Chunk) -> Batch:
        """Pickle a chunk; an item that is in two calls arrives as two, as if the calls were sent one by one."""
        values = chunk.values
        if len(values) > self._chunks.size and len(set(map(id, values))) < len(values):
            chunk.values = copy_calls(values, self._chunks.size, where=f"{chunk.items} of the input of {self._name}")
        return Batch(chunk, self._name)
