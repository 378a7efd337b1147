"""Calls become pickles when they are submitted, as long as not too much of them waits."""

from __future__ import annotations

import threading
from typing import Any

from expyre.errors import RequestError
from expyre.executor.calls import Call
from expyre.executor.pickles.functions import Functions
from expyre.node.serving.messages import Payload, dump
from expyre.pickles.pickling import refusals

__all__ = ["Pickles"]

_MOST_BYTES = 64 * 1024**2


class Pickles:
    """Pickles calls.

    What a caller does to an argument after the call was submitted does not change the call, except to large arrays,
    which are not copied, and while more than 64 MB of pickles wait: then a call is pickled when its turn comes, so
    that ten thousand calls with the same large argument do not need as many copies of it.
    """

    def __init__(self) -> None:
        self.functions = Functions()
        self._lock = threading.Lock()
        self._bytes = 0

    def early(self, call: Call) -> None:
        """Pickle a call if there is room.

        Raises
        ------
        RequestError
            It cannot be pickled; says which part of it.
        """
        if self._bytes < _MOST_BYTES:
            self.now(call)

    def now(self, call: Call) -> None:
        """Pickle a call unless that was done before.

        Raises
        ------
        RequestError
            It cannot be pickled; says which part of it.
        """
        if call.payload is None:
            call.pickled, call.payload = self._dump(call)
            call.args, call.kwargs = (), {}
            self._count(call.payload.size)

    def _dump(self, call: Call) -> Any:
        try:
            return self.functions.pickled(call.function), dump((call.args, call.kwargs))
        except Exception as error:
            reasons = refusals(dump, call.function, call.args, call.kwargs)
            raise RequestError(f"{call} cannot be sent to a worker: {reasons or error}") from error

    def done(self, call: Call) -> None:
        """Forget the pickle of a call that has ended."""
        if call.payload is not None:
            self._count(-call.payload.size)
            call.payload = call.pickled = None

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._bytes += nbytes


def setup_payload(function: Any) -> Payload | None:
    """Return the pickle of an ``init_function``; None without one.

    Raises
    ------
    RequestError
        It cannot be pickled.
    """
    if function is None:
        return None
    try:
        return dump(function)
    except Exception as error:
        raise RequestError(f"init_function cannot be sent to a worker: {error}") from error
