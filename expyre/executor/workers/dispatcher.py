"""The thread that gives calls to workers and takes their answers."""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from expyre.errors import ExPyReJobDiedError, TimedOut, WorkerDied
from expyre.executor.calls import Call
from expyre.executor.pickles.pickling import Pickles
from expyre.executor.requests import Request
from expyre.executor.workers.channels import Channel, StreamChannel
from expyre.executor.workers.deaths import Deaths, how
from expyre.executor.workers.loop import WRITE, Loop
from expyre.executor.workers.places import Place
from expyre.executor.workers.settings import Settings
from expyre.executor.workers.staffing import Block, PerCall, Staffing
from expyre.executor.workers.worker import Answer, Worker

__all__ = ["Dispatcher"]

_LAST_WORDS = 5.0  # seconds that workers have to end by themselves
_MOST_STILLBORN = 3  # workers, one after the other, that ended before they were ready

logger = logging.getLogger(__name__)


class Dispatcher:
    """What a thread does that serves calls by workers which are connected by sockets; nothing is polled.

    Other threads only leave it mail.

    Parameters
    ----------
    settings
        What workers there are to be.
    pickles
        Makes pickles of calls that were not made when they were submitted.

    Attributes
    ----------
    loop
        Takes mail: calls, and functions that the thread is to call.
    """

    def __init__(self, settings: Settings, pickles: Pickles) -> None:
        self.loop: Loop[Callable[[], None] | Call] = Loop(self._too_late)
        self._settings = settings
        self._launcher = settings.launcher
        self._staffing: Staffing = Block(settings) if settings.block else PerCall(settings)
        self._pickles = pickles
        self._workers: dict[int, Worker] = {}
        self._numbers = itertools.count(1)
        self._ready: deque[Call] = deque()
        self._deaths = Deaths()
        self._stillborn = 0
        self._broken: BaseException | None = None
        self._closing = self._killing = False

    def run(self) -> None:
        """Serve calls until told to end, and until all are done."""
        try:
            self.loop.open()
            self.loop.watch(self._launcher.start_keeper().sock, self._hear_keeper)
            while not self._is_over():
                self._step()
        except OSError as error:
            self._give_up(error)
        except BaseException as error:
            logger.exception("An executor cannot go on")
            self._give_up(error)
        finally:
            self._clear()

    def _step(self) -> None:
        self.loop.wait(self._patience())
        self._take_mail()
        self._look_at_clocks()
        self._feed()

    def _take_mail(self) -> None:
        for what in self.loop.taken():
            if isinstance(what, Call):
                self._ready.append(what)
            else:
                what()

    def _is_over(self) -> bool:
        busy = any(worker.under_way for worker in self._workers.values())
        return self._closing and not self.loop.has_mail and not self._ready and not busy

    def close(self, cancel: bool, kill: bool) -> None:
        """End when all is done. See `Backend.close`."""
        self._closing = True
        if cancel:
            self._ready = deque(call for call in self._ready if not call.cancel())
        if kill:
            self._killing = True
            for worker in self._workers.values():
                self._doom(worker, _killed(*worker.under_way))

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
        if self._launcher.has_door and not self.loop.watches(self._launcher.door.sock):
            self.loop.watch(self._launcher.door.sock, lambda _mask: self._launcher.door.open(self._welcome))
        for rank in worker.channels:
            self._connect(worker, rank)
        return worker

    def _give(self, worker: Worker, call: Call) -> None:
        try:
            self._pickles.now(call)
            worker.give(call, self._pickles.functions.generation)
        except Exception as error:  # it has no pickle, or no memory is left to send it in
            self._fail(call, error)
        if worker.once:
            worker.stop()
        self._watch_room(worker)

    def _watch_room(self, worker: Worker) -> None:
        """See to it that what could not be sent for want of room is sent when there is some."""
        for channel in worker.channels.values():
            if channel.waits:
                self.loop.watch_room(channel.sock, True)

    # -- hearing from workers

    def _welcome(self, number: int, rank: int, sock: socket.socket) -> None:
        """Let a rank join its worker; called in any thread."""
        self.loop.put(partial(self._join_worker, number, rank, sock))

    def _join_worker(self, number: int, rank: int, sock: socket.socket) -> None:
        worker = self._workers.get(number)
        if worker is None or rank >= worker.size or rank in worker.channels:
            sock.close()
            return
        worker.channels[rank] = StreamChannel(sock)
        self._connect(worker, rank)

    def _connect(self, worker: Worker, rank: int) -> None:
        self.loop.watch(worker.channels[rank].sock, partial(self._hear, worker, rank))
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
        if mask & ~WRITE and not worker.read(rank, self._answered):
            self.loop.unwatch(channel.sock)
            worker.lose(rank)
        elif channel.waits or mask & WRITE:  # an answer makes room, long before the system calls the socket writable
            self._send_rest(worker, channel)

    def _send_rest(self, worker: Worker, channel: Channel) -> None:
        try:
            channel.flush()
        except OSError as error:  # no memory, or no descriptor for it
            self._doom(worker, error)
        self.loop.watch_room(channel.sock, channel.waits and worker.doomed is None)

    def _answered(self, worker: Worker, answer: Answer) -> None:
        if worker.calls and answer.unknown:
            self._ready.appendleft(worker.give_back())
        elif worker.calls:
            self._done(worker.calls.popleft(), answer)
        elif not answer.ok:  # it could not be set up
            if worker.reserved is None:
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
        self.loop.unwatch(self._launcher.keeper.sock)
        self._launcher.keeper.close()
        for worker in list(self._workers.values()):
            worker.end_group()
            self._bury(worker, {"status": -9, "why": "was ended because the process that keeps it had been killed"})
        self.loop.watch(self._launcher.start_keeper().sock, self._hear_keeper)

    def _bury(self, worker: Worker, note: dict[str, Any]) -> None:
        """Take leave of a worker whose process has ended; first read what it has left."""
        for rank in worker.channels:
            worker.read(rank, self._answered)
        untaken = worker.take_back()
        self._leave(worker)
        if not worker.ready and worker.reserved is None:
            self._count_stillborn(worker, note)
        again = [call for call in worker.under_way if self._is_tried_again(worker, call, note)]
        if self._killing:
            for call in untaken:
                self._fail(call, _killed(call))
            untaken = []
        self._ready.extendleft(reversed([*again, *untaken]))

    def _leave(self, worker: Worker) -> None:
        """Forget a worker, and give away its place."""
        del self._workers[worker.number]
        self._settings.machine.take_back(worker.place)
        for channel in worker.channels.values():
            self.loop.unwatch(channel.sock)
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

    def _too_late(self, what: Callable[[], None] | Call) -> None:
        """Deal with what comes when the thread has ended, which happens only if something is wrong."""
        if isinstance(what, Call):
            what.fail(self._broken or WorkerDied(f"{what} was not run: the executor has ended"))
        elif isinstance(what, partial) and what.func == self._join_worker:
            what.args[2].close()

    def _give_up(self, error: BaseException) -> None:
        """Leave no future without an end, whatever has gone wrong here."""
        self._broken = error
        self._take_mail()
        for call in [*self._ready, *(call for worker in self._workers.values() for call in worker.under_way)]:
            call.fail(error)

    def _clear(self) -> None:
        try:
            self._see_off()
        finally:
            self._launcher.close()
            self.release()

    def _see_off(self) -> None:
        """Let workers end by themselves, for a while."""
        for worker in self._workers.values():
            worker.stop()
            self._watch_room(worker)
        deadline = time.monotonic() + (0.0 if self._killing else _LAST_WORDS)
        while self._workers and (left := deadline - time.monotonic()) > 0:
            self.loop.wait(left)
        for worker in list(self._workers.values()):
            self._leave(worker)

    def release(self) -> None:
        """Let go of what the machine has given."""
        self._settings.machine.release()
        self.loop.close()


def _killed(*calls: Call) -> WorkerDied:
    return WorkerDied(f"{', '.join(map(str, calls)) or 'a worker'}: the executor was shut down at once")
