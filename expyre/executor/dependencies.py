"""The way in for calls: they wait here for the results of others, and when none is on its way the backend may close."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from expyre.errors import InputFailed
from expyre.executor.arguments import futures_in
from expyre.executor.calls import Call

__all__ = ["Dependencies"]


class _Wait:
    """A call that waits; what futures keep of it, so that they do not keep the call when it has gone on."""

    __slots__ = ("call", "missing")

    def __init__(self, call: Call, missing: int) -> None:
        self.call: Call | None = call
        self.missing = missing


class Dependencies:
    """Holds calls back until the futures among their arguments are done, and passes them on with the results in place.

    Chains may be of any length: a call whose input is done joins a line, which one thread at a time works through, so
    that nothing is called from within what it has brought about.

    Parameters
    ----------
    release
        Takes a call that waits for nothing any more.
    disabled
        Pass everything on as it is.
    """

    def __init__(self, release: Callable[[Call], None], *, disabled: bool = False) -> None:
        self._release = release
        self._disabled = disabled
        self._waiting: set[_Wait] = set()
        self._line: deque[tuple[_Wait, Future[Any]]] = deque()
        self._busy = threading.Lock()
        # Reentrant, since what closes an executor may be called by the garbage collector, at any point of any thread.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._coming = 0  # calls that wait, and those that are being taken
        self._closed = self._empty = False
        self._then: Callable[[], None] | None = None

    def take(self, call: Call) -> list[Future[Any]]:
        """Take a call and return the futures among its arguments.

        Raises
        ------
        RuntimeError
            It is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._coming += 1
        try:
            inputs = [] if self._disabled else futures_in((*call.args, *call.kwargs.values()))
            if inputs:
                self._hold(call, inputs)
            else:
                self._release(call)
        finally:
            self._one_less()
        return inputs

    def _hold(self, call: Call, inputs: list[Future[Any]]) -> None:
        wait = _Wait(call, len(inputs))
        with self._lock:
            self._coming += 1
            self._waiting.add(wait)
        call.future.add_done_callback(partial(self._forget_cancelled, wait))
        for future in inputs:
            future.add_done_callback(partial(self._input_done, wait))

    def _forget_cancelled(self, wait: _Wait, future: Future[Any]) -> None:
        call = wait.call
        if call is not None and future.cancelled():
            call.begin()  # tells those who wait for it
            self._drop(wait)

    def _input_done(self, wait: _Wait, future: Future[Any]) -> None:
        self._line.append((wait, future))
        while self._line and self._busy.acquire(blocking=False):
            try:
                while self._line:
                    self._settle(*self._line.popleft())
            finally:
                self._busy.release()

    def _settle(self, wait: _Wait, future: Future[Any]) -> None:
        call = wait.call
        if call is None:  # cancelled, or another input has failed
            return
        wait.missing -= 1
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None and wait.missing:
            return
        try:
            if error is None:
                call.resolve()
                self._release(call)
            else:
                call.fail(_input_failed(call, error))
        except BaseException as problem:
            call.fail(problem)
            if not isinstance(problem, Exception):
                raise
        finally:
            self._drop(wait)

    def _drop(self, wait: _Wait) -> None:
        with self._lock:
            if wait not in self._waiting:
                return
            self._waiting.remove(wait)
            wait.call = None
        self._one_less()

    def _one_less(self) -> None:
        with self._lock:
            self._coming -= 1
            then = self._take_then()
        if then is not None:
            self._end(then)

    def _take_then(self) -> Callable[[], None] | None:
        if self._coming:
            return None
        then, self._then = self._then, None
        return then

    def _end(self, then: Callable[[], None]) -> None:
        then()
        with self._changed:
            self._empty = True
            self._changed.notify_all()

    def close(self, then: Callable[[], None], *, cancel: bool = False) -> None:
        """Take no more calls; call a function once no call waits any more.

        Parameters
        ----------
        cancel
            Cancel those that wait.
        """
        with self._lock:
            self._closed = True
            self._then = then
        if cancel:
            for call in [wait.call for wait in list(self._waiting)]:
                if call is not None:
                    call.cancel()
        with self._lock:
            now = self._take_then()
        if now is not None:
            self._end(now)

    def wait(self) -> None:
        """Return when it is closed and no call waits any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._empty)


def _input_failed(call: Call, error: BaseException) -> InputFailed:
    """Return the error of a call whose input has failed; in a long chain each names the first, and no other."""
    first = error.first if isinstance(error, InputFailed) else f"{type(error).__name__}: {error}"
    why = "was cancelled" if isinstance(error, CancelledError) else f"failed: {first}"
    failed = InputFailed(f"{call} was not run because an input {why}", first=first)
    failed.__cause__ = error
    return failed
