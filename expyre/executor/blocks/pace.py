"""When the next round is, and when the queue is asked."""

from __future__ import annotations

import time

__all__ = ["Pace"]

_SLOWEST = {False: 1.0, True: 2.0}  # seconds between two rounds, on this machine and over a network
_HEARTBEAT = 30.0  # seconds between two rounds when there is nothing to do, which tell workers that the script lives
_LONGEST = 60.0  # seconds before another try after a failure


class Pace:
    """Says for how long to wait.

    Parameters
    ----------
    fastest
        Least time between two rounds, in s.
    lease
        Time in s after which workers end that hear nothing of the script.
    poll_range
        Least and longest time between two questions to the queue, in s.
    far
        Whether rounds cross a network.

    Attributes
    ----------
    last_looks
        Seconds between two questions to the queue when all workers are about to end.
    """

    def __init__(self, fastest: float, lease: float, poll_range: tuple[float, float], *, far: bool) -> None:
        self.fastest = fastest
        self.last_looks = max(fastest, poll_range[0] / 4)
        self._heartbeat = min(_HEARTBEAT, lease / 4)
        self._slowest = max(fastest, _SLOWEST[far])
        self._poll_range = poll_range
        self._delay = fastest
        self._trouble = 0.0
        self._next = 0.0
        self._ask_delay = max(poll_range[0], fastest)
        self._ask_at = 0.0

    def left(self, busy: bool, staffed: bool) -> float | None:
        """Return for how many seconds there is nothing to do; None for ever.

        Parameters
        ----------
        busy, staffed
            Whether there are calls; whether there are workers.
        """
        if not busy and not staffed:
            return None
        due = self._next if busy else max(self._next, time.monotonic() + self._heartbeat)
        return max(0.0, due - time.monotonic())

    def hurry(self) -> None:
        """Have the next rounds follow fast."""
        self._delay = self.fastest

    def looked(self, seconds: float, moved: bool) -> None:
        """Take note of a round that took so long, and of whether anything was new."""
        self._trouble = 0.0
        self._delay = self.fastest if moved else min(self._delay * 1.2, self._slowest)
        self._next = time.monotonic() + max(self._delay, seconds)

    def failed(self) -> float:
        """Take note of a round that failed; return in how many seconds the next one is."""
        self._trouble = min(max(1.0, 2 * self._trouble), _LONGEST)
        self._next = time.monotonic() + self._trouble
        return self._trouble

    def is_time_to_look(self) -> bool:
        """Return whether the queue may be asked again."""
        return time.monotonic() >= self._ask_at

    def look_soon(self) -> None:
        """Have the queue be asked soon: something has happened."""
        self._ask_delay = max(self._poll_range[0], self.fastest)
        self._ask_at = min(self._ask_at, time.monotonic() + self._ask_delay)

    def asked(self, seconds: float, moved: bool) -> None:
        """Take note of a question to the queue that took so long, and of whether anything was new."""
        if moved:
            self.look_soon()
        else:
            self._ask_delay = min(self._ask_delay * 1.5, max(self._poll_range[1], self.fastest))
        self._ask_at = time.monotonic() + max(self._ask_delay, 4 * seconds)
