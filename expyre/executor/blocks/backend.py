"""The backend: a thread that takes calls to a spool and results from it, and sees to it that there are workers."""

from __future__ import annotations

import logging
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

from expyre.errors import ExPyReError, SchedulerError, TransportError, WorkerDied
from expyre.executor.attended import Attended
from expyre.executor.blocks.jobs import WorkerJobs
from expyre.executor.blocks.pace import Pace
from expyre.executor.blocks.remote import PARENT, RemoteSpool
from expyre.executor.blocks.rounds import Rounds
from expyre.executor.blocks.settings import Settings, read_settings
from expyre.executor.blocks.staff import Staff
from expyre.executor.calls import Call
from expyre.executor.pickles.pickling import setup_payload
from expyre.executor.requests import Request
from expyre.node.serving import messages
from expyre.patience import tries_and_pause

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.executor.backends import Options

__all__ = ["Blocks", "make_blocks"]

log = logging.getLogger(__name__)

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
        self._settings = settings
        self._system = project.systems[settings.system]
        name = secrets.token_hex(8)
        root = self._system.remote_rundir or str(project.stage_root)
        self._spool = RemoteSpool(self._system.transport, f"{root}/{PARENT}/{name}")
        self._pace = Pace(
            settings.refresh_rate, settings.lease, self._system.scheduler.poll_range, far=self._system.host is not None
        )
        self._rounds = Rounds(self._spool, settings, setup)
        self._staff = Staff(WorkerJobs(project, settings, name, f"../{PARENT}/{name}"), settings, self._pace)
        self._failures = 0
        self._broken: BaseException | None = None
        self._killing = self._stopped = False

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
            self._rounds.pickles.early(call)
        except BaseException as error:
            call.fail(error)
            return
        call.future.add_done_callback(partial(self._note_cancelled, call))
        self._post(call)

    # ------------------------------------------------------------------------------------------- its own thread

    def _run(self) -> None:
        try:
            while not self._is_over():
                self._wake.wait(self._pace.left(bool(self._rounds.ledger), bool(self._staff)))
                self._take_inbox()
                self._step()
        except BaseException as error:
            self._break(error)
            raise
        finally:
            self._clear()

    def _is_over(self) -> bool:
        return self._closing and not self._inbox and not self._rounds.ledger

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
                self._rounds.ledger.ready.append(what)

    def _withdraw(self, call: Call) -> None:
        """See to it that nobody begins a call that was cancelled."""
        self._rounds.withdraw(call)

    def _close(self, cancel: bool, kill: bool) -> None:
        self._closing = True
        if cancel:
            for call in list(self._rounds.ledger):
                call.cancel()
        if kill:
            self._killing = True
            self._staff.cancel(everybody=True)
            self._rounds.fail(WorkerDied("the executor was shut down while the call was running"))

    def _step(self) -> None:
        """Do what is due: a round, a look at the queue, new workers."""
        if self._killing or self._stopped or not (self._rounds.ledger or self._staff or self._broken):
            return
        try:
            if self._broken is not None:
                self._stop()
                return
            self._round()
            self._staff.look(wanted=bool(self._rounds.ledger))
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

    def _round(self) -> None:
        sends = self._rounds.prepare()
        began = time.monotonic()
        report = self._rounds.give()
        found = self._rounds.heed(report, self._staff.take_gone())
        self._staff.heed(report, answered=found.answered)
        if found.broken is not None:
            self._break(found.broken)
        self._pace.looked(time.monotonic() - began, found.moved or sends)

    def _hire(self) -> None:
        """Have as many workers as there are calls for; a refusal of the queue is final."""
        try:
            self._staff.hire(len(self._rounds.ledger))
        except (ExPyReError, OSError) as error:
            if isinstance(error, TransportError) and error.transient:
                raise
            self._break(error)

    # -- the end

    def _break(self, error: BaseException) -> None:
        """Leave no future without an end, now and later."""
        self._broken = error
        self._rounds.fail(error)
        for what in [self._inbox.popleft() for _ in range(len(self._inbox))]:
            if isinstance(what, Call):
                what.fail(error)
            else:
                what()

    def _stop(self) -> None:
        """Tell the workers to end, and the queue to forget those that have not begun."""
        self._stopped = True
        self._spool.stop()
        self._staff.cancel(everybody=self._killing)

    def _clear(self) -> None:
        """End the workers and remove what there is of them."""
        if not self._rounds.opened:
            return
        try:
            self._stop()
            self._staff.see_off()
            self._spool.remove()
        except (ExPyReError, OSError) as error:
            log.warning("the workers on %s end by themselves, but could not be told to: %s", self._system.host, error)
