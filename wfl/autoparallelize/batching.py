"""Cutting the input into chunks, and how many tiny calls travel together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Protocol

from .deadline import Guard
from .rng import InfoSource
from .task import Chunk

__all__ = ["AdaptiveSize", "Chunks", "Keeper"]

_TARGET_SECONDS = 0.02
_MOST_CALLS = 2048


class _Item(Protocol):
    @property
    def path(self) -> tuple[int, ...] | None: ...
    @property
    def value(self) -> Any: ...


class Keeper(Protocol):
    """Keeps results that are there before those of the items before them."""

    def has(self, index: int) -> bool:
        """Return whether an item's result is there from an interrupted run."""
        ...

    def pop(self, index: int) -> Any:
        """Return it."""
        ...

    def keep(self, chunk: Chunk, results: list[Any]) -> None:
        """Take the results of a chunk that has to wait for others."""
        ...


class Chunks:
    """Cuts a stream of items into chunks, reading it only as far as chunks are asked for.

    Parameters
    ----------
    items
        The items.
    size
        Items per call of the operation.
    source
        Gives their information.
    first
        Number of the first of them over the whole input.
    keeper
        Has results from an interrupted run, and takes those that have to wait in this one.
    own_values
        Whether nobody else has the items, so that they may be changed.
    guard
        Keeps the work within the time of a job.
    """

    def __init__(
        self,
        items: Iterator[_Item],
        size: int,
        source: InfoSource,
        first: int = 0,
        keeper: Keeper | None = None,
        *,
        own_values: bool = False,
        guard: Guard | None = None,
    ) -> None:
        self._items = items
        self.size = size
        self._source = source
        self.position = first
        self.keeper = keeper
        self.own_values = own_values
        self.guard = guard

    @property
    def open(self) -> bool:
        """Whether there is time for more items."""
        return self.guard is None or self.guard.allows()

    def count_all(self) -> int:
        """Return the number of all items, reading those that are left."""
        return self.position + sum(1 for _ in self._items)

    @property
    def own_infos(self) -> bool:
        """Whether the information of the items is made here, not the caller's."""
        return not self._source.given

    def take(self, calls: int = 1) -> Chunk | None:
        """Return the items of the next so many calls of the operation, None if there is no item, or no time for one.

        A chunk of items whose results are there has them.
        """
        if not self.open:
            return None
        batch, results = self._read(calls * self.size)
        if not batch:
            return None
        n = len(batch)
        chunk = Chunk(self.position, [i.path for i in batch], [i.value for i in batch])
        self.position += n
        if results is None:
            chunk.infos = self._source.take(n)
        else:
            self._source.skip(n)
            chunk.results = results
        return chunk

    def _read(self, most: int) -> tuple[list[_Item], list[Any] | None]:
        if self.keeper is None:
            return list(islice(self._items, most)), None
        batch: list[_Item] = []
        for item in self._items:
            if self.keeper.has(self.position + len(batch)):
                if not batch:
                    return [item], [self.keeper.pop(self.position)]
                self._items = chain([item], self._items)
                return batch, None
            batch.append(item)
            if len(batch) == most:
                break
        return batch, None


class AdaptiveSize:
    """For how many calls of the operation to send items to a worker in one message.

    One while nothing is known or calls take long; as many as fill some hundredths of a second for tiny ones, so that
    the cost of a message is spread, the end of a run stays balanced and expensive calls never wait for each other.
    """

    def __init__(self) -> None:
        self.size = 1
        self._seconds: float | None = None

    def learn(self, calls: int, seconds: float) -> None:
        """Take in that ``calls`` calls took ``seconds`` seconds in a worker."""
        each = seconds / max(1, calls)
        self._seconds = each if self._seconds is None else 0.5 * (self._seconds + each)
        fitting = int(_TARGET_SECONDS / max(self._seconds, 1e-9))
        self.size = max(1, min(fitting, 16 * self.size, _MOST_CALLS))
