"""The user's handle on a call, which may be carried by something with futures of its own."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol

__all__ = ["CallFuture", "Carrier"]


class Carrier(Protocol):
    """What has a say in whether a call can still be cancelled: the future of another executor, for instance."""

    def cancel(self) -> bool:
        """Cancel the call there; False if it is too late for that."""
        ...

    def running(self) -> bool:
        """Return whether the call runs."""
        ...


class CallFuture(Future[Any]):
    """A future that asks what carries the call, if that has a say.

    Attributes
    ----------
    carrier
        Is asked before the call is cancelled; None if there is nobody to ask.
    """

    carrier: Carrier | None = None

    def cancel(self) -> bool:
        """Cancel the call if it has not begun; return whether it is cancelled."""
        if self.carrier is not None and not self.done() and not self.carrier.cancel():
            return False
        return super().cancel()

    def running(self) -> bool:
        """Return whether the call runs."""
        return super().running() or (self.carrier is not None and not self.done() and self.carrier.running())
