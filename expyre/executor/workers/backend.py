"""The backend whose calls are served by workers of this machine, or of an allocation, over sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from expyre.errors import RequestError
from expyre.executor.calls import Call
from expyre.executor.pickles.pickling import Pickles
from expyre.executor.requests import Request
from expyre.executor.workers.dispatcher import Dispatcher
from expyre.executor.workers.settings import Settings

__all__ = ["Workers"]


class Workers:
    """Serves calls by workers. See `Backend`, of which this is one.

    Parameters
    ----------
    settings
        What workers there are to be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pickles = Pickles()
        self._dispatcher = Dispatcher(settings, self._pickles)
        self._thread = threading.Thread(target=self._dispatcher.run, name="expyre-executor")
        self._starting = threading.RLock()  # reentrant: the garbage collector may close an executor meanwhile
        self._started = False

    def check(self, request: Request) -> None:
        """Raise RequestError if a request can never be met."""
        machine, what = self._settings.machine, []
        if request.slots > machine.slots and not request.oversubscribe:
            threads = f" with {request.threads_per_core} threads each" if request.threads_per_core > 1 else ""
            what.append(f"{request.cores} cores{threads} are asked for, there are {machine.slots} (max_cores)")
        if request.gpus > len(machine.gpus):
            what.append(f"{request.gpus} GPUs are asked for, there are {len(machine.gpus)}")
        if what:
            raise RequestError("; ".join(what))
        self._settings.launcher.prepare(request)

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        return self._settings.max_workers

    def take(self, call: Call) -> None:
        """Take a call; it is pickled here and now, unless too much waits already."""
        try:
            self._pickles.early(call)
        except RequestError as error:
            call.fail(error)
            return
        self._post(call)

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls; end when those that were taken are done. See `Backend.close`."""
        if not self._started and not self._dispatcher.loop.has_mail:
            self._dispatcher.release()
            return
        self._post(partial(self._dispatcher.close, cancel, kill))

    def join(self) -> None:
        """Wait until all is over. See `Backend.join`."""
        if self._started and threading.current_thread() is not self._thread:
            self._thread.join()

    def _post(self, what: Callable[[], None] | Call) -> None:
        self._dispatcher.loop.put(what)
        if not self._started:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._started:
                return
            self._started = True
            try:
                self._thread.start()
            except RuntimeError:  # too many threads
                self._started = False
                raise
