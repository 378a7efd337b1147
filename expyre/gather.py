"""One watcher for all jobs that are waited for: one look per system and round, results as they come.

Rounds follow each other fast at first and slower while nothing happens, so that short jobs are not waited for and
long ones do not keep the queue busy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from expyre import stage
from expyre.errors import ExPyReTimeoutError, InvalidCallError, TransportError
from expyre.jobsdb import Change, JobRow
from expyre.outcome import Outcome, read_outcome
from expyre.progress import Reporter, reporter
from expyre.retry import Retry
from expyre.states import ALIVE, CREATED, DIED, DONE, FAILED, HELD, QUEUED, SUCCEEDED, UNKNOWN, Verdict, decide
from expyre.steps import step
from expyre.system import Look, System

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["Waitable", "as_completed", "sync"]

log = logging.getLogger(__name__)

ENDED = frozenset({SUCCEEDED, FAILED, DIED})
_IN_QUEUE = frozenset({QUEUED, HELD})


class Waitable(Protocol):
    """What the watcher needs of a job."""

    @property
    def id(self) -> str:
        """The job's id."""
        ...

    @property
    def project(self) -> Project:
        """The project whose record has the job."""
        ...

    def refresh(self, row: JobRow) -> None:
        """Take over what the record says now."""
        ...

    def resubmit(self, retry: Retry, error: BaseException) -> bool:
        """Submit the job again if the policy wants that; say whether it was."""
        ...


def sync(project: Project, rows: Iterable[JobRow], *, since: float = 0.0) -> dict[str, JobRow]:
    """Look at jobs once and record what was found.

    One question to the queue, one look at the files and one transfer of what has ended, for each system.

    Parameters
    ----------
    project
        Whose jobs they are.
    rows
        The jobs; those that no system has are left as they are.
    since
        When the watch began, in seconds since the epoch: silence of the queue before that does not count.

    Returns
    -------
    dict
        The jobs as they are recorded now, by id.
    """
    result: dict[str, JobRow] = {}
    for name, group in _by_system(rows).items():
        system = project.systems.get(name) if name else None
        if system is None:
            if name:
                log.warning("jobs on system %r cannot be looked at: no such system is configured", name)
            result.update((row.id, row) for row in group)
        else:
            result.update(_sync_system(project, system, group, since))
    return result


def _by_system(rows: Iterable[JobRow]) -> dict[str | None, list[JobRow]]:
    groups: dict[str | None, list[JobRow]] = {}
    for row in rows:
        groups.setdefault(row.system if row.remote_id else None, []).append(row)
    return groups


def _sync_system(project: Project, system: System, rows: list[JobRow], since: float) -> dict[str, JobRow]:
    now = time.time()
    try:
        looks = system.look({row.id: (row.remote_id, Path(row.from_dir)) for row in rows})
        verdicts = {row.id: _verdict(row, looks[row.id], since, now) for row in rows}
        system.collect([Path(row.from_dir) for row in rows if _ends(row, verdicts[row.id])])
    except TransportError as error:
        # a fault of the way to the host says nothing about any job
        log.warning("%s; trying again later", error)
        return {row.id: row for row in rows}
    step("gather.2")
    changes = [change for row in rows if (change := _change(row, looks[row.id], verdicts[row.id], now))]
    if changes:
        project.record.step(changes)
        step("gather.3")
        changed = {change.id for change in changes}
        fresh = project.record.rows(list(changed))
        return {row.id: fresh.get(row.id, row) for row in rows}
    return {row.id: row for row in rows}


def _verdict(row: JobRow, look: Look, since: float, now: float) -> Verdict:
    silent = look.told and row.unknown_since is not None
    unknown_for = max(0.0, now - max(row.unknown_since or 0.0, since)) if silent else 0.0
    return decide(look.evidence(unknown_for), status=row.status)


def _ends(row: JobRow, verdict: Verdict) -> bool:
    return verdict.status in ENDED and row.status != verdict.status


def _change(row: JobRow, look: Look, verdict: Verdict, now: float) -> Change | None:
    """Return what the record has to learn, or None."""
    details: dict[str, Any] = {}
    unknown = look.queue in (DONE, UNKNOWN) and verdict.status not in ENDED
    if look.told and unknown != (row.unknown_since is not None):
        details["unknown_since"] = now if unknown else None
    if _ends(row, verdict):
        details.update(_times(row), t_fetched=time.time())
        if verdict.end is not None:
            details.update(reason=verdict.end.reason, end_detail=verdict.end.detail, exit_code=verdict.end.exit_code)
    same = verdict.status == row.status and verdict.remote_status == row.remote_status
    if same and not details:
        return None
    status = None if verdict.status == row.status else verdict.status
    return Change(row.id, status=status, expect=(row.status,), remote_status=verdict.remote_status, details=details)


def _times(row: JobRow) -> dict[str, float]:
    """Return when the job started and ended by its own files, which are closer to the truth than the looks at it."""
    started, ended = stage.times(Path(row.from_dir))
    return {name: t for name, t in (("t_started", started), ("t_ended", ended)) if t is not None}


class _Pace:
    """How long to wait before the next round."""

    def __init__(self, jobs: Sequence[Waitable], rows: dict[str, JobRow], slowest: float) -> None:
        ranges = [_poll_range(job.project, rows[job.id].system) for job in jobs]
        self.fastest = min((low for low, _ in ranges), default=0.02)
        self.slowest = max(self.fastest, min(slowest, min((high for _, high in ranges), default=slowest)))
        self.delay = self.fastest

    def wait(self, busy: float, progressed: bool, at_most: float | None) -> None:
        """Sleep; longer after rounds that took long or found nothing."""
        self.delay = max(self.fastest, self.delay / 4) if progressed else min(self.delay * 1.3, self.slowest)
        delay = max(self.delay, 4 * busy)
        time.sleep(delay if at_most is None else max(0.0, min(delay, at_most)))


def _poll_range(project: Project, system: str | None) -> tuple[float, float]:
    scheduler = project.systems[system].scheduler if system and system in project.systems else None
    poll_range: tuple[float, float] = getattr(scheduler, "poll_range", (1.0, 30.0))
    return poll_range


class _Clock:
    """How long each job has been waited for; time in the queue counts only if asked."""

    def __init__(self, timeout: float | None, queued_counts: bool) -> None:
        self.limit = None if timeout is None or timeout < 0 else timeout
        self.queued_counts = queued_counts
        self._start = self._last = time.monotonic()
        self._queued: dict[str, float] = {}
        self._over: set[str] = set()

    def tick(self, rows: Iterable[JobRow]) -> None:
        now = time.monotonic()
        if not self.queued_counts:
            for row in rows:
                if row.remote_status in _IN_QUEUE:
                    self._queued[row.id] = self._queued.get(row.id, 0.0) + now - self._last
        self._last = now

    def left(self, job_id: str) -> float | None:
        if self.limit is None:
            return None
        return self.limit - (self._last - self._start - self._queued.get(job_id, 0.0))

    def is_over(self, job_id: str) -> bool:
        """Tell whether a job's time is up; it is looked at once more after the time has run out."""
        left = self.left(job_id)
        if left is None or left > 0:
            return False
        last_look_done = self.limit == 0 or job_id in self._over
        self._over.add(job_id)
        return last_look_done


def as_completed(
    jobs: Sequence[Waitable],
    *,
    timeout: float | None = None,
    check_interval: float = 30.0,
    queued_counts: bool = True,
    quiet: bool = False,
    label: str = "jobs",
    retry: Retry | None = None,
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
        Longest time between two looks, in seconds.
    queued_counts
        Whether time that a job spends waiting in the queue counts.
    quiet
        Show no progress.
    label
        What the progress line says is being waited for.
    retry
        Policy for jobs that failed; by default that of the job's system, if it has one.
    """
    waiting: dict[str, list[Waitable]] = {}
    for job in jobs:
        waiting.setdefault(job.id, []).append(job)
    with reporter(len(waiting), label, quiet=quiet) as progress:
        yield from _watch(waiting, _Clock(timeout, queued_counts), check_interval, retry, progress)


def _watch(
    waiting: dict[str, list[Waitable]], clock: _Clock, slowest: float, retry: Retry | None, progress: Reporter
) -> Iterator[Outcome]:
    heads = [group[0] for group in waiting.values()]
    rows = _current(heads)
    pace = _Pace(heads, rows, slowest)
    since = time.time()
    while waiting:
        began = time.monotonic()
        before = len(waiting)
        ended = [rows[i] for i in waiting if rows[i].status == SUCCEEDED]
        if not ended:
            rows = _look([waiting[i][0] for i in waiting], rows, since)
            ended = [rows[i] for i in waiting if rows[i].status in ENDED]
        for row in ended:
            outcome = _outcome(waiting[row.id], row, retry)
            if outcome is not None:
                group = waiting.pop(row.id)
                progress.update(1, **_word_counts(rows, waiting))
                yield from (replace(outcome, job=job) for job in group)
        clock.tick(rows[i] for i in waiting)
        for job_id in [i for i in waiting if clock.is_over(i) or rows[i].status == CREATED]:
            yield from (Outcome(job, error=_not_there(rows[job_id], clock.limit)) for job in waiting.pop(job_id))
        if waiting:
            progressed = len(waiting) < before
            pace.wait(time.monotonic() - began, progressed, _shortest(clock.left(i) for i in waiting))
            rows = _current([waiting[i][0] for i in waiting])


def _shortest(times: Iterable[float | None]) -> float | None:
    known = [t for t in times if t is not None]
    return min(known) if known else None


def _not_there(row: JobRow, limit: float | None) -> BaseException:
    if row.status == CREATED:
        return InvalidCallError(f"job {row.id} was never started; call start() first")
    return ExPyReTimeoutError(
        f"job {row.id} on {row.system} has no result after {limit:g} s of waiting (it is {row.remote_status}); "
        "it goes on, ask again later or with a longer timeout"
    )


def _current(jobs: Sequence[Waitable]) -> dict[str, JobRow]:
    rows: dict[str, JobRow] = {}
    for project, group in _by_project(jobs):
        rows.update(project.record.rows([job.id for job in group]))
    return rows


def _look(jobs: Sequence[Waitable], rows: dict[str, JobRow], since: float) -> dict[str, JobRow]:
    seen: dict[str, JobRow] = {}
    for project, group in _by_project(jobs):
        seen.update(sync(project, [rows[job.id] for job in group], since=since))
    return seen


def _by_project(jobs: Sequence[Waitable]) -> Iterable[tuple[Project, list[Waitable]]]:
    groups: dict[int, tuple[Project, list[Waitable]]] = {}
    for job in jobs:
        groups.setdefault(id(job.project), (job.project, []))[1].append(job)
    return groups.values()


def _outcome(group: list[Waitable], row: JobRow, retry: Retry | None) -> Outcome | None:
    """Return the outcome of an ended job, or None if it was submitted again."""
    for job in group:
        job.refresh(row)
    outcome = read_outcome(row)
    if outcome.error is not None:
        policy = retry or _default_retry(group[0].project, row.system)
        if policy is not None and group[0].resubmit(policy, outcome.error):
            return None
    return outcome


def _default_retry(project: Project, system_name: str | None) -> Retry | None:
    system = project.systems.get(system_name) if system_name else None
    return None if system is None or system.retry is None else Retry.from_spec(system.retry)


def _word_counts(rows: dict[str, JobRow], waiting: dict[str, list[Waitable]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for job_id in waiting:
        word = rows[job_id].remote_status
        if word in ALIVE:
            counts[str(word)] = counts.get(str(word), 0) + 1
    return counts
