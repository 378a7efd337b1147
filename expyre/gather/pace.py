"""How fast rounds follow each other, and how long each job is waited for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from expyre.jobsdb import JobRow
from expyre.launch import waits_for_room
from expyre.states import HELD, QUEUED

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.schedulers.base import Scheduler

__all__ = ["Clock", "Pace", "poll_range"]

# Seconds of rest that a slow queue is given at most, unless whoever waits has more patience.
_LONGEST_REST = 30.0
_IN_QUEUE = frozenset({QUEUED, HELD})


class Pace:
    """How long to wait before the next round.

    Parameters
    ----------
    places
        Project and name of the system of each job.
    slowest
        Longest time between two rounds, in s.
    fastest
        Shortest time, in s, if it is longer than that of the systems.
    """

    def __init__(
        self, places: Iterable[tuple[Project, str | None]], slowest: float, fastest: float = 0.0
    ) -> None:
        self._limit = slowest
        self._least = fastest
        self._ranges: dict[tuple[int, str | None], tuple[float, float]] = {}
        self._busy = 0.0
        self._looked_at: float | None = None
        self.add(places)

    def add(self, places: Iterable[tuple[Project, str | None]]) -> None:
        """Take in the places of further jobs, which may be done soon."""
        for project, system in dict.fromkeys(places):
            self._ranges.setdefault((id(project), system), _range_of(project, system))
        ranges = self._ranges.values()
        self.fastest = max(self._least, min((low for low, _ in ranges), default=0.02))
        self.slowest = max(self.fastest, min(self._limit, min((high for _, high in ranges), default=self._limit)))
        self.delay = self.fastest

    def looked(self, seconds: float) -> None:
        """Take note of a look that is over and has kept queue and host busy for so long."""
        self._busy += seconds
        self._looked_at = time.monotonic()

    def rest(self, progressed: bool, at_most: float | None) -> float:
        """Return for how many s to wait now; longer after a look that took long or found nothing."""
        self.delay = max(self.fastest, self.delay / 4) if progressed else min(self.delay * 1.3, self.slowest)
        rest = min(self._busy if progressed else 4 * self._busy, max(self.slowest, _LONGEST_REST))
        delay = max(self.delay, rest)
        if self._looked_at is not None:
            delay -= time.monotonic() - self._looked_at
        self._busy, self._looked_at = 0.0, None
        return max(0.0, delay if at_most is None else min(delay, at_most))


def _range_of(project: Project, system: str | None) -> tuple[float, float]:
    return poll_range(project.systems[system].scheduler if system and system in project.systems else None)


def poll_range(scheduler: Scheduler | None) -> tuple[float, float]:
    """Return the shortest and longest sensible time in s between two looks."""
    found: tuple[float, float] = getattr(scheduler, "poll_range", (1.0, 30.0))
    return found


class Clock:
    """How long each job has been waited for.

    Parameters
    ----------
    timeout
        For how many seconds; None or negative for ever.
    queued_counts
        Whether time in the queue counts.
    """

    def __init__(self, timeout: float | None, queued_counts: bool) -> None:
        self.limit = None if timeout is None or timeout < 0 else timeout
        self.queued_counts = queued_counts
        self._last = time.monotonic()
        self._starts: dict[str, float] = {}
        self._queued: dict[str, float] = {}
        self._over: set[str] = set()

    def start(self, job_ids: Iterable[str]) -> None:
        """Begin to count the time of jobs."""
        self._starts.update(dict.fromkeys(job_ids, time.monotonic()))

    def tick(self, rows: Iterable[JobRow]) -> None:
        """Let the time pass that has passed."""
        now = time.monotonic()
        if not self.queued_counts:
            for row in rows:
                if row.remote_status in _IN_QUEUE or waits_for_room(row):
                    self._queued[row.id] = self._queued.get(row.id, 0.0) + now - self._last
        self._last = now

    def left(self, job_id: str) -> float | None:
        """Return how many seconds a job is still waited for; None for ever."""
        if self.limit is None:
            return None
        return self.limit - (self._last - self._starts[job_id] - self._queued.get(job_id, 0.0))

    def is_over(self, job_id: str) -> bool:
        """Tell whether a job's time is up; it is looked at once more after the time has run out."""
        left = self.left(job_id)
        if left is None or left > 0:
            return False
        last_look_done = self.limit == 0 or job_id in self._over
        self._over.add(job_id)
        return last_look_done
