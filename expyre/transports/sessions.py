"""How many commands a connection takes at once, learned from what it refuses."""

from __future__ import annotations

import threading
import time

__all__ = ["Sessions"]

# A session may go on being counted for a moment after its command has ended.
_LONGEST_REFUSAL = 30.0


class Sessions:
    """Counts the sessions of a connection.

    Parameters
    ----------
    limit
        How many to try at first.
    """

    def __init__(self, limit: int = 8) -> None:
        self._limit = limit
        self._open = 0
        self._changed = threading.Condition()
        self._refused_since: float | None = None

    def enter(self) -> None:
        """Wait until there is room for one more session and take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._open < self._limit)
            self._open += 1

    def leave(self) -> None:
        """Take note that a session has ended."""
        with self._changed:
            self._open -= 1
            self._changed.notify()

    def accepted(self) -> None:
        """Take note that the connection takes sessions."""
        self._refused_since = None

    def refused(self) -> bool:
        """Take note that a session, yet to be left, was refused; tell whether there is hope for another try."""
        now = time.monotonic()
        with self._changed:
            others = self._open - 1
            self._limit = max(1, min(self._limit, others))
        if others:
            return True
        self._refused_since = self._refused_since or now
        time.sleep(0.02)
        return now - self._refused_since < _LONGEST_REFUSAL
