"""Looks at one system by one process: one at a time, no faster than its queue likes, and each good for all who wait."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager

__all__ = ["Turns"]

_ALL: weakref.WeakSet[Turns] = weakref.WeakSet()


class Turns:
    """Who looks at a system, and when somebody did so last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = self._begun = self._seen_at = float("-inf")
        self._seen: frozenset[str] = frozenset()
        _ALL.add(self)

    @contextmanager
    def turn(self, job_ids: Collection[str], pause: float, fresh: float = 0.0) -> Iterator[bool]:
        """Wait for one's turn; give whether a look is still needed, and has to be taken inside of the block.

        Parameters
        ----------
        job_ids
            The jobs to look at.
        pause
            Seconds from the end of one look to the begin of the next.
        fresh
            How many seconds before now a look may have begun to be as good as one's own.
        """
        since = time.monotonic() - fresh
        with self._lock:
            if self._seen_at >= since and self._seen.issuperset(job_ids):
                yield False
                return
            time.sleep(max(0.0, self._over + pause - time.monotonic()))
            self._begun = time.monotonic()
            try:
                yield True
            finally:
                self._over = time.monotonic()

    def saw(self, job_ids: Collection[str]) -> None:
        """Take note, inside of the block, that the look was a success, and at which jobs it was."""
        self._seen_at, self._seen = self._begun, frozenset(job_ids)

    def forked(self) -> None:
        """Forget, in a forked child, who was looking in its parent."""
        self._lock = threading.Lock()


def _forked() -> None:
    for turns in list(_ALL):
        turns.forked()


os.register_at_fork(after_in_child=_forked)
