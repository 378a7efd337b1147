"""How often something is tried again when the way to a host fails, and how soon."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from expyre.errors import TransportError
from expyre.patience import tries_and_pause
from expyre.transports.talk import Busy, Stale

__all__ = ["Gate", "Refused", "retried"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


def retried(action: Callable[[], T], worth: type[TransportError] = TransportError) -> T:
    """Call until it succeeds, as often and with as much time between as ``EXPYRE_RETRY`` says.

    Parameters
    ----------
    action
        What to do.
    worth
        The errors after which another try is right, unless they are not transient.
    """
    tries, wait = tries_and_pause()
    fresh = True
    while True:
        try:
            return action()
        except worth as error:
            free = isinstance(error, Busy) or (isinstance(error, Stale) and fresh)
            fresh = fresh and not isinstance(error, Stale)
            tries -= not free
            if not error.transient or tries <= 0:
                raise
            _log.info("trying again: %s", error)
            time.sleep(0.0 if free else wait)


class Refused(TransportError):
    """Raised when a host does not accept who we are; it is not asked again, since hosts ban those who insist."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=False)


class Gate:
    """Lets attempts to connect to one host pass, each later than the one before; remembers a refusal for good.

    Parameters
    ----------
    first, longest
        Seconds between the first two attempts that follow each other in vain, and at most.
    """

    def __init__(self, first: float = 0.5, longest: float = 60.0) -> None:
        self._first, self._longest = first, longest
        self._attempts = 0
        self._last = 0.0
        self._refusal: Refused | None = None

    def connect(self, attempt: Callable[[], T]) -> T:
        """Return what the attempt returns, when it is time for one.

        Raises
        ------
        TransportError
            What the attempt raised; the same again where the host had refused an earlier one.
        """
        self.check()
        self._wait()
        try:
            return attempt()
        except Refused as error:
            self._refusal = error
            raise
        finally:
            self._last = time.monotonic()

    def check(self) -> None:
        """Raise what an earlier attempt has come to for good."""
        if self._refusal is not None:
            raise Refused(str(self._refusal))

    def refused(self, refusal: Refused) -> None:
        """Take note that no further attempt is to be made."""
        self._refusal = refusal

    def passed(self) -> None:
        """Take note that the connection has proved to work."""
        self._attempts = 0

    def _wait(self) -> None:
        if self._attempts:
            delay = min(self._longest, self._first * 2.0 ** (self._attempts - 1))
            time.sleep(max(0.0, self._last + delay - time.monotonic()))
        self._attempts += 1
