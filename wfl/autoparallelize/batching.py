"""Cutting the input into chunks, and how many tiny calls travel together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

from .rng import InfoSource
from .task import Chunk

__all__ = ["AdaptiveSize", "Chunks"]

_TARGET_SECONDS = 0.02
_MOST_CALLS = 2048


class _Item(Protocol):
    @property
    def path(self) -> tuple[int, ...] | None: ...
    @property
    def value(self) -> Any: ...


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
    """

    def __init__(self, items: Iterator[_Item], size: int, source: InfoSource, first: int = 0) -> None:
        self._items = items
        self.size = size
        self._source = source
        self.position = first

    def take(self, calls: int = 1) -> Chunk | None:
        """Return the items of the next so many calls of the operation, None if there is no item."""
        batch = list(islice(self._items, calls * self.size))
        if not batch:
            return None
        n = len(batch)
        chunk = Chunk(self.position, [i.path for i in batch], [i.value for i in batch], self._source.take(n))
        self.position += n
        return chunk


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
        self.size = max(1, min(fitting, 8 * self.size, _MOST_CALLS))
