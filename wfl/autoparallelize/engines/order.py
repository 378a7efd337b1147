"""Results come as they are finished; here they wait until those before them are there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ..batching import AdaptiveSize
from ..task import Chunk
from . import wire
from .base import Done

__all__ = ["Batch", "Batches", "InOrder"]

# Finished results wait as pickles, until those before them are there; beyond this nothing new is given out.
_MOST_BYTES_WAITING = 256 * 1024**2


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


class InOrder:
    """Puts the results of batches, and failed chunks, in the order of the chunks."""

    def __init__(self) -> None:
        self._finished: dict[int, tuple[Batch, bytes] | Done] = {}
        self._bytes = 0
        self._next = 0

    @property
    def full(self) -> bool:
        """Whether so many results are waiting that no more should be computed."""
        return self._bytes > _MOST_BYTES_WAITING

    def add(self, batch: Batch, data: bytes) -> None:
        """Take the pickled results of a batch."""
        self._bytes += len(data)
        self._finished[batch.chunks[0].number] = (batch, data)

    def add_failed(self, done: Done) -> None:
        """Take a chunk that has failed."""
        self._finished[done.chunk.number] = done

    def ready(self) -> Iterator[Done]:
        """Yield what is finished and whose predecessors have all been yielded."""
        while (entry := self._finished.pop(self._next, None)) is not None:
            if isinstance(entry, Done):
                self._next += 1
                yield entry
                continue
            batch, data = entry
            self._bytes -= len(data)
            self._next += len(batch.chunks)
            for chunk, results in zip(batch.chunks, wire.load(data), strict=True):
                yield Done(chunk, results)


class Batches:
    """Makes batches of the incoming chunks, as large as suits their cost."""

    def __init__(self, name: str, chunks: Iterator[Chunk]) -> None:
        self._name = name
        self._chunks = chunks
        self._size = AdaptiveSize()
        self.put_back: list[Batch] = []

    def learn(self, batch: Batch, seconds: float) -> None:
        """Take in how long a batch took."""
        self._size.learn(len(batch.chunks), seconds)

    def take(self, room: bool) -> Batch | None:
        """Return a batch that was put back, else a new one if there is room; None if there is none."""
        if self.put_back:
            return self.put_back.pop(0)
        chunks: list[Any] = list(islice(self._chunks, self._size.size)) if room else []
        return Batch(chunks, self._name) if chunks else None
