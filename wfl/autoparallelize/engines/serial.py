"""The engine that works in this process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..batching import Chunks
from ..task import Task
from .base import Done
from .copies import own_copies

__all__ = ["SerialEngine"]


class SerialEngine:
    """Calls the operation here, chunk by chunk, on copies of the caller's configurations as workers would."""

    def run(self, task: Task, chunks: Chunks) -> Iterator[Done]:
        """Yield each chunk as it has been worked on; see ``Engine``."""
        task.initialize()
        guard = chunks.guard
        while (chunk := chunks.take()) is not None:
            if chunk.results is not None:
                yield Done(chunk, chunk.results)
                continue
            values = chunk.values if chunks.own_values else own_copies(chunk.values)
            if guard is None:
                results: list[Any] | None = task.run(chunk.first, values, chunk.infos)
            else:
                results = guard.run_timed(partial(task.run, chunk.first, values, chunk.infos))
            if results is None:
                return
            yield Done(chunk, results)
