"""Work that is too small to be sent to workers is done in this process, with what a worker would have been sent."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from expyre.util import no_collection

from ..task import Chunk, Task
from . import wire
from .base import Done

__all__ = ["Here", "copy_calls", "inside_operation"]

inside_operation: ContextVar[bool] = ContextVar("inside_operation", default=False)
"""Whether an operation runs in place of a worker; operations that it calls make no pools then."""

_LONGEST = 0.1  # seconds after which the rest of a chunk is given to the workers after all


def copy_calls(values: list[Any], size: int, *, where: str) -> list[Any]:
    """Return copies of the items of several calls; an item that is in two calls becomes two."""
    if len(values) <= size or len(set(map(id, values))) == len(values):
        return wire.copy_values(values, where=where)
    calls = (values[i : i + size] for i in range(0, len(values), size))
    return [copy for call in calls for copy in wire.copy_values(call, where=where)]


class Here:
    """Stands in for a worker: items and arguments are copies, random numbers at large are its own.

    Parameters
    ----------
    blob
        The pickled task.
    own_values, own_infos
        Whether the items, or their information, were made for this call, so that no copies are needed.
    """

    def __init__(self, blob: bytes, *, own_values: bool, own_infos: bool) -> None:
        self._task: Task = wire.load_back(blob)
        self._own_values, self._own_infos = own_values, own_infos
        self._random: list[Any] | None = None
        self.copying = self.seconds = 0.0

    def work(self, chunk: Chunk) -> tuple[Done, Chunk | None]:
        """Return the chunk with its results, and what is left of it if that took unexpectedly long."""
        task, start = self._task, time.thread_time()
        where = f"{chunk.items} of the input of {task.name}"
        values, infos = chunk.values, chunk.infos
        if not self._own_values:
            with no_collection():
                values = copy_calls(values, task.size, where=where)
        if infos is not None and not self._own_infos:
            infos = wire.load_back(wire.dump_values(infos, where=where))
        self.copying = time.thread_time() - start
        with self._in_place_of_a_worker():
            start = time.perf_counter()
            end = start + _LONGEST
            results = task.run(chunk.first, values, infos, lambda _: time.perf_counter() > end)
            self.seconds = time.perf_counter() - start
        chunk.values, chunk.infos = [], None
        n = len(results)
        if n == len(values):
            return Done(chunk, results), None
        rest = Chunk(chunk.first + n, chunk.paths[n:], values[n:], infos and infos[n:])
        return Done(Chunk(chunk.first, chunk.paths[:n], []), results), rest

    @contextlib.contextmanager
    def _in_place_of_a_worker(self) -> Iterator[None]:
        """Keep the state of the global random generators of the operation and of the script apart."""
        token = inside_operation.set(True)
        outside = _random_state()
        _set_random_state(self._random or outside)
        try:
            yield
        finally:
            self._random = _random_state()
            _set_random_state(outside)
            inside_operation.reset(token)


def _random_state() -> list[Any]:
    numpy_random = sys.modules.get("numpy.random")
    return [random.getstate(), numpy_random and numpy_random.get_state()]


def _set_random_state(state: list[Any]) -> None:
    random.setstate(state[0])
    if state[1] is not None:
        sys.modules["numpy.random"].set_state(state[1])
