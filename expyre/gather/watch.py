"""Waiting for jobs together: their outcomes as they come, failed ones tried again, waiting ones submitted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from expyre import stage
from expyre.errors import ExPyReError, ExPyReTimeoutError, InvalidCallError
from expyre.gather.again import try_again
from expyre.gather.pace import Clock, Pace
from expyre.gather.sync import ENDED, sync
from expyre.jobsdb import JobRow
from expyre.launch import Backlog, waits_for_room
from expyre.outcome import Outcome, read_outcome
from expyre.progress import Reporter, reporter
from expyre.retry import Retry
from expyre.starting import Startable
from expyre.states import ALIVE, CREATED, FAILED, STARTED, SUBMITTED, SUCCEEDED

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["Waitable", "Watch", "as_completed"]

log = logging.getLogger(__name__)


class Waitable(Startable, Protocol):
    """What the watcher needs of a job."""


def as_completed(
    jobs: Sequence[Waitable],
    *,
    timeout: float | None = None,
    check_interval: float = 30.0,
    queued_counts: bool = True,
    quiet: bool = False,
    label: str = "jobs",
    retry: Retry | None = None,
    others: bool = False,
) -> Iterator[Outcome]:
    """Yield the outcome of each job as it ends, watching all of them together.

    Parameters
    ----------
    jobs
        Jobs that have been started; several may stand for the same job.
    timeout
        Seconds to wait for each job; None or negative for ever, 0 for one look. A job for which the time is up is
        looked at once more, then yields an ExPyReTimeoutError; it goes on by itself.
    check_interval
        Longest time between two looks, in seconds; up to 30 s where the looks themselves take long.
    queued_counts
        Whether time that a job spends waiting in the queue counts.
    quiet
        Show no progress.
    label
        What the progress line says is being waited for.
    retry
        Policy for jobs that failed; by default that of the job's system, if it has one.
    others
        Whether to look at all jobs that are under way on the same systems: what has become of them is recorded, and
        whoever waits for them next finds it there.
    """
    heads = {job.id for job in jobs}
    with reporter(len(heads), label, quiet=quiet) as progress:
        watch = Watch(timeout, queued_counts, check_interval, retry, progress, others=others)
        watch.add(jobs)
        yield from watch.run()


class Watch:
    """Watches jobs, also such as are added while others are waited for; see `as_completed` for the parameters.

    Attributes
    ----------
    waiting
        The jobs that are waited for, by id.
    rows
        What the record said of them last.
    due
        When the next look is to be, in s of the monotonic clock.
    """

    def __init__(
        self,
        timeout: float | None = None,
        queued_counts: bool = True,
        check_interval: float = 30.0,
        retry: Retry | None = None,
        progress: Reporter | None = None,
        least_interval: float = 0.0,
        others: bool = False,
    ) -> None:
        self.waiting: dict[str, list[Waitable]] = {}
        self.rows: dict[str, JobRow] = {}
        self._retry = retry
        self._others_too = others
        self._progress = reporter(None, "jobs", quiet=True) if progress is None else progress
        self._clock = Clock(timeout, queued_counts)
        self._pace = Pace((), check_interval, least_interval)
        self._backlog = Backlog()
        self._refused: dict[str, BaseException] = {}
        self._since: dict[str, float] = {}
        self._progressed = False
        self.due = 0.0

    def add(self, jobs: Iterable[Waitable]) -> None:
        """Watch jobs, which have been started, as well; several may stand for the same job."""
        new: list[Waitable] = []
        for job in jobs:
            if job.id not in self.waiting:
                new.append(job)
            self.waiting.setdefault(job.id, []).append(job)
        self.rows.update(_current(new))
        self._clock.start(job.id for job in new)
        self._since.update(dict.fromkeys((job.id for job in new), time.time()))
        self._pace.add((job.project, self.rows[job.id].system) for job in new)
        known = any(_is_settled(self.rows[job.id]) for job in new)
        self.due = min(self.due, time.monotonic() + (0.0 if known else self._pace.fastest))

    def drop(self, job_ids: Iterable[str]) -> None:
        """Wait for some jobs no more."""
        for job_id in job_ids:
            self.waiting.pop(job_id, None)

    def _jobs(self) -> list[Waitable]:
        return [group[0] for group in self.waiting.values()]

    def run(self) -> Iterator[Outcome]:
        """Yield outcomes until nothing is waited for any more."""
        while self.waiting:
            yield from self.round()
            if self.waiting:
                time.sleep(max(0.0, self.due - time.monotonic()))

    def round(self) -> Iterator[Outcome]:
        """Look once at all jobs; yield the outcomes of those that have ended, and errors for those given up."""
        before = len(self.waiting)
        self.rows = _current(self._jobs())
        yield from self._settled(self._ended())
        self._clock.tick(self.rows[i] for i in self.waiting)
        self._submit_waiting(self._progressed)
        yield from self._given_up()
        self._progressed = len(self.waiting) < before
        patience = _shortest(self._clock.left(i) for i in self.waiting)
        self.due = time.monotonic() + self._pace.rest(self._progressed, patience)

    def _ended(self) -> list[JobRow]:
        """Return the jobs that have ended; look at all of them unless the record knows of some."""
        known = [self.rows[i] for i in self.waiting if _is_settled(self.rows[i])]
        if known:
            return known
        seen: dict[str, JobRow] = {}
        for project, group in _by_project(self._jobs()):
            seen.update(self._look(project, [self.rows[job.id] for job in group]))
        self.rows = seen
        return [row for row in seen.values() if row.status in ENDED]

    def _look(self, project: Project, rows: list[JobRow]) -> dict[str, JobRow]:
        """Look at jobs, and at others if they are to be looked at too; trouble with the others is theirs."""
        others = self._others(project, rows) if self._others_too else []
        try:
            seen = sync(project, [*rows, *others], since=self._since, looked=self._pace.looked, fresh=True)
        except ExPyReError as error:
            if not others:
                raise
            log.warning("%s; looking at what is waited for alone", error)
            seen = sync(project, rows, since=self._since, looked=self._pace.looked, fresh=True)
        return {row.id: seen[row.id] for row in rows}

    def _others(self, project: Project, rows: Sequence[JobRow]) -> list[JobRow]:
        systems = {row.system for row in rows if row.remote_id}
        under_way = project.record.query(status=[SUBMITTED, STARTED]) if systems else ()
        return [row for row in under_way if row.system in systems and row.id not in self.waiting]

    def _settled(self, ended: Sequence[JobRow]) -> Iterator[Outcome]:
        """Yield the outcomes of ended jobs; those that are tried again go on being waited for."""
        outcomes: dict[str, Outcome] = {}
        for row in ended:
            for job in self.waiting[row.id]:
                job.refresh(row)
            outcomes[row.id] = read_outcome(row)
        failed = [(self.waiting[i][0], o.error) for i, o in outcomes.items() if o.error is not None]
        again = try_again(failed, self._retry)
        self.rows.update({job.id: job.row for job, _ in failed if job.id in again})
        for job_id in [i for i in outcomes if i not in again]:
            group = self.waiting.pop(job_id)
            self._progress.update(1, **_word_counts(self.rows, self.waiting))
            yield from (replace(outcomes.pop(job_id), job=job) for job in group[:1])
            yield from (replace(read_outcome(job.row), job=job) for job in group[1:])

    def _submit_waiting(self, progressed: bool) -> None:
        """Submit the jobs for which the queue had no room before."""
        waiting = [job for job in self._jobs() if waits_for_room(self.rows[job.id])]
        for project, group in _by_project(waiting):
            rows = [self.rows[job.id] for job in group]
            self._refused.update(self._backlog.push(project, rows, progressed=progressed))
            self.rows.update(_current(group))

    def _given_up(self) -> Iterator[Outcome]:
        """Yield an error for jobs that cannot be waited for, or not any longer."""
        for job_id in [i for i in self.waiting if self._is_hopeless(i) or self._clock.is_over(i)]:
            error = self._refused.get(job_id) or _not_there(self.rows[job_id], self._clock.limit)
            yield from (Outcome(job, error=error) for job in self.waiting.pop(job_id))

    def _is_hopeless(self, job_id: str) -> bool:
        row = self.rows[job_id]
        return row.status == CREATED and not waits_for_room(row)


def _is_settled(row: JobRow) -> bool:
    """Tell whether the record and the files here say how a job has ended; a death is not final."""
    if row.status != FAILED:
        return row.status == SUCCEEDED
    here = stage.markers(Path(row.from_dir))
    return here.failed and not here.succeeded


def _shortest(times: Iterable[float | None]) -> float | None:
    known = [t for t in times if t is not None]
    return min(known) if known else None


def _not_there(row: JobRow, limit: float | None) -> BaseException:
    if row.status == CREATED and not waits_for_room(row):
        return InvalidCallError(f"job {row.id} was never started; call start() first")
    where = "waits for room in the queue" if row.status == CREATED else f"is {row.remote_status}"
    return ExPyReTimeoutError(
        f"job {row.id} on {row.system} has no result after {limit:g} s of waiting (it {where}); "
        "it goes on, ask again later or with a longer timeout"
    )


def _current(jobs: Sequence[Waitable]) -> dict[str, JobRow]:
    rows: dict[str, JobRow] = {}
    for project, group in _by_project(jobs):
        rows.update(project.record.rows([job.id for job in group]))
    return rows


def _by_project(jobs: Sequence[Waitable]) -> Iterable[tuple[Project, list[Waitable]]]:
    groups: dict[int, tuple[Project, list[Waitable]]] = {}
    for job in jobs:
        groups.setdefault(id(job.project), (job.project, []))[1].append(job)
    return groups.values()


def _word_counts(rows: dict[str, JobRow], waiting: dict[str, list[Waitable]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for job_id in waiting:
        word = rows[job_id].remote_status
        if word in ALIVE:
            counts[str(word)] = counts.get(str(word), 0) + 1
    return counts
