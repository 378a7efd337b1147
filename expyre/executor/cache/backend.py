"""The backend that looks for the result of a call before it passes it on."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from expyre.errors import KeyUnstableError
from expyre.executor.backends import Options
from expyre.executor.cache.results import MISSING, Results
from expyre.executor.calls import Backend, Call
from expyre.executor.requests import Request
from expyre.identity import identify

__all__ = ["Cache", "make_cache"]

log = logging.getLogger(__name__)

_NAME = "_executor_cache"


def make_cache(options: Options, backend: Backend) -> Cache:
    """Return a backend whose results are kept where some options say, by default in the project.

    Raises
    ------
    RequestError
        The directory cannot be used.
    """
    preset = "" if options.init_function is None else f" after {identify(options.init_function).key}"
    if options.cache_directory is not None:
        return Cache(backend, Results(Path(options.cache_directory).expanduser().absolute()), preset)
    from expyre import config

    return Cache(backend, Results(config.project().stage_root / _NAME), preset)


class Cache:
    """Answers calls from kept results, and gives the others to a backend.

    The key of a call is that of a job: function, code, values of the arguments; of resources only the number of ranks,
    since the result is a list of as many. Equal calls that are under way run once. Failures are not kept.

    Parameters
    ----------
    backend
        Runs the calls.
    results
        Keeps what has come of them.
    preset
        What results depend on besides the call.
    """

    def __init__(self, backend: Backend, results: Results, preset: str = "") -> None:
        self._backend = backend
        self._preset = preset
        self._results = results
        self._lock = threading.RLock()  # a callback of a future may submit a call
        self._under_way: dict[str, _Shared] = {}

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        return self._backend.max_workers

    def check(self, request: Request) -> None:
        """Raise RequestError if a request can never be met."""
        self._backend.check(request)

    def take(self, call: Call) -> None:
        """Answer a call, or have it run."""
        try:
            key = _key(call) + self._preset
        except Exception as error:
            call.fail(error)
            return
        with self._lock:
            shared = self._under_way.get(key)
            if shared is not None and shared.join(call):
                return
            value = self._results.load(key)
            if value is MISSING:
                shared = self._under_way[key] = _Shared(self, key, call)
        if value is not MISSING:
            if call.begin():
                call.end(True, value)
        else:
            assert shared is not None
            self._backend.take(shared.call)

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls. See `Backend.close`."""
        self._backend.close(cancel=cancel, kill=kill)

    def join(self) -> None:
        """Wait until all is over."""
        self._backend.join()

    def settle(self, shared: _Shared, future: Future[Any]) -> None:
        """Keep a result, then deliver it: who has it may change it."""
        kept = not future.cancelled() and future.exception() is None and self._keep(shared.key, future.result())
        with self._lock:
            if self._under_way.get(shared.key) is shared:
                del self._under_way[shared.key]
            calls = shared.leave()
        for number, call in enumerate(calls):
            if future.cancelled():
                call.cancel()
            elif (error := future.exception()) is not None:
                call.fail(error)
            elif call.begin():
                value = self._results.load(shared.key) if number and kept else MISSING  # nobody shares a value
                call.end(True, future.result() if value is MISSING else value)

    def _keep(self, key: str, value: Any) -> bool:
        try:
            self._results.store(key, value)
        except Exception as error:
            log.warning("the result of a call is not kept: %s", error)
            return False
        return True


def _key(call: Call) -> str:
    """Return the key of a call.

    Raises
    ------
    KeyUnstableError
        An argument has no stable value; the message names it.
    """
    try:
        key = identify(call.function, call.args, call.kwargs).key
    except KeyUnstableError as error:
        text = str(error).partition(", or leave the argument out")[0].rstrip(".")
        raise KeyUnstableError(f"{call} cannot be kept: {text}, or use an executor without a cache for it.") from None
    return key if call.request.cores == 1 else f"{key} of {call.request.cores} ranks"


class _Shared:
    """A call that runs for one or several equal ones, and has a say in whether these can be cancelled."""

    def __init__(self, cache: Cache, key: str, call: Call) -> None:
        self.key = key
        self.call = Call(call.function, call.args, call.kwargs, call.request, call.owner)
        self._waiters: list[Call] = []
        self._lock = threading.RLock()
        self._over = False
        call.args, call.kwargs = (), {}
        self.join(call)
        self.call.future.add_done_callback(lambda future: cache.settle(self, future))

    def join(self, call: Call) -> bool:
        """Let a call wait for the result; False if it has been cancelled."""
        with self._lock:
            if self._over or self.call.future.cancelled():
                return False
            self._waiters.append(call)
        call.future.carrier = _Share(self, call)
        call.future.add_done_callback(lambda future: future.cancelled() and call.begin())  # tells who waits for it
        return True

    def leave(self) -> list[Call]:
        """Return the calls that wait; no more will."""
        with self._lock:
            self._over = True
            waiters, self._waiters = self._waiters, []
            return waiters

    def withdraw(self, call: Call) -> bool:
        """Take leave of a call; False if it runs already."""
        with self._lock:
            others = [each for each in self._waiters if each is not call]
            if self._over or self.call.future.running():
                return self.call.future.cancelled()
            if others:
                self._waiters = others
                return True
        return self.call.future.cancel()


class _Share:
    """One call's share in a call that runs for several."""

    def __init__(self, shared: _Shared, call: Call) -> None:
        self._shared, self._call = shared, call

    def cancel(self) -> bool:
        """Cancel the call; False if it is too late for that."""
        return self._shared.withdraw(self._call)

    def running(self) -> bool:
        """Return whether the call runs."""
        return self._shared.call.future.running()
