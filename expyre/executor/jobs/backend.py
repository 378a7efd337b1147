"""The thread that makes jobs of calls, submits them together, and watches them together."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from expyre import plan
from expyre.errors import ExPyReTimeoutError, PlanEnd, RequestError
from expyre.executor.attended import Attended
from expyre.executor.calls import Call
from expyre.executor.jobs.flights import Flight, keyed, make_jobs_of
from expyre.executor.jobs.requests import JobRequest
from expyre.executor.jobs.starting import Starter
from expyre.executor.requests import Request
from expyre.gather import Watch
from expyre.identity import remembering
from expyre.outcome import Outcome, read_outcome
from expyre.states import CREATED, DIED, END_CANCELLED, GROUPS, RUNNING, STARTED, SUCCEEDED

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.executor.backends import Options

__all__ = ["Jobs", "make_jobs"]

log = logging.getLogger(__name__)

_QUIET = 0.05  # seconds without a new call after which those that have come become jobs
_LEFT = "the script ends, and waits for this call no more; its job goes on, and is found when the script runs again"
_MOST_WAIT = 1.0  # seconds after which they do in any case


def make_jobs(options: Options, project: Project) -> Jobs:
    """Return the backend whose calls are jobs of the system that some options name.

    Raises
    ------
    RequestError
        Something is asked for that jobs do not have.
    """
    if options.init_function is not None or options.block_allocation:
        raise RequestError("Executor: without block_allocation each call is a job of its own")
    return Jobs(options, project)


class Jobs(Attended):
    """Makes each call a job of a system, recorded, submitted once and found again, like all jobs of a project.

    Calls that come within a moment become jobs together: one transfer, and one array of those that ask for the same.
    All are watched together. Equal calls are one job. A future is pending until the queue says that its job runs.
    Closing never ends jobs; with ``kill`` they are left to themselves, to be found by the next run.

    Parameters
    ----------
    options
        Of the executor.
    project
        Whose jobs they are.
    """

    def __init__(self, options: Options, project: Project) -> None:
        super().__init__("expyre-jobs")
        self._options = options
        self._project = project
        self._name = options.backend
        self._system = project.systems[self._name]
        self._starter = Starter(project, options)
        self._watch = Watch(retry=self._starter.retry, least_interval=options.refresh_rate)
        self._flights: dict[tuple[str | None, str], Flight] = {}
        self._by_job: dict[str, Flight] = {}
        self._deserted: list[Flight] = []
        self._flight_of: dict[Call, Flight] = {}
        self._leaving = False

    # ---------------------------------------------------------------------------------------------- any thread

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        return self._starter.most

    def check(self, request: Request) -> None:
        """Raise RequestError if a request can never be met."""
        what = []
        if request.cwd is not None:
            what.append("cwd: a job has a directory of its own; name input_files and output_files")
        if request.command_line_argument_lst and request.cores == 1:
            what.append(
                "command_line_argument_lst: it is for the command that starts MPI ranks (cores); header_extra is what "
                "goes to the queue of a system"
            )
        most = self._options.max_cores
        if most is not None and request.slots > most:
            what.append(f"{request.slots} cores are asked for, there are {most} (max_cores)")
        if what:
            raise RequestError("; ".join(what))
        cast("JobRequest", request).options(self._name, self._system)

    def take(self, call: Call) -> None:
        """Take a call; its arguments must not be changed before it is pending in the queue."""
        call.future.add_done_callback(partial(self._note_cancelled, call))
        self._post(call)

    # ------------------------------------------------------------------------------------------- its own thread

    def _run(self) -> None:
        while not self._is_over():
            self._wait()
            try:
                self._step()
            except Exception as error:
                log.exception("the jobs of an executor could not be looked after")
                self._fail(list(self._flights.values()), error)
                self._watch.drop(list(self._watch.waiting))

    def _is_over(self) -> bool:
        return self._closing and not self._inbox and not self._flights

    def _wait(self) -> None:
        """Wait for calls, or until it is time to look at jobs."""
        left = max(0.0, self._watch.due - time.monotonic()) if self._watch.waiting else None
        if self._wake.wait(left) and not self._closing:
            self._let_more_come()
        self._wake.clear()

    def _let_more_come(self) -> None:
        end = time.monotonic() + _MOST_WAIT
        seen = -1
        while len(self._inbox) != seen and time.monotonic() < end and not self._closing:
            seen = len(self._inbox)
            time.sleep(_QUIET)

    def _step(self) -> None:
        self._board(self._take_inbox())
        self._cancel_deserted()
        if self._watch.waiting and time.monotonic() >= self._watch.due:  # first of all what is known already
            for outcome in self._watch.round():
                self._land(outcome)
            self._note_running()
        self._start()

    def _take_inbox(self) -> list[Call]:
        taken: dict[Call, None] = {}
        while self._inbox:
            what = self._inbox.popleft()
            if isinstance(what, Call):
                taken[what] = None
            else:
                what()
        return [call for call in taken if not call.future.cancelled() or call.begin()]

    # -- from calls to jobs

    def _board(self, taken: Sequence[Call]) -> None:
        """Give each call a job: that of an equal call under way, one of the record, or a new one."""
        new: list[Flight] = []
        with remembering():
            for call in taken:
                try:
                    new.extend(self._flight_for(call))
                except Exception as error:
                    call.fail(error)
        made = list(make_jobs_of(self._project, new))
        if plan.active():
            made = self._planned(made)
        for flight in made:
            self._admit(flight)
        for flight in new:
            if flight.job is None:
                self._forget(flight)

    def _flight_for(self, call: Call) -> Iterable[Flight]:
        """Let a call join the flight of equal ones; return that if it is new."""
        request = cast("JobRequest", call.request)
        known = keyed(call, request)
        call.args, call.kwargs = (), {}
        key = (known.scope, known.identity().key)
        flight = self._flights.get(key)
        new = flight is None
        if flight is None:
            flight = Flight(key, known, request.options(self._name, self._system), request.slots)
            self._flights[key] = flight
        flight.waiters.append(call)
        self._flight_of[call] = flight
        return [flight] if new else []

    def _admit(self, flight: Flight) -> None:
        """Decide what becomes of a flight whose job was found or made."""
        job = flight.job
        assert job is not None
        self._by_job[job.id] = flight
        row = job.row
        asked_to_end = row.status in GROUPS["ongoing"] and row.reason == END_CANCELLED
        if row.status in (CREATED, DIED) or asked_to_end:  # one that has died did so for an earlier run
            self._watch.drop([job.id])
            self._starter.add(flight, again=row.status != CREATED)
        else:
            flight.submitted = row.status != SUCCEEDED
            self._watch.add([job])

    def _planned(self, flights: Sequence[Flight]) -> list[Flight]:
        """Add flights to the plan of a dry run; return those whose results are known all the same."""
        self._starter.note_in_plan(flights)
        missing = [flight for flight in flights if flight.job is not None and flight.job.planned]
        if missing:
            try:
                plan.end("results of calls are needed")
            except PlanEnd as error:
                self._fail(missing, error)
        return [flight for flight in flights if flight not in missing]

    def _start(self) -> None:
        """Submit what there is room for."""
        under_way = [flight for flight in self._flights.values() if flight.submitted]
        started, failed = self._starter.start(under_way)
        self._watch.add([flight.job for flight in started if flight.job is not None])
        for flight, error in failed:
            self._fail([flight], error)

    # -- from jobs to results

    def _note_running(self) -> None:
        for job_id, row in self._watch.rows.items():
            if (row.status == STARTED or row.remote_status == RUNNING) and job_id in self._by_job:
                self._by_job[job_id].begin()

    def _land(self, outcome: Outcome) -> None:
        """Deliver what became of a job; it stays in the record, so that later runs are answered from there."""
        flight = self._by_job.get(outcome.job.id)
        if flight is None:  # all its calls were cancelled
            return
        for number, call in enumerate(flight.waiters):
            if number:  # nobody shares a value
                outcome = replace(read_outcome(outcome.job.row), job=outcome.job)
            try:
                value = outcome.job.finish(outcome, quiet=True)[0]
            except Exception as error:
                call.fail(error)
            else:
                if call.begin():
                    call.end(True, value)
        self._forget(flight)

    def _fail(self, flights: Iterable[Flight], error: BaseException) -> None:
        for flight in flights:
            flight.fail(error)
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        self._starter.drop(flight)
        self._flights.pop(flight.key, None)
        if flight.job is not None:
            self._by_job.pop(flight.job.id, None)
        for call in flight.waiters:
            self._flight_of.pop(call, None)

    # -- cancelled calls, and the end

    def _withdraw(self, call: Call) -> None:
        """Take leave of a call that was cancelled."""
        call.begin()
        flight = self._flight_of.pop(call, None)
        if flight is not None:
            flight.waiters.remove(call)
            if not flight.waiters:
                self._deserted.append(flight)

    def _cancel_deserted(self) -> None:
        """Cancel, in the queue, jobs of which nobody wants the results; their ends are recorded if there is time."""
        deserted = [flight for flight in self._deserted if not flight.waiters]
        self._deserted = []
        for flight in deserted:
            self._forget(flight)
        if not self._leaving:
            self._starter.cancel([flight for flight in deserted if flight.submitted])

    def _close(self, cancel: bool, kill: bool) -> None:
        self._closing = True
        self._leaving |= kill
        calls = list(self._flight_of)
        if cancel or kill:
            for call in calls:
                call.cancel()
        if kill:
            self._fail(list(self._flights.values()), ExPyReTimeoutError(_LEFT))
