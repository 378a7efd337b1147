"""Calls that run on another executor of ``concurrent.futures``, which is neither started nor shut down here."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from expyre.errors import ExPyReTimeoutError, RequestError
from expyre.executor.backends import Options
from expyre.executor.calls import Call
from expyre.executor.pickles.loading import exception_in, value_in
from expyre.executor.pickles.pickling import setup_payload
from expyre.executor.requests import Request
from expyre.node.machine import cores
from expyre.node.serving import guest
from expyre.pickles.pickling import refusals
from expyre.util import own_import_path

__all__ = ["Foreign"]

_SMALL = 16 * 1024  # bytes of a pickled init_function that may as well travel with each call


class Foreign:
    """Passes calls on to an executor, and its answers back.

    Calls and results are pickled here, with cloudpickle where plain pickle does not do, except for threads of this
    process.

    Parameters
    ----------
    options
        Of our executor.

    Raises
    ------
    RequestError
        ``init_function`` cannot be pickled.
    """

    def __init__(self, options: Options) -> None:
        assert options.executor is not None
        self._executor: Executor = options.executor
        self._name = type(self._executor).__name__
        self._in_threads = isinstance(self._executor, ThreadPoolExecutor)
        self._limit = options.max_workers
        self._most_cores = options.max_cores
        self._token, self._setup = uuid.uuid4().hex, _packed_setup(options.init_function)
        self._path = own_import_path()
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[Call] = deque()
        self._under_way: set[Call] = set()
        self._busy = threading.Lock()
        self._closing = False

    @property
    def max_workers(self) -> int:
        """Most calls at a time; where the executor does not tell, as many as there are cores here."""
        own = getattr(self._executor, "_max_workers", None)
        return self._limit or (own if isinstance(own, int) else cores())

    def check(self, request: Request) -> None:
        """Raise RequestError for what an executor cannot be asked for in general."""
        what = []
        if request.cores > 1:
            what.append(f"cores={request.cores}: it runs a call in one process, MPI ranks need a backend")
        if request.gpus:
            what.append(f"{request.gpus} GPUs: it was made with what it has, and gives out no GPUs")
        if request.max_time is not None:
            what.append("max_time: it cannot end a call")
        if request.command_line_argument_lst:
            what.append("command_line_argument_lst: no command is run")
        if request.cwd is not None and self._in_threads:
            what.append("cwd: its threads have one directory in common")
        if self._most_cores is not None and request.slots > self._most_cores:
            what.append(f"{request.slots} cores are asked for, there are {self._most_cores} (max_cores)")
        if what:
            raise RequestError(f"executor={self._name}: " + "; ".join(what))

    def take(self, call: Call) -> None:
        """Take a call, and pass it on if there are not too many there already."""
        call.future.add_done_callback(partial(self._done, call))
        with self._changed:
            self._waiting.append(call)
        self._feed()

    def _feed(self) -> None:
        """Pass calls on, one thread at a time and not from within what that brings about."""
        while self._waiting and self._has_room() and self._busy.acquire(blocking=False):
            try:
                while (call := self._next()) is not None:
                    self._pass_on(call, with_setup=len(self._setup or b"") < _SMALL)
            finally:
                self._busy.release()

    def _has_room(self) -> bool:
        return self._limit is None or len(self._under_way) < self._limit

    def _next(self) -> Call | None:
        with self._changed:
            while self._waiting and self._has_room():
                call = self._waiting.popleft()
                if not call.future.done():
                    self._under_way.add(call)
                    return call
            return None

    def _pass_on(self, call: Call, *, with_setup: bool) -> None:
        whole = None if self._setup is None else (self._token, self._setup)
        try:
            if self._in_threads:
                inner = self._executor.submit(guest.call, whole, call.function, tuple(call.args), dict(call.kwargs))
            else:
                setup = whole if with_setup or whole is None else (self._token, None)
                inner = self._executor.submit(guest.run, self._path, setup, call.request.cwd, _packed(call))
        except Exception as error:
            call.fail(error)
            return
        call.future.carrier = _Carrier(inner)
        inner.add_done_callback(partial(self._answered, call))

    def _answered(self, call: Call, inner: Future[Any]) -> None:
        """Take an answer, in whatever thread the executor gives it."""
        if inner.cancelled():
            call.cancel()
            return
        error = inner.exception()
        if error is not None:
            call.fail(error)
            return
        answer = inner.result()
        if answer is None and not self._in_threads:  # that process was not set up
            call.future.carrier = None
            self._pass_on(call, with_setup=True)
            return
        ok, value = (True, answer) if self._in_threads else _read(answer)
        if call.begin():
            call.end(ok, value)

    def _done(self, call: Call, future: Future[Any]) -> None:
        if future.cancelled():
            call.begin()  # tells those who wait for it
        with self._changed:
            self._under_way.discard(call)
            call.args, call.kwargs = (), {}
            self._changed.notify_all()
        self._feed()

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls; what runs is left to its executor. See `Backend.close`."""
        with self._changed:
            self._closing = True
            calls = [*self._waiting, *self._under_way] if cancel or kill else []
            self._changed.notify_all()
        for call in calls:
            if not call.cancel() and kill:
                call.fail(ExPyReTimeoutError(f"the script ends, and waits for {call} no more; {self._name} goes on"))

    def join(self) -> None:
        """Wait until all calls are done."""
        with self._changed:
            self._changed.wait_for(self._is_over)
        if self._setup is not None:
            guest.forget(self._token)

    def _is_over(self) -> bool:
        return self._closing and not self._under_way and all(call.future.done() for call in self._waiting)


class _Carrier:
    """The future of another executor; not every one can cancel."""

    def __init__(self, inner: Future[Any]) -> None:
        self._inner = inner

    def cancel(self) -> bool:
        """Cancel the call there; False if it is too late for that."""
        try:
            return self._inner.cancel()
        except NotImplementedError:  # Parsl
            return False

    def running(self) -> bool:
        """Return whether the call runs."""
        return self._inner.running()


def _packed_setup(function: Any) -> bytes | None:
    payload = setup_payload(function)
    return None if payload is None else guest.packed(payload)


def _packed(call: Call) -> bytes:
    try:
        return guest.pack((call.function, tuple(call.args), dict(call.kwargs)))
    except Exception as error:
        reasons = refusals(guest.pack, call.function, call.args, call.kwargs)
        raise RequestError(f"{call} cannot be sent to a worker: {reasons or error}") from error


def _read(answer: tuple[bool, bytes]) -> tuple[bool, Any]:
    ok, data = answer
    try:
        message = guest.message_in(data)
        return ok, value_in(message) if ok else exception_in(message)
    except Exception as error:  # of classes that cannot be imported here
        return False, error
