"""The backend: a thread that takes calls to a spool directory and results from it, round by round."""

from __future__ import annotations

import logging
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from expyre.errors import ExPyReError, ExPyReJobDiedError, RequestError, SchedulerError, TransportError, WorkerDied
from expyre.executor.attended import Attended
from expyre.executor.blocks.answers import Answer, read_answer
from expyre.executor.blocks.jobs import Ended, WorkerJobs
from expyre.executor.blocks.ledger import Ledger, Placed
from expyre.executor.blocks.pace import Pace
from expyre.executor.blocks.remote import PARENT, RemoteSpool, note_in
from expyre.executor.blocks.script import Order, Report
from expyre.executor.blocks.settings import Settings, read_settings
from expyre.executor.calls import Call
from expyre.executor.pickles.pickling import Pickles, setup_payload
from expyre.executor.requests import Request
from expyre.node.blocks import spool as names
from expyre.node.blocks.spool import Label
from expyre.node.serving import messages
from expyre.patience import tries_and_pause

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.executor.backends import Options

__all__ = ["Blocks", "make_blocks"]

log = logging.getLogger(__name__)

_MOST_AHEAD = 64 * 1024**2  # bytes of calls in the spool that nobody has claimed, and in one round
_LEAST_AHEAD = 4  # calls for each worker that are there in any case
_MOST_STILLBORN = 3  # worker jobs, one after the other, that ended before they served anything
_LAST_WORDS = 60.0  # seconds that workers have to end by themselves
_GATHER_UP = 0.02  # seconds that calls have to come in before the first of them are sent


def make_blocks(options: Options, project: Project) -> Blocks:
    """Return the backend whose workers live in jobs of a system.

    Raises
    ------
    RequestError
        The system has not what each worker asks for.
    """
    settings = read_settings(options, project)
    return Blocks(project, settings, setup_payload(options.init_function))


class Blocks(Attended):
    """Serves calls by workers in queue jobs.

    Parameters
    ----------
    project
        Whose jobs they are.
    settings
        What workers there are to be.
    setup
        Pickled function that each worker calls first; None for none.
    """

    def __init__(self, project: Project, settings: Settings, setup: messages.Payload | None = None) -> None:
        super().__init__("expyre-blocks")
        self._project = project
        self._settings = settings
        self._setup = setup
        self._system = project.systems[settings.system]
        name = secrets.token_hex(8)
        root = self._system.remote_rundir or str(project.stage_root)
        self._spool = RemoteSpool(self._system.transport, f"{root}/{PARENT}/{name}")
        self._jobs = WorkerJobs(project, settings, name, f"../{PARENT}/{name}")
        self._pickles = Pickles()
        self._ledger = Ledger()
        self._order = Order(1)
        self._sent: set[int] = set()  # functions
        self._tried = False  # whether the order was given before, and it is not known what has become of it
        self._doubtful: set[int] = set()  # batches that were given more than once
        self._failures = 0
        self._lives: dict[str, str] = {}  # notes that have been heeded, by worker
        self._whys: dict[str, str] = {}
        self._stillborn = 0
        self._served: set[str] = set()
        self._gone: list[Ended] = []
        self._broken: BaseException | None = None
        self._open = self._killing = self._stopped = False
        self._pace = Pace(
            settings.refresh_rate, settings.lease, self._system.scheduler.poll_range, far=self._system.host is not None
        )

    # ---------------------------------------------------------------------------------------------- any thread

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        return self._settings.max_workers

    def check(self, request: Request) -> None:
        """Raise RequestError if a request can never be met."""
        launch = self._settings.launch
        self._system.check(launch.resources, launch.exact_fit, launch.partial_node)

    def take(self, call: Call) -> None:
        """Take a call; it is pickled here and now, unless too much waits already."""
        try:
            if self._broken is not None:
                raise self._broken
            self._pickles.early(call)
        except BaseException as error:
            call.fail(error)
            return
        call.future.add_done_callback(partial(self._note_cancelled, call))
        self._post(call)

    # ------------------------------------------------------------------------------------------- its own thread

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._wake.wait(self._pace.left(bool(self._ledger), bool(self._jobs)))
                self._take_inbox()
                self._step()
        except BaseException as error:
            self._break(error)
            raise
        finally:
            self._clear()

    def _is_over(self) -> bool:
        return self._closing and not self._inbox and not self._ledger

    def _take_inbox(self) -> None:
        if self._wake.is_set() and not self._closing:
            time.sleep(_GATHER_UP)
        self._wake.clear()
        while self._inbox:
            what = self._inbox.popleft()
            self._pace.hurry()
            if not isinstance(what, Call):
                what()
            elif self._broken is not None:
                what.fail(self._broken)
            else:
                self._ledger.ready.append(what)

    def _close(self, cancel: bool, kill: bool) -> None:
        self._closing = True
        if cancel:
            for call in list(self._ledger):
                call.cancel()
        if kill:
            self._killing = True
            self._jobs.cancel(self._jobs.workers)
            for call in list(self._ledger):
                call.fail(WorkerDied("the executor was shut down while the call was running"))
            self._ledger = Ledger()

    def _step(self) -> None:
        """Do what is due: a round, a look at the queue, new workers."""
        if self._killing or self._stopped or not (self._ledger or self._jobs or self._broken):
            return
        try:
            if self._broken is not None:
                self._stop()
                return
            self._round()
            self._look()
            self._hire()
            self._failures = 0
        except (ExPyReError, OSError) as error:
            self._failures += 1
            if not self._is_worth_another_try(error):
                self._break(error)
                return
            log.warning("%s; trying again in %.0f s", error, self._pace.failed())

    def _is_worth_another_try(self, error: Exception) -> bool:
        """Return whether it may go away by itself: a host out of reach always may, calls wait for it to come back."""
        if isinstance(error, TransportError):
            return error.transient
        return isinstance(error, SchedulerError) and self._failures < tries_and_pause()[0]

    # -- a round

    def _round(self) -> None:
        if not self._open:
            self._spool.open(self._setup)
            self._open = True
        if self._tried:
            self._doubtful.add(self._order.number)
        else:
            self._fill()
        began, self._tried = time.monotonic(), True
        report = self._spool.round(self._order)
        order, self._order, self._tried = self._order, Order(self._order.number + 1), False
        moved = self._heed(report)
        # what was given twice stays, so that even a very late first try finds it
        self._order.spent = [batch for batch in self._ledger.spent() if batch not in self._doubtful]
        self._pace.looked(time.monotonic() - began, moved or bool(order.calls))

    def _fill(self) -> None:
        """Put calls into the order, as many as are to lie ready for the workers."""
        ledger, least = self._ledger, _LEAST_AHEAD * self._settings.max_workers
        while ledger.ready and (ledger.waiting < least or ledger.waiting_bytes < _MOST_AHEAD):
            call = ledger.ready.popleft()
            if call.future.cancelled():
                call.begin()  # who waits for it is told
                self._pickles.done(call)
                continue
            try:
                self._place(call)
            except RequestError as error:
                call.fail(error)

    def _place(self, call: Call) -> None:
        self._pickles.now(call)
        assert call.pickled is not None
        assert call.payload is not None
        token, ticket = call.pickled.token, self._ledger.next_ticket()
        if token not in self._sent:
            pieces = messages.pack(messages.FUNCTION, token=token, payload=call.pickled.payload)
            self._order.functions[token] = self._spool.sign(pieces)
            self._sent.add(token)
        pieces = messages.pack(messages.CALL, token=token, number=ticket, payload=call.payload)
        self._order.calls[ticket] = self._spool.sign(pieces)
        self._ledger.place(call, ticket, self._order.number, call.payload.nbytes)

    def _withdraw(self, call: Call) -> None:
        """See to it that nobody begins a call that was cancelled."""
        placed = self._ledger.find(call)
        if placed is not None:
            self._order.withdrawn.append((placed.batch, placed.ticket))
            call.begin()  # who waits for it is told
            self._forget(placed)

    def _forget(self, placed: Placed) -> None:
        """Have no more to do with a call that has ended."""
        self._ledger.remove(placed)
        self._pickles.done(placed.call)

    # -- what a round has found

    def _heed(self, report: Report) -> bool:
        """Act upon a report; return whether there is anything new."""
        moved = self._heed_claims(report)
        for name, data in report.results.items():
            moved = True
            self._heed_result(name, data)
        for worker, data in report.notes.items():
            self._heed_note(worker, note_in(data))
        for ended in self._gone:
            self._bury(ended, report)
        self._gone = []
        return moved

    def _heed_claims(self, report: Report) -> bool:
        moved = False
        for name in [*report.claimed, *report.begun]:
            label, worker = Label.read(name), name.partition("@")[2]
            placed = None if label is None else self._ledger.placed.get(label.ticket)
            self._served.add(worker)
            self._jobs.begun(worker)
            if placed is None or placed.worker == worker:
                continue
            moved = True
            if placed.call.begin():
                self._ledger.claim(placed, worker)
            else:  # it was cancelled while a worker claimed it
                self._forget(placed)
        return moved

    def _heed_result(self, name: str, data: bytes) -> None:
        if name.startswith(names.SETUP):
            self._order.seen.append(name)
            self._break(self._answer(name, data, 0, "a worker").value)
            return
        label = Label.read(name)
        placed = None if label is None else self._ledger.placed.get(label.ticket)
        self._order.seen.append(name)
        if placed is None:  # of a call that is not waited for any more
            return
        self._stillborn = 0
        self._settle(placed, self._answer(name, data, placed.ticket, placed.call))

    def _answer(self, name: str, data: bytes, ticket: int, what: object) -> Answer:
        try:
            return read_answer(self._spool.read(data, name), ticket, what)
        except ExPyReError as error:
            return Answer(False, error)

    def _settle(self, placed: Placed, answer: Answer) -> None:
        """End a call, or try it again if its worker has died."""
        call = placed.call
        if answer.died:
            call.tries += 1
            if call.tries <= self._settings.restart_limit and not call.future.cancelled():
                self._ledger.remove(placed)
                self._ledger.ready.appendleft(call)
                return
        if call.begin():
            call.end(answer.ok, answer.value)
        self._forget(placed)

    def _heed_note(self, worker: str, note: dict[str, Any]) -> None:
        if note:
            self._jobs.begun(worker)
            if note.get("served"):
                self._served.add(worker)
        if note.get("state") == "ended" and self._lives.get(worker) != note.get("life"):
            self._lives[worker] = str(note.get("life"))
            self._whys[worker] = str(note.get("why"))
            log.info("worker %s on %s has ended: %s", worker, note.get("host"), note.get("why"))
            self._jobs.leaves(worker)
            self._pace.look_soon()

    # -- workers

    def _look(self) -> None:
        """Ask the queue for the jobs of workers, if it is time for that."""
        if not self._jobs or not self._pace.is_time_to_look():
            return
        began = time.monotonic()
        self._gone = self._jobs.look()
        self._pace.asked(time.monotonic() - began, bool(self._gone))
        for ended in self._gone:
            self._count_stillborn(ended)
        self._jobs.tidy()

    def _bury(self, ended: Ended, report: Report) -> None:
        """Find out, in a round after the end of a worker, what has become of its calls."""
        for name in report.claimed:
            if name.partition("@")[2] == ended.worker:
                self._order.returned.append(name)
        for name in report.begun:
            label, _, worker = name.partition("@")
            if worker == ended.worker:
                self._order.forgotten.append(name)
                placed = self._ledger.placed.get(int(label.partition("-")[0]))
                if placed is not None:
                    self._settle(placed, _died(placed, ended))

    def _count_stillborn(self, ended: Ended) -> None:
        """Give up if one worker's job after the other ends before it has served anything."""
        if not self._ledger or not ended.for_good or ended.worker in self._served:
            return
        self._stillborn += 1
        if self._stillborn >= _MOST_STILLBORN and self._broken is None:
            what = f"{self._stillborn} jobs of workers on {self._settings.system}, one after the other, have ended"
            why = ended.error or self._whys.get(ended.worker) or "it has not said why"
            broken = WorkerDied(f"{what} before they served a call. The last one: {why}")
            broken.__cause__ = ended.error
            self._break(broken)

    def _hire(self) -> None:
        """Submit jobs of workers, together, if there are more calls than workers."""
        missing = min(len(self._ledger), self._settings.max_workers) - self._jobs.available
        if missing > 0 and self._broken is None:
            try:
                self._jobs.hire(missing)
            except (ExPyReError, OSError) as error:
                if isinstance(error, TransportError) and error.transient:
                    raise
                self._break(error)
            self._pace.hurry()

    # -- the end

    def _break(self, error: BaseException) -> None:
        """Leave no future without an end, now and later."""
        self._broken = error
        for call in list(self._ledger):
            call.fail(error)
        self._ledger, self._order = Ledger(), Order(self._order.number + 1)
        for what in [self._inbox.popleft() for _ in range(len(self._inbox))]:
            if isinstance(what, Call):
                what.fail(error)
            else:
                what()

    def _stop(self) -> None:
        """Tell the workers to end, and the queue to forget those that have not begun."""
        self._stopped = True
        self._spool.stop()
        self._jobs.cancel(self._jobs.workers if self._killing else self._jobs.waiting())

    def _clear(self) -> None:
        """End the workers and remove what there is of them."""
        if not self._open:
            return
        try:
            self._stop()
            deadline = time.monotonic() + _LAST_WORDS
            while self._jobs and time.monotonic() < deadline:
                time.sleep(self._pace.last_looks)
                self._jobs.look()
            self._jobs.cancel(self._jobs.workers)
            self._jobs.tidy(everything=True)
            self._spool.remove()
        except (ExPyReError, OSError) as error:
            log.warning("the workers on %s end by themselves, but could not be told to: %s", self._system.host, error)


def _died(placed: Placed, ended: Ended) -> Answer:
    """Return what has come of a call whose worker's job has ended under it."""
    named = isinstance(ended.error, ExPyReJobDiedError) and type(ended.error) is not ExPyReJobDiedError
    kind: Any = type(ended.error) if named else WorkerDied
    error: BaseException = kind(f"{placed.call}: the job of its worker has ended. {ended.error or ''}".rstrip())
    error.__cause__ = ended.error
    return Answer(False, error, died=True)
