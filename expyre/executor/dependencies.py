"""Calls that wait for the results of others."""

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


class Dependencies:
    """Holds calls back until the futures among their arguments are done, and passes them on with the results in place.

    Chains may be of any length: a call whose input is done joins a line, which one thread at a time works through, so
    that nothing is called from within what it has brought about.

    Parameters
    ----------
    release
        Takes a call that waits for nothing any more.
    """

    def __init__(self, release: Callable[[Call], None]) -> None:
        self._release = release
        self._waiting: dict[Call, set[Future[Any]]] = {}
        self._line: deque[tuple[Call, Future[Any]]] = deque()
        self._busy = threading.Lock()
        self._changed = threading.Condition()

    def take(self, call: Call) -> list[Future[Any]]:
        """Take a call and return the futures among its arguments."""
        inputs = futures_in((call.args, call.kwargs))
        if not inputs:
            self._release(call)
            return inputs
        with self._changed:
            self._waiting[call] = set(inputs)
        call.future.add_done_callback(partial(self._forget_cancelled, call))
        for future in inputs:
            future.add_done_callback(partial(self._input_done, call))
        return inputs

    def _forget_cancelled(self, call: Call, future: Future[Any]) -> None:
        if future.cancelled():
            self._drop(call)

    def _input_done(self, call: Call, future: Future[Any]) -> None:
        self._line.append((call, future))
        while self._line and self._busy.acquire(blocking=False):
            try:
                while self._line:
                    self._settle(*self._line.popleft())
            finally:
                self._busy.release()

    def _settle(self, call: Call, future: Future[Any]) -> None:
        missing = self._waiting.get(call)
        if missing is None:  # cancelled, or another input has failed
            return
        missing.discard(future)
        error = CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self._fail(call, error)
        elif not missing:
            try:
                call.resolve()
                self._release(call)
            except Exception as problem:
                call.fail(problem)
            self._drop(call)

    def _fail(self, call: Call, error: BaseException) -> None:
        why = "was cancelled" if isinstance(error, CancelledError) else f"failed: {type(error).__name__}: {error}"
        failed = InputFailed(f"{call} was not run because an input {why}")
        failed.__cause__ = error
        call.fail(failed)
        self._drop(call)

    def _drop(self, call: Call) -> None:
        with self._changed:
            self._waiting.pop(call, None)
            if not self._waiting:
                self._changed.notify_all()

    def cancel(self) -> None:
        """Cancel all calls that still wait."""
        for call in list(self._waiting):
            call.future.cancel()

    def wait(self) -> None:
        """Return when no call waits any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)

    def when_empty(self, then: Callable[[], None]) -> None:
        """Call a function once no call waits any more: now, or in a thread of its own."""
        if not self._waiting:
            then()
            return

        def later() -> None:
            self.wait()
            then()

        threading.Thread(target=later, name="expyre-executor-closing").start()
