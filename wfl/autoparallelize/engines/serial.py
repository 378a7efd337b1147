"""The engine that works in this process."""

from __future__ import annotations

from collections.abc import Iterator

from ..batching import Chunks
from ..task import Task
from .base import Done

__all__ = ["SerialEngine"]


class SerialEngine:
    """Calls the operation here, chunk by chunk; items of lists are handed over as they are."""

    def run(self, task: Task, chunks: Chunks) -> Iterator[Done]:
        """Yield each chunk as it has been worked on; see ``Engine``."""
        task.initialize()
        while (chunk := chunks.take()) is not None:
            if chunk.results is not None:
                yield Done(chunk, chunk.results)
                continue
            yield Done(chunk, task.run(chunk.first, chunk.values, chunk.infos))
