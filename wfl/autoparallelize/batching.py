"""Cutting the input into chunks, and how many chunks of tiny items travel together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

from .rng import InfoSource
from .task import Chunk

__all__ = ["AdaptiveSize", "make_chunks"]

_TARGET_SECONDS = 0.02
_MOST_CHUNKS = 2048


class _Item(Protocol):
    @property
    def path(self) -> tuple[int, ...] | None: ...
    @property
    def value(self) -> Any: ...


def make_chunks(
    items: Iterator[_Item], size: int, source: InfoSource, *, first: int = 0, first_number: int = 0
) -> Iterator[Chunk]:
    """Yield chunks of up to ``size`` items, reading the input only as far as chunks are asked for."""
    number = first_number
    while batch := list(islice(items, size)):
        yield Chunk(number, first, [i.path for i in batch], [i.value for i in batch], source.take(len(batch)))
        number += 1
        first += len(batch)


class AdaptiveSize:
    """How many chunks to send to a worker in one message.

    One while nothing is known or chunks take long; as many as fill some hundredths of a second for tiny ones, so that
    the cost of a message is spread, the end of a run stays balanced and expensive chunks never wait for each other.
    """

    def __init__(self) -> None:
        self.size = 1
        self._seconds: float | None = None

    def learn(self, chunks: int, seconds: float) -> None:
        """Take in that ``chunks`` chunks took ``seconds`` seconds in a worker."""
        each = seconds / max(1, chunks)
        self._seconds = each if self._seconds is None else 0.5 * (self._seconds + each)
        fitting = int(_TARGET_SECONDS / max(self._seconds, 1e-9))
        self.size = max(1, min(fitting, 8 * self.size, _MOST_CHUNKS))
