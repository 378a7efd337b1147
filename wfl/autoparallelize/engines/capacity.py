"""How many calls an executor can carry at a time: by that the work in flight is bounded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from .base import number_of_cores

__all__ = ["Capacity", "number_of_workers"]

_SECONDS_BETWEEN_LOOKS = 1.0


class Capacity:
    """The number of workers of an executor, looked at again from time to time: clusters grow and shrink.

    Attributes
    ----------
    workers
        The number at the last look.
    """

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.workers = number_of_workers(executor)
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS

    def now(self) -> int:
        """Return the number of workers."""
        if time.monotonic() > self._next_look:
            self.workers = number_of_workers(self._executor)
            self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return self.workers


def number_of_workers(executor: Any) -> int:
    """Return how many calls an executor can run at a time, as far as it can be known; at least 1.

    What has no worker yet, as a cluster whose jobs are queued, is taken for one with as many as there are cores here.
    """
    for find in (_pool, _dask, _parsl):
        with contextlib.suppress(Exception):  # it is told by attributes that differ between versions
            number = find(executor)
            if number > 0:
                return number
    return number_of_cores()


def _pool(executor: Any) -> int:
    """Return the number of workers of pools of the standard library, loky, mpi4py and expyre."""
    for name in ("_max_workers", "num_workers", "max_workers"):
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    return 0


def _dask(executor: Any) -> int:
    """Return the number of threads of all workers that a Dask client has now."""
    return sum(executor._client.nthreads().values())


def _parsl(executor: Any) -> int:
    """Return the number of workers of Parsl: those that may come when all blocks run, or more if there are more."""
    return sum(_parsl_workers(each) for each in _parsl_executors(executor))


def _parsl_executors(pool: Any) -> Iterator[Any]:
    kernel = getattr(pool, "_dfk", None) or pool.dfk
    wanted = getattr(pool, "executors", "all")
    for label, executor in kernel.executors.items():
        if label in wanted if wanted != "all" else label != "_parsl_internal":
            yield executor


def _parsl_workers(executor: Any) -> int:
    if hasattr(executor, "max_threads"):
        return int(executor.max_threads)
    provider, there = executor.provider, 0
    with contextlib.suppress(Exception):  # not of all kinds, and not while it does not answer
        there = sum(manager["worker_count"] for manager in executor.connected_managers())
    return max(there, int(provider.max_blocks * provider.nodes_per_block * executor.workers_per_node))
