"""Calls that the workers of another executor of ``concurrent.futures`` run."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from expyre.errors import RemoteTraceback, RequestError
from expyre.executor.calls import Call
from expyre.executor.requests import Request
from expyre.node.machine import cores
from expyre.node.serving.messages import dump
from expyre.node.serving.worker import failure, missing_arguments
from expyre.stage import load_exception

if TYPE_CHECKING:
    from expyre.executor.backends import Options

__all__ = ["Foreign"]

_Answer = tuple[bool, bytes]  # is there a value; the value or the failure, pickled

# -- in the workers

_presets: dict[bytes, dict[str, Any]] = {}


def run_call(task: bytes, init: bytes | None) -> _Answer:
    """Run a pickled call in a worker, after an ``init_function`` if this worker has not called that before."""
    try:
        function, args, kwargs = pickle.loads(task)
        if init is not None:
            kwargs = {**kwargs, **missing_arguments(function, args, kwargs, _preset(init))}
        return True, _pickle(function(*args, **kwargs))
    except BaseException as error:
        return False, failure(error).data


def _preset(init: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(init).digest()
    if digest not in _presets:
        _presets[digest] = pickle.loads(init)()
    return _presets[digest]


def _pickle(value: Any) -> bytes:
    payload = dump(value)
    return pickle.dumps((payload.data, [bytearray(buffer) for buffer in payload.buffers]), 5)


# -- in the script


class _Carried:
    """A call's future with the other executor, not all of which can be cancelled."""

    def __init__(self, future: Future[_Answer]) -> None:
        self._future = future

    def cancel(self) -> bool:
        try:
            return self._future.cancel()
        except NotImplementedError:  # Parsl
            return False

    def running(self) -> bool:
        return self._future.running()


class Foreign:
    """Gives calls to another executor, which it neither starts nor shuts down.

    Functions and arguments go there as pickles that need no module of the script; to threads they go as they are.

    Parameters
    ----------
    options
        Of the executor; ``executor`` is the other one.

    Raises
    ------
    RequestError
        ``init_function`` cannot be pickled.
    """

    def __init__(self, options: Options) -> None:
        self._executor: Any = options.executor
        self._limit = options.max_workers
        self._threads = isinstance(self._executor, ThreadPoolExecutor)
        self._init = None if options.init_function is None else _to_send("init_function", options.init_function)
        self._line: deque[Call] = deque()
        self._under_way: dict[Call, Future[_Answer]] = {}
        self._closed = False
        self._changed = threading.Condition(threading.RLock())

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        found = self._limit or getattr(self._executor, "_max_workers", None)
        return found if isinstance(found, int) else cores()

    def check(self, request: Request) -> None:
        """Raise RequestError if a request can never be met: workers of others are as they are."""
        default = Request()
        names = ("cores", "threads_per_core", "gpus", "cwd", "command_line_argument_lst", "max_time")
        asked = [name for name in names if getattr(request, name) != getattr(default, name)]
        if asked:
            raise RequestError(
                f"{', '.join(asked)}: calls run in workers of a {type(self._executor).__name__} (executor=), which are "
                "given nothing of the kind; ask for it where that is made"
            )

    def take(self, call: Call) -> None:
        """Take a call; it is pickled here and now."""
        try:
            self._prepare(call)
        except RequestError as error:
            call.fail(error)
            return
        with self._changed:
            self._line.append(call)
        self._feed()

    def _prepare(self, call: Call) -> None:
        if not self._threads:
            task = (call.function, call.args, call.kwargs)
            call.args, call.kwargs = (_to_send(str(call), task),), {}

    def _feed(self) -> None:
        while (call := self._next()) is not None:
            try:
                future: Future[Any] = self._submit(call)
            except BaseException as error:  # it was shut down, or is broken
                self._drop(call)
                call.fail(error)
                continue
            with self._changed:
                self._under_way[call] = future
            call.future.carrier = _Carried(future)
            future.add_done_callback(partial(self._done, call))

    def _next(self) -> Call | None:
        with self._changed:
            while self._line and (self._limit is None or len(self._under_way) < self._limit):
                call = self._line.popleft()
                if not call.future.cancelled() or call.begin():
                    self._under_way[call] = Future()  # keeps its place until it has one
                    return call
            self._changed.notify_all()
            return None

    def _submit(self, call: Call) -> Future[Any]:
        if self._threads:
            in_thread: Future[Any] = self._executor.submit(call.function, *call.args, **call.kwargs)
            return in_thread
        found: Future[Any] = self._executor.submit(run_call, call.args[0], self._init)
        return found

    def _done(self, call: Call, future: Future[Any]) -> None:
        call.args, call.kwargs = (), {}
        if future.cancelled():
            call.cancel()
        elif call.begin():
            call.end(*self._read(future))
        self._drop(call)
        self._feed()

    def _read(self, future: Future[Any]) -> tuple[bool, Any]:
        error = future.exception()
        if error is not None:
            return False, error
        if self._threads:
            return True, future.result()
        ok, data = future.result()
        try:
            return (ok, _value_of(data)) if ok else (ok, _error_of(data))
        except Exception as problem:  # of classes that cannot be imported here
            return False, problem

    def _drop(self, call: Call) -> None:
        with self._changed:
            self._under_way.pop(call, None)
            self._changed.notify_all()

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls; see `Backend.close`. What runs elsewhere cannot be ended from here."""
        with self._changed:
            self._closed = True
            calls = [*self._line, *self._under_way] if cancel else []
            self._changed.notify_all()
        for call in calls:
            call.cancel()
        self._feed()

    def join(self) -> None:
        """Wait until all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed and not self._line and not self._under_way)


def _to_send(what: str, value: Any) -> bytes:
    try:
        payload = dump(value)
        return payload.data if not payload.buffers else _in_one(value)
    except Exception as error:
        raise RequestError(f"{what} cannot be sent to a worker: {error}") from error


def _in_one(value: Any) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, 5)
    return data


def _value_of(data: bytes) -> Any:
    content, buffers = pickle.loads(data)
    return pickle.loads(content, buffers=buffers)


def _error_of(data: bytes) -> BaseException:
    content, text = pickle.loads(data)
    error = load_exception(memoryview(content))
    error.__cause__ = RemoteTraceback(text)
    return error


