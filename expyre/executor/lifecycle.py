"""What an executor consists of, from its first call to its end, and what becomes of it when the script ends."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from expyre.executor.calls import Backend, Call, ends_calls_of
from expyre.executor.dependencies import Dependencies

__all__ = ["Service"]


class Service:
    """What runs the calls of an executor. It knows nothing of the executor, which the user may let go of.

    Parameters
    ----------
    backend
        Carries calls that wait for nothing.
    disable_dependencies
        Do not look for futures among arguments.
    at_end
        Called when all is over.
    """

    def __init__(
        self, backend: Backend, *, disable_dependencies: bool, at_end: Callable[[], None] | None = None
    ) -> None:
        self.backend = backend
        self._dependencies = Dependencies(backend.take, disabled=disable_dependencies)
        self._process = os.getpid()
        self._cancel = self._kill = False
        self._last: threading.Thread | None = None
        if at_end is not None:
            self._last = threading.Thread(target=self._end, args=(at_end,), name="expyre-executor-end")
        _live.add(self)

    def take(self, call: Call) -> list[Any]:
        """Take a call and return the futures among its arguments.

        Raises
        ------
        RuntimeError
            The executor was shut down, the interpreter ends, or this is a fork of the process that it belongs to.
        """
        if _interpreter_ends:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if os.getpid() != self._process:
            raise RuntimeError(
                f"cannot schedule new futures: this executor belongs to process {self._process}, of which this one is "
                "a fork without its threads; make another one here"
            )
        call.owner = self
        return self._dependencies.take(call)

    def shut_down(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls; end when all is done, or at once. See `Backend.close`."""
        if os.getpid() == self._process:
            self._cancel |= cancel
            self._kill |= kill
            self._dependencies.close(self._close, cancel=cancel)

    def _close(self) -> None:
        self.backend.close(cancel=self._cancel, kill=self._kill)
        if self._last is not None and self._last.ident is None:
            self._last.start()

    def _end(self, at_end: Callable[[], None]) -> None:
        self.backend.join()
        at_end()

    def join(self) -> None:
        """Wait until all is over, unless that waits for this thread."""
        if os.getpid() == self._process and not ends_calls_of(self):
            self._dependencies.wait()
            self.backend.join()
            if self._last is not None:
                self._last.join()


_live: weakref.WeakSet[Service] = weakref.WeakSet()
_interpreter_ends = False


def _at_exit() -> None:
    """Finish all that was submitted, as executors of the standard library do; unless the script was interrupted."""
    global _interpreter_ends
    _interpreter_ends = True
    interrupted = _was_interrupted()
    services = list(_live)
    for service in services:
        service.shut_down(cancel=interrupted, kill=interrupted)
    for service in services:
        service.join()


def _was_interrupted() -> bool:
    """Return whether the script ends because of Ctrl-C, which workers do not hear of."""
    error = getattr(sys, "last_exc", None)  # since Python 3.12
    kind = getattr(sys, "last_type", None) if error is None else type(error)
    return isinstance(kind, type) and issubclass(kind, KeyboardInterrupt) and not hasattr(sys, "ps1")


def _in_fork() -> None:
    """Leave executors to the process that they belong to."""
    global _interpreter_ends
    _interpreter_ends = False
    _live.clear()


def _register_at_exit(function: Callable[[], None]) -> None:
    """Have it done before threads are joined; functions of ``atexit`` are called only after that."""
    register = getattr(threading, "_register_atexit", None)
    if register is None:
        import atexit

        register = atexit.register
    register(function)


_register_at_exit(_at_exit)
os.register_at_fork(after_in_child=_in_fork)
