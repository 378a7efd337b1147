"""The thread that gives calls to workers and takes their answers."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from expyre.errors import ExPyReJobDiedError, RequestError, TimedOut, WorkerDied
from expyre.executor.calls import Call
from expyre.executor.channels import StreamChannel
from expyre.executor.deaths import Deaths, how
from expyre.executor.pickling import Pickles
from expyre.executor.places import Place
from expyre.executor.requests import Request
from expyre.executor.settings import Settings
from expyre.executor.staffing import Block, PerCall, Staffing
from expyre.executor.worker import Answer, Worker

__all__ = ["Dispatcher"]

_LAST_WORDS = 5.0  # seconds that workers have to end by themselves
_MOST_STILLBORN = 3  # workers, one after the other, that ended before they were ready
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Handler = Callable[[int], None]


class Dispatcher:
    """Serves calls by workers that are connected by sockets.

    One thread does everything and waits for sockets; nothing is polled. Other threads only append to its inbox.

    Parameters
    ----------
    settings
        What workers there are to be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._launcher = settings.launcher
        self._staffing: Staffing = Block(settings) if settings.block else PerCall(settings)
        self._pickles = Pickles()
        self._workers: dict[int, Worker] = {}
        self._numbers = itertools.count(1)
        self._ready: deque[Call] = deque()
        self._deaths = Deaths()
        self._stillborn = 0
        self._broken: BaseException | None = None
        self._closing = self._killing = False
        self._inbox: deque[Callable[[], None] | Call] = deque()
        self._asleep = False
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = socket.socketpair()
        for sock in (self._wake_r, self._wake_w):
            sock.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="expyre-executor")
        self._starting = threading.Lock()

    # ---------------------------------------------------------------------------------------------- any thread

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
        self._launcher.prepare(request)

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
        if self._thread.ident is None and not self._inbox:
            self._release()
            return
        self._post(partial(self._close, cancel, kill))

    def join(self) -> None:
        """Wait until all is over."""
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def _post(self, what: Callable[[], None] | Call) -> None:
        self._inbox.append(what)
        if self._thread.ident is None:
            with self._starting:
                if self._thread.ident is None:
                    self._thread.start()
        if self._asleep:
            self._asleep = False
            with contextlib.suppress(OSError):
                self._wake_w.send(b"x")

    # ------------------------------------------------------------------------------------------- its own thread

    def _run(self) -> None:
        try:
            self._watch(self._wake_r, self._drain)
            self._watch(self._launcher.start_keeper().sock, self._hear_keeper)
            while not self._is_over():
                self._step()
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._clear()

    def _step(self) -> None:
        self._wait(self._patience())
        self._take_inbox()
        self._look_at_clocks()
        self._feed()

    def _wait(self, timeout: float | None) -> None:
        self._asleep = True
        events = self._selector.select(0 if self._inbox else timeout)
        self._asleep = False
        for key, mask in events:
            key.data(mask)

    def _watch(self, sock: socket.socket, handle: Handler) -> None:
        self._selector.register(sock, _READ, handle)

    def _drain(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_r.recv(4096)

    def _take_inbox(self) -> None:
        while self._inbox:
            what = self._inbox.popleft()
            if isinstance(what, Call):
                self._ready.append(what)
            else:
                what()

    def _is_over(self) -> bool:
        busy = any(worker.under_way for worker in self._workers.values())
        return self._closing and not self._inbox and not self._ready and not busy

    def _close(self, cancel: bool, kill: bool) -> None:
        self._closing = True
        if cancel:
            for call in self._ready:
                call.future.cancel()
            self._ready = deque(call for call in self._ready if not call.future.cancelled())
        if kill:
            self._killing = True
            for worker in self._workers.values():
                self._doom(worker, WorkerDied("the executor was shut down while the call was running"))

    # -- giving calls

    def _feed(self) -> None:
        if self._broken is not None:
            while self._ready:
                self._ready.popleft().fail(self._broken)
        self._staffing.feed(self._ready, self._workers.values(), self._hire, self._give)

    def _hire(self, place: Place, call: Call | None) -> Worker | None:
        """Start a worker, for one call if one is given; None, and the call has failed, if that is not possible."""
        request = self._settings.request if call is None else call.request
        worker = Worker(next(self._numbers), place, request.cores, call)
        self._workers[worker.number] = worker
        try:
            self._launcher.launch(worker, request)
        except Exception as error:
            self._leave(worker)
            if call is None:
                self._broken = error
            else:
                self._fail(call, error)
            return None
        if self._launcher.has_door and self._launcher.door.sock not in self._selector.get_map():
            self._watch(self._launcher.door.sock, lambda _mask: self._launcher.door.open(self._welcome))
        for rank in worker.channels:
            self._connect(worker, rank)
        return worker

    def _give(self, worker: Worker, call: Call) -> None:
        try:
            self._pickles.now(call)
        except RequestError as error:
            self._fail(call, error)
            return
        worker.give(call, self._pickles.functions.generation)
        if worker.once:
            worker.stop()
        self._watch_room(worker)

    def _watch_room(self, worker: Worker) -> None:
        """See to it that what could not be sent for want of room is sent when there is some."""
        for rank, channel in worker.channels.items():
            if channel.waits:
                self._selector.modify(channel.sock, _READ | _WRITE, partial(self._hear, worker, rank))

    # -- hearing from workers

    def _welcome(self, number: int, rank: int, sock: socket.socket) -> None:
        """Let a rank join its worker; called in any thread."""
        self._post(partial(self._join_worker, number, rank, sock))

    def _join_worker(self, number: int, rank: int, sock: socket.socket) -> None:
        worker = self._workers.get(number)
        if worker is None or rank >= worker.size or rank in worker.channels:
            sock.close()
            return
        worker.channels[rank] = StreamChannel(sock)
        self._connect(worker, rank)

    def _connect(self, worker: Worker, rank: int) -> None:
        self._watch(worker.channels[rank].sock, partial(self._hear, worker, rank))
        if not worker.connected:
            return
        worker.set_up(self._settings.init_payload if not worker.once else None)
        if worker.reserved is not None:
            call, worker.reserved = worker.reserved, None
            self._give(worker, call)

    def _hear(self, worker: Worker, rank: int, mask: int) -> None:
        if worker.number not in self._workers:  # its end was heard of in the same round
            return
        channel = worker.channels[rank]
        if mask & _READ and not worker.read(rank, self._answered):
            self._unwatch(channel.sock)
            worker.lose(rank)
        elif channel.waits:  # an answer makes room as well, long before the system calls the socket writable
            channel.flush()
        if mask & _WRITE and not channel.waits:
            self._selector.modify(channel.sock, _READ, partial(self._hear, worker, rank))

    def _unwatch(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def _answered(self, worker: Worker, answer: Answer) -> None:
        if worker.calls:
            self._done(worker.calls.popleft(), answer)
        elif not answer.ok:  # it could not be set up
            self._broken = answer.value
            self._doom(worker, answer.value)

    def _done(self, call: Call, answer: Answer) -> None:
        self._stillborn = 0
        self._staffing.learn(answer.seconds)
        self._pickles.done(call)
        call.end(answer.ok, answer.value)

    def _fail(self, call: Call, error: BaseException) -> None:
        self._pickles.done(call)
        call.fail(error)

    # -- ends of workers

    def _hear_keeper(self, _mask: int) -> None:
        assert self._launcher.keeper is not None
        note = self._launcher.keeper.note()
        if note is None:
            self._without_keeper()
            return
        worker = self._workers.get(note["started"] if "started" in note else note["ended"])
        if worker is not None and "started" in note:
            worker.pid = note["pid"]
        elif worker is not None:
            self._bury(worker, note)

    def _without_keeper(self) -> None:
        """Go on with a new keeper: the old one was killed, and all workers with it."""
        assert self._launcher.keeper is not None
        self._unwatch(self._launcher.keeper.sock)
        self._launcher.keeper.close()
        for worker in list(self._workers.values()):
            self._bury(worker, {"status": -9, "why": "was ended because the process that keeps it had been killed"})
        self._watch(self._launcher.start_keeper().sock, self._hear_keeper)

    def _bury(self, worker: Worker, note: dict[str, Any]) -> None:
        """Take leave of a worker whose process has ended; first read what it has left."""
        for rank in worker.channels:
            worker.read(rank, self._answered)
        untaken = worker.take_back()
        self._leave(worker)
        if not worker.ready and worker.reserved is None:
            self._count_stillborn(worker, note)
        again = [call for call in worker.under_way if self._is_tried_again(worker, call, note)]
        self._ready.extendleft(reversed([*again, *untaken]))

    def _leave(self, worker: Worker) -> None:
        """Forget a worker, and give away its place."""
        del self._workers[worker.number]
        self._settings.machine.take_back(worker.place)
        for channel in worker.channels.values():
            self._unwatch(channel.sock)
        worker.close()

    def _count_stillborn(self, worker: Worker, note: dict[str, Any]) -> None:
        """Give up if one worker after the other ends before it can take calls."""
        self._stillborn += 1
        if self._broken is None and (self._stillborn >= _MOST_STILLBORN or note["status"] == 127):
            self._broken = WorkerDied(f"no worker could be started: the last one {how(note)}")

    def _is_tried_again(self, worker: Worker, call: Call, note: dict[str, Any]) -> bool:
        """Return whether a call is tried again under which its worker has ended; else it fails."""
        error: BaseException = worker.doomed or self._deaths.error(call, note)
        call.tries += 1
        may = isinstance(error, ExPyReJobDiedError) and not isinstance(error, TimedOut)
        if may and call.tries <= self._settings.restart_limit and not self._killing:
            return True
        self._fail(call, error)
        return False

    def _doom(self, worker: Worker, error: BaseException) -> None:
        """Have a worker killed; its call gets the error once it is dead."""
        if worker.doomed is None:
            worker.doomed = error
            assert self._launcher.keeper is not None
            self._launcher.keeper.kill(worker.number, gently=worker.size > 1 or not self._launcher.forks(Request()))

    # -- clocks

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers.values()):
            due = worker.due()
            if due is not None and due[0] <= now:
                self._doom(worker, due[1])

    def _patience(self) -> float | None:
        """Return for how many seconds there is nothing to do if nothing is heard; None: for ever."""
        left = self._staffing.patience(self._ready, self._workers.values())
        times = [due[0] for worker in self._workers.values() if (due := worker.due()) is not None]
        if not times:
            return left
        first = max(0.0, min(times) - time.monotonic())
        return first if left is None else min(left, first)

    # -- the end

    def _give_up(self, error: BaseException) -> None:
        """Leave no future without an end, whatever has gone wrong here."""
        self._take_inbox()
        for call in [*self._ready, *(call for worker in self._workers.values() for call in worker.under_way)]:
            call.fail(error)

    def _clear(self) -> None:
        for worker in self._workers.values():
            worker.stop()
            self._watch_room(worker)
        deadline = time.monotonic() + (0.0 if self._killing else _LAST_WORDS)
        while self._workers and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
        for worker in list(self._workers.values()):
            self._leave(worker)
        self._launcher.close()
        self._release()

    def _release(self) -> None:
        self._settings.machine.release()
        self._selector.close()
        self._wake_r.close()
        self._wake_w.close()
