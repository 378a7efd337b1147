"""Which calls go to which workers, and when a worker is needed: a worker for each call, or workers that stay."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Protocol

from expyre.executor.calls import Call
from expyre.executor.workers.places import Place
from expyre.executor.workers.settings import Settings
from expyre.executor.workers.worker import Worker

__all__ = ["Block", "PerCall", "Staffing"]

_LOOK_AHEAD = 200  # calls among which one is looked for that fits
_PATIENCE = 5.0  # seconds for which calls that fit may overtake one that does not
_STUCK = 0.02  # seconds after which calls are taken back from behind one that is not done
_WORK_AHEAD = 0.004  # seconds of work that a worker has waiting
_SHORT = 0.01  # seconds; behind a call that is shorter one at least waits, or the way there and back would be felt
_MOST_AHEAD = 64

Hire = Callable[[Place, Call | None], Worker | None]
Give = Callable[[Worker, Call], None]


class Staffing(Protocol):
    """Decides on workers and calls."""

    def feed(self, ready: deque[Call], workers: Collection[Worker], hire: Hire, give: Give) -> None:
        """Take calls from the left of ``ready`` for which there are workers, or can be."""
        ...

    def learn(self, seconds: float) -> None:
        """Take in how long a call took."""
        ...

    def patience(self, ready: deque[Call], workers: Collection[Worker]) -> float | None:
        """Return after how many seconds to look again though nothing has happened; None: never."""
        ...


class PerCall:
    """A new worker for each call."""

    def __init__(self, settings: Settings) -> None:
        self._machine = settings.machine
        self._most = settings.max_workers
        self._overtaken: tuple[int, float] = (0, 0.0)  # the first call in the line, and since when others overtake it

    def feed(self, ready: deque[Call], workers: Collection[Worker], hire: Hire, give: Give) -> None:
        """Hire a worker for each call for which there is a place, in order as far as they fit."""
        free = self._most - len(workers)
        while ready and free > 0:
            found = self._next(ready)
            if found is None:
                return
            call, place = found
            if not call.begin():
                self._machine.take_back(place)
            elif hire(place, call) is not None:
                free -= 1

    def _next(self, ready: deque[Call]) -> tuple[Call, Place] | None:
        first = ready[0].number
        for index, call in enumerate(islice(ready, _LOOK_AHEAD)):
            place = self._machine.give(call.request)
            if place is not None:
                del ready[index]
                if index and self._overtaken[0] != first:
                    self._overtaken = (first, time.monotonic())
                return call, place
            if index == 0 and self._overtaken[0] == first and time.monotonic() - self._overtaken[1] > _PATIENCE:
                return None
        return None

    def learn(self, seconds: float) -> None:
        """Take in how long a call took."""

    def patience(self, ready: deque[Call], workers: Collection[Worker]) -> float | None:
        """Return that nothing is decided by time alone."""
        return None


class Block:
    """Workers that stay, each of which has calls waiting if these are short.

    How many wait is decided by how long calls took, so that a worker does not wait for messages between two of them. If
    one turns out to be long, those behind it go back to the line as soon as there is somebody else for them.
    """

    def __init__(self, settings: Settings) -> None:
        self._machine = settings.machine
        self._request = settings.request
        self._most = settings.max_workers
        self._ahead = settings.launcher.gives_packets(settings.request)
        self._mean: float | None = None

    @property
    def _depth(self) -> int:
        """How many calls a worker may have, the running one included."""
        if self._mean is None or not self._ahead:
            return 1
        return max(2 if self._mean < _SHORT else 1, min(_MOST_AHEAD, int(_WORK_AHEAD / max(self._mean, 1e-6))))

    def learn(self, seconds: float) -> None:
        """Take in how long a call took."""
        self._mean = seconds if self._mean is None else 0.9 * self._mean + 0.1 * seconds

    def feed(self, ready: deque[Call], workers: Collection[Worker], hire: Hire, give: Give) -> None:
        """Give calls to workers, as evenly as possible; hire more if there are calls for them."""
        able = [worker for worker in workers if worker.able]
        if not ready:
            self._relieve(ready, workers, able)
        if ready and able:
            self._hand_out(ready, able, give)
        coming = len(workers) - len(able)
        for _ in range(min(len(ready) - coming, self._most - len(workers))):
            place = self._machine.give(self._request)
            if place is None or hire(place, None) is None:
                return

    def _hand_out(self, ready: deque[Call], able: list[Worker], give: Give) -> None:
        under_way = sum(len(worker.calls) for worker in able)
        even = -(-(under_way + len(ready)) // max(len(able), min(self._most, len(able) + len(ready))))
        stuck = time.monotonic() - _STUCK
        for target in sorted({1, max(1, min(self._depth, even))}):
            for worker in able if target == 1 else [each for each in able if each.since > stuck]:
                while ready and len(worker.calls) < target:
                    call = ready.popleft()
                    if call.begin():
                        give(worker, call)

    def _relieve(self, ready: deque[Call], workers: Collection[Worker], able: list[Worker]) -> None:
        """Take back calls that wait behind a long one while somebody else has nothing to do."""
        if not self._somebody_is_free(workers, able):
            return
        now = time.monotonic()
        for worker in self._loaded(able):
            if now - worker.since > _STUCK:
                ready.extend(worker.take_back())
                self._mean = max(self._mean or 0.0, now - worker.since)

    def _somebody_is_free(self, workers: Collection[Worker], able: list[Worker]) -> bool:
        return len(workers) < self._most or any(not worker.calls for worker in able)

    def _loaded(self, able: list[Worker]) -> Iterator[Worker]:
        return (worker for worker in able if len(worker.calls) > 1)

    def patience(self, ready: deque[Call], workers: Collection[Worker]) -> float | None:
        """Return when to see whether a worker is stuck with calls that others could take."""
        able = [worker for worker in workers if worker.able]
        if ready or not self._somebody_is_free(workers, able):
            return None
        return _STUCK if any(self._loaded(able)) else None
