"""A call that was submitted."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import InvalidStateError
from typing import Any, Protocol

from expyre.executor.arguments import with_results
from expyre.executor.futures import CallFuture
from expyre.executor.pickles.functions import Pickled
from expyre.executor.requests import Request
from expyre.node.serving.messages import Payload

__all__ = ["Backend", "Call", "ends_calls_of", "name_of"]

logger = logging.getLogger(__name__)
_numbers = itertools.count(1)
_notifying = threading.Lock()


class _Ending(threading.local):
    """Whose calls this thread is ending, those of callbacks within callbacks last."""

    def __init__(self) -> None:
        self.owners: list[object] = []


_ending = _Ending()


class Call:
    """A call on its way.

    Attributes
    ----------
    number
        Distinguishes it from all other calls of this process, counted in the order of submission.
    function, args, kwargs
        What is called; the arguments are dropped once they are pickled.
    request
        What it asks for.
    future
        The user's handle on it.
    pickled, payload
        The pickled function and the pickled arguments.
    tries
        How often a worker has died with it.
    owner
        Whose call it is; see `ends_calls_of`.
    """

    __slots__ = (
        "_begun", "_told", "args", "function", "future", "kwargs", "number", "owner", "payload", "pickled", "request",
        "tries"
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        request: Request,
        owner: object = None,
    ) -> None:
        self.number = next(_numbers)
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.request = request
        self.future = CallFuture()
        self.pickled: Pickled | None = None
        self.payload: Payload | None = None
        self.tries = 0
        self.owner = owner
        self._begun = self._told = False

    def __str__(self) -> str:
        return f"call {self.number} of {name_of(self.function)}"

    def resolve(self) -> None:
        """Replace futures among the arguments by their results."""
        self.args = with_results(tuple(self.args))
        self.kwargs = with_results(dict(self.kwargs))

    def begin(self) -> bool:
        """Mark the future as running; False if it was cancelled, of which who waits for it is then told."""
        if self._begun:
            return True
        with _notifying:  # a future may be told so only once
            if not self._told:
                self._begun = self.future.set_running_or_notify_cancel()
                self._told = True
        return self._begun

    def cancel(self) -> bool:
        """Cancel the call unless it has begun."""
        self._settle(self.future.cancel)
        cancelled = self.future.cancelled()
        if cancelled:
            self.begin()
        return cancelled

    def end(self, ok: bool, value: Any) -> None:
        """End the call with a value, or with an exception."""
        self._settle(self.future.set_result if ok else self.future.set_exception, value)

    def _settle(self, do: Callable[..., object], *args: Any) -> None:
        """Do something to the future, and protect this thread from what callbacks of it do."""
        _ending.owners.append(self.owner)
        try:
            do(*args)
        except InvalidStateError:
            pass  # somebody else has set it
        except BaseException:  # Future itself takes care of Exception
            logger.exception("A callback of %s has raised what ends a program", self)
        finally:
            _ending.owners.pop()

    def fail(self, error: BaseException) -> None:
        """End the call with an error, unless it was cancelled."""
        if self.future.cancelled():
            self.begin()
        elif not self.future.done() and self.begin():
            self.end(False, error)


def ends_calls_of(owner: object) -> bool:
    """Return whether this thread is in a callback of a call: if it waited for other calls, it might wait for itself."""
    return any(each is owner for each in _ending.owners)


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called in messages."""
    return str(getattr(function, "__qualname__", None) or repr(function))


class Backend(Protocol):
    """Carries calls that wait for nothing; each method may be called from any thread.

    Its threads are not daemons: what was taken is finished before the interpreter ends.
    """

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        ...

    def check(self, request: Request) -> None:
        """Raise RequestError if a request can never be met."""
        ...

    def take(self, call: Call) -> None:
        """Take a call; its future will get a result or an exception."""
        ...

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls; end when those that were taken are done.

        Parameters
        ----------
        cancel
            Cancel calls that have not begun.
        kill
            End those that have.
        """
        ...

    def join(self) -> None:
        """Wait until all is over and nothing is left behind."""
        ...
