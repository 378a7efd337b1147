"""Where items are worked on faster: in workers, which costs pickling them and their results, or in this process."""

from __future__ import annotations

__all__ = ["Costs"]

_ENOUGH_ITEMS = 64
_ENOUGH_SECONDS = 0.005  # of this process's own time spent on shipping
_CLEARLY = 1.15
_COPY = 0.4  # of the time of shipping an item, as long as nothing was copied


class _PerItem:
    """Seconds per item; the last batches count most, and those of many items more than those of few."""

    def __init__(self) -> None:
        self._n = self._seconds = 0.0

    def learn(self, n: int, seconds: float) -> None:
        self._n = 0.5 * self._n + n
        self._seconds = 0.5 * self._seconds + seconds

    @property
    def known(self) -> bool:
        return self._n > 0

    def __float__(self) -> float:
        return self._seconds / self._n if self._n else 0.0


class Costs:
    """Estimates the time per item in workers and in this process, from the times that batches have taken.

    Parameters
    ----------
    workers
        Number of worker processes.
    cores
        Number of cores that they share with this process.
    allowed
        Whether this process may do the work at all.

    Attributes
    ----------
    here
        Whether the next items are better worked on in this process.
    """

    def __init__(self, workers: int, cores: int, *, allowed: bool) -> None:
        self._workers = workers
        self._together = min(cores, workers + 1)
        self._allowed = allowed
        self._op, self._pickles, self._parent, self._copy = (_PerItem() for _ in range(4))
        self._items = 0
        self.here = False

    def learn_there(self, n: int, parent: float, op: float, pickles: float) -> None:
        """Take in what ``n`` items took, in s: CPU time of this process, in the operation, CPU time of the worker."""
        self._parent.learn(n, parent)
        self._pickles.learn(n, pickles)
        self._op.learn(n, op)
        self._items += n
        enough = self._items >= _ENOUGH_ITEMS and self._items * float(self._parent) >= _ENOUGH_SECONDS
        self.here = self._allowed and enough and self._in_pool() > _CLEARLY * self._alone()

    def learn_here(self, n: int, copying: float, op: float) -> None:
        """Take in the seconds that copying ``n`` items and the operation took in this process."""
        self._copy.learn(n, copying)
        self._op.learn(n, op)
        if self._alone() > _CLEARLY * self._in_pool():
            self.go_back()

    def go_back(self) -> None:
        """Use the workers again, for some time at least."""
        self.here, self._items = False, 0

    def forbid(self) -> None:
        """Use the workers, always."""
        self.here = self._allowed = False

    def _alone(self) -> float:
        copying = float(self._copy) if self._copy.known else _COPY * float(self._parent)
        return copying + float(self._op)

    def _in_pool(self) -> float:
        parent, worker = float(self._parent), float(self._pickles) + float(self._op)
        return max(parent, worker / self._workers, (parent + worker) / self._together)
