"""A backend that a thread of its own looks after: other threads only leave it notes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from expyre.executor.calls import Call

__all__ = ["Attended"]


class Attended:
    """Has a thread that is started by the first note; what is in the inbox are calls, and functions to be called.

    Parameters
    ----------
    name
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._closing = False
        self._inbox: deque[Callable[[], None] | Call] = deque()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)
        self._starting = threading.Lock()

    def _run(self) -> None:
        """Look after everything until it is over; in the thread."""
        raise NotImplementedError

    def _withdraw(self, call: Call) -> None:
        """See to it that a cancelled call is not made; in the thread."""
        raise NotImplementedError

    def _close(self, cancel: bool, kill: bool) -> None:
        """Take no more calls; in the thread."""
        raise NotImplementedError

    def _note_cancelled(self, call: Call, future: Future[Any]) -> None:
        if future.cancelled():
            self._post(partial(self._withdraw, call))

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls; end when those that were taken are done. See `Backend.close`."""
        if self._thread.ident is not None or self._inbox:
            self._post(partial(self._close, cancel, kill))

    def join(self) -> None:
        """Wait until all is over."""
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _post(self, what: Callable[[], None] | Call) -> None:
        self._inbox.append(what)
        if self._thread.ident is None:
            with self._starting:
                if self._thread.ident is None:
                    self._thread.start()
        self._wake.set()
