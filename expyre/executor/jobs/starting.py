"""Which jobs of an executor are submitted when, how, and how often."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expyre import gather
from expyre.errors import Cancelled, ExPyReError, ExPyReJobDiedError, GatherError, TimedOut
from expyre.executor.jobs.flights import Flight
from expyre.func import ExPyRe, restart_jobs, submit_jobs
from expyre.launch import waits_for_room
from expyre.retry import Retry
from expyre.states import CREATED, DIED

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.executor.backends import Options

__all__ = ["Starter"]

log = logging.getLogger(__name__)

_MANY = 1000  # jobs at a time without any limit


@dataclass(frozen=True)
class _Restarts(Retry):
    """Tries again what has died, unless it ran out of time or somebody has cancelled it."""

    def wants(self, exc: BaseException, tried: int) -> bool:
        """Return whether a job that failed with ``exc`` is to be tried again after ``tried`` retries."""
        died = isinstance(exc, ExPyReJobDiedError) and not isinstance(exc, TimedOut | Cancelled)
        return died and tried < self.max_retries


class Starter:
    """Submits jobs, together if they ask for the same, and no more at a time than an executor may have.

    Attributes
    ----------
    retry
        Policy for jobs that died; None for that of the system.
    most
        Most jobs at a time.
    """

    def __init__(self, project: Project, options: Options) -> None:
        self._project = project
        self._cores = options.max_cores
        self._limit = options.max_workers
        self.retry = _Restarts(options.restart_limit) if options.restart_limit else None
        self.most: int = options.max_workers or project.systems[options.backend].max_queued or _MANY
        self._line: dict[Flight, bool] = {}

    def add(self, flight: Flight, *, again: bool) -> None:
        """Let a flight wait for its start; ``again`` says that its job was submitted before, and is to be anew."""
        self._line[flight] = again

    def drop(self, flight: Flight) -> None:
        """Forget a flight that waits."""
        self._line.pop(flight, None)

    def start(self, under_way: Sequence[Flight]) -> tuple[list[Flight], list[tuple[Flight, BaseException]]]:
        """Submit what there is room for.

        Parameters
        ----------
        under_way
            What has been submitted and not ended.

        Returns
        -------
        What was submitted, and what could not be, with the reasons.
        """
        started: list[Flight] = []
        failed: list[tuple[Flight, BaseException]] = []
        for group, again in self._take(under_way):
            errors = self._submit(group, again)
            for flight in group:
                error = errors.get(_job(flight).id)
                if error is None:
                    flight.submitted = True
                    started.append(flight)
                else:
                    failed.append((flight, error))
        return started, failed

    def _take(self, under_way: Sequence[Flight]) -> list[tuple[list[Flight], bool]]:
        """Take the flights from the line for which there is room, divided by how they are submitted."""
        groups: dict[Any, tuple[list[Flight], bool]] = {}
        count, cores = len(under_way), sum(flight.slots for flight in under_way)
        for flight, again in list(self._line.items()):
            count, cores = count + 1, cores + flight.slots
            if count > (self._limit or count) or cores > (self._cores or cores):
                break
            del self._line[flight]
            details = tuple(flight.options.to_details().items())
            groups.setdefault((again, details), ([], again))[0].append(flight)
        return list(groups.values())

    def _submit(self, flights: Sequence[Flight], again: bool) -> dict[str, BaseException]:
        """Submit flights that are submitted alike; return why the queue refused jobs, by id."""
        jobs, options = [_job(flight) for flight in flights], flights[0].options
        try:
            if again:
                restart_jobs(jobs, options, note="asked for again")
            else:
                submit_jobs(jobs, options)
        except GatherError as error:
            return dict(error.failures)
        except Exception as error:
            rows = self._project.record.rows([job.id for job in jobs])
            left = [i for i, row in rows.items() if row.status in (CREATED, DIED) and not waits_for_room(row)]
            return dict.fromkeys(left, error)
        return {}

    def note_in_plan(self, flights: Iterable[Flight]) -> None:
        """Add what would be submitted to the plan of a dry run."""
        groups: dict[Any, list[Flight]] = {}
        for flight in flights:
            groups.setdefault(tuple(flight.options.to_details().items()), []).append(flight)
        for group in groups.values():
            submit_jobs([_job(flight) for flight in group], group[0].options)

    def cancel(self, flights: Iterable[Flight]) -> None:
        """Ask the queues to end jobs."""
        groups: dict[str, list[ExPyRe]] = {}
        for flight in flights:
            job = _job(flight)
            job.refresh(self._project.record.row(job.id))
            if job.system is not None and job.remote_id:
                groups.setdefault(str(job.system_name), []).append(job)
        for name, jobs in groups.items():
            try:
                self._project.systems[name].scheduler.cancel([str(job.remote_id) for job in jobs])
                self._project.record.step([gather.cancelled(job.id, "cancelled") for job in jobs])
            except ExPyReError as error:
                log.warning("%d jobs could not be cancelled: %s", len(jobs), error)


def _job(flight: Flight) -> ExPyRe:
    assert flight.job is not None
    return flight.job
