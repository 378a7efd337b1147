"""Jobs with a time limit: what is still begun, when what runs is given up, and what comes back all the same."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from expyre.node.family import descendants, end_tree
from expyre.node.runner import time_left

from .task import describe_places

__all__ = ["UNFINISHED", "Guard", "PartialResults", "TimeIsUp", "guard_of_job", "results_of"]

T = TypeVar("T")

UNFINISHED: Final = object()
"""Takes the place of the result of an item that is not finished."""

_REMEMBERED = 50


class TimeIsUp(BaseException):
    """Raised inside an operation that is given up; no error, so that operations do not handle it as one."""


@dataclass(frozen=True)
class PartialResults:
    """What a job brings back that had no time for all of its items.

    Attributes
    ----------
    total
        Number of items of the job.
    results
        The result of each finished item, by its place among the items of the job.
    """

    total: int
    results: dict[int, Any]

    def __repr__(self) -> str:
        return f"<PartialResults: {len(self.results)} of {self.total}; unfinished: {describe_places(self.unfinished)}>"

    @property
    def unfinished(self) -> list[int]:
        """The places of the items that are not finished."""
        return [i for i in range(self.total) if i not in self.results]


def results_of(found: Sequence[Any], total: int) -> list[Any] | PartialResults:
    """Return results by item as they are if all are there, otherwise those that are."""
    finished = {i: result for i, result in enumerate(found) if result is not UNFINISHED}
    return list(found) if len(finished) == total else PartialResults(total, finished)


class Guard:
    """Keeps the work of a job within its time.

    While nothing is finished everything goes on until the queue ends the job, since there is nothing to save. After
    that no call of the operation is begun that will probably not be done in time, and once the time is up what runs
    is given up.

    Parameters
    ----------
    left
        Returns how many seconds are left.
    """

    def __init__(self, left: Callable[[], float]) -> None:
        self._left = left
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._inside = False
        self._bystanders: frozenset[int] = frozenset()  # processes that are there before the work begins

    @property
    def expected(self) -> float | None:
        """How many seconds a call of the operation will probably take; None while none is finished."""
        return statistics.median(self._times) if self._times else None

    def learn(self, calls: int, seconds: float) -> None:
        """Take in that ``calls`` finished calls took ``seconds`` seconds."""
        self._times.append(seconds / max(1, calls))

    def allows(self) -> bool:
        """Return whether another call may begin."""
        expected = self.expected
        return expected is None or self._left() > expected

    def patience(self) -> float | None:
        """Return for how many seconds to wait for what runs; None without end."""
        return max(0.0, self._left()) if self._times else None

    def is_over(self) -> bool:
        """Return whether what runs is to be given up."""
        return bool(self._times) and self._left() <= 0

    def run(self, work: Callable[[], T]) -> T | None:
        """Return what work in this process returns; None if it was given up."""
        try:
            try:
                self._inside = True
                return work()
            finally:
                self._inside = False
        except TimeIsUp:
            self._kill_children()
            return None

    def run_timed(self, call: Callable[[], T]) -> T | None:
        """Do the same with a call of the operation, and take in how long it took."""
        start = time.perf_counter()
        found = self.run(call)
        if found is not None:
            self.learn(1, time.perf_counter() - start)
        return found

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Interrupt work in this process when the time is up, where the system allows that."""
        previous = _replace_handler(self._bell)
        if previous is None:
            yield
            return
        self._bystanders = frozenset(descendants(os.getpid()))
        try:
            signal.setitimer(signal.ITIMER_REAL, min(max(self._left(), 0.001), 1e9))
            yield
        finally:
            signal.signal(signal.SIGALRM, previous)

    def _kill_children(self) -> None:
        """End what the given up work has started, and nothing that was there before it."""
        end_tree(os.getpid(), itself=False, spare=self._bystanders)

    def _bell(self, previous: Any) -> Callable[[int, Any], None]:
        def ring(number: int, frame: Any) -> None:
            if callable(previous):
                previous(number, frame)
            if self._inside and self._times:
                raise TimeIsUp

        return ring


def _replace_handler(make: Callable[[Any], Callable[[int, Any], None]]) -> Any:
    """Put a handler of SIGALRM in front of the present one and return that; None where that is not possible.

    An alarm that somebody else has set for a purpose of their own is left alone.
    """
    try:
        previous = signal.getsignal(signal.SIGALRM)
        if previous is signal.SIG_DFL or hasattr(previous, "of_the_time_limit"):
            signal.signal(signal.SIGALRM, make(previous))
            return previous
    except (ValueError, AttributeError):  # not in the main thread; not on this system
        pass
    return None


def guard_of_job() -> Guard | None:
    """Return the guard of the job that this process is; None if it is none or has no time limit."""
    if time_left() is None:
        return None
    return Guard(lambda: _or_infinite(time_left()))


def _or_infinite(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
