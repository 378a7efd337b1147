"""One look at jobs, recorded: a question to the queue, the files, and a transfer of what has ended, per system."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre import stage
from expyre.errors import SchedulerError, TransportError
from expyre.gather.pace import poll_range
from expyre.jobsdb import Change, JobRow
from expyre.schedulers.messages import end_in_messages
from expyre.states import (
    ALIVE,
    DIED,
    DONE,
    END_CANCELLED,
    END_DIED,
    END_LOST,
    END_TIMED_OUT,
    FAILED,
    OTHER,
    SUCCEEDED,
    TIMEOUT,
    UNKNOWN,
    End,
    Verdict,
    decide,
)
from expyre.steps import step
from expyre.system import Look, System

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["ENDED", "cancelled", "sync"]

log = logging.getLogger(__name__)

ENDED = frozenset({SUCCEEDED, FAILED, DIED})


def sync(
    project: Project,
    rows: Iterable[JobRow],
    *,
    since: Mapping[str, float] | None = None,
    looked: Callable[[float], None] = lambda seconds: None,
    fresh: bool = False,
) -> dict[str, JobRow]:
    """Look at jobs once and record what was found.

    One question to the queue, one look at the files and one transfer of what has ended, for each system. A queue is
    asked no faster than it likes: who comes too early waits, and those who wait together share one look.

    Parameters
    ----------
    project
        Whose jobs they are.
    rows
        The jobs; those that no system has are left as they are.
    since
        When the watch of each job began, in seconds since the epoch: silence of the queue before that does not count.
    looked
        Called after a look at the jobs of a system that was a success, with the seconds that it took.
    fresh
        Whether a look that somebody has had a moment ago is good enough.

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
            result.update(_in_turn(project, system, group, since or {}, looked, fresh))
    return result


def _in_turn(
    project: Project,
    system: System,
    rows: list[JobRow],
    since: Mapping[str, float],
    looked: Callable[[float], None],
    fresh: bool,
) -> dict[str, JobRow]:
    pause = poll_range(system.scheduler)[0]
    ids = [row.id for row in rows]
    with system.turns.turn(ids, pause, pause if fresh else 0.0) as is_due:
        if is_due:
            return _sync_system(project, system, rows, since, looked)
    return {row.id: row for row in rows} | project.record.rows(ids)


def _by_system(rows: Iterable[JobRow]) -> dict[str | None, list[JobRow]]:
    groups: dict[str | None, list[JobRow]] = {}
    for row in rows:
        groups.setdefault(row.system if row.remote_id else None, []).append(row)
    return groups


def cancelled(job_id: str, note: str) -> Change:
    """Return what the record learns when the queue is told to end a job, which may leave no trace of it."""
    return Change(job_id, details={"reason": END_CANCELLED}, note=note)


def _sync_system(
    project: Project, system: System, rows: list[JobRow], since: Mapping[str, float], looked: Callable[[float], None]
) -> dict[str, JobRow]:
    now = time.time()
    try:
        looks = _look(system, rows, looked)
        verdicts = {row.id: _verdict(row, looks[row.id], since.get(row.id, 0.0), now) for row in rows}
        ended = [row for row in rows if _ends(row, verdicts[row.id])]
        if ended:
            system.collect([Path(row.from_dir) for row in ended])
            verdicts.update((row.id, _named(row, verdicts[row.id])) for row in ended)
    except (TransportError, SchedulerError) as error:
        if not getattr(error, "transient", True):
            raise
        # a fault of the way to the host, or of its disks, says nothing about any job
        log.warning("%s; trying again later", error)
        return {row.id: row for row in rows}
    system.turns.saw([row.id for row in rows])
    step("gather.2")
    late = {row.id for row in ended if not _has_arrived(row, verdicts[row.id])}
    changes = [
        change for row in rows if row.id not in late and (change := _change(row, looks[row.id], verdicts[row.id], now))
    ]
    if not changes:
        return {row.id: row for row in rows}
    project.record.step(changes)
    step("gather.3")
    fresh = project.record.rows([change.id for change in changes])
    return {row.id: fresh.get(row.id, row) for row in rows}


def _look(system: System, rows: list[JobRow], looked: Callable[[float], None]) -> dict[str, Look]:
    began = time.monotonic()
    found = system.look({row.id: (row.remote_id, Path(row.from_dir)) for row in rows})
    looked(time.monotonic() - began)  # one that failed has kept nobody busy: its time went into tries and pauses
    return found


def _has_arrived(row: JobRow, verdict: Verdict) -> bool:
    """Tell whether what a job has left is here: on slow file systems files may show up one by one."""
    return verdict.status == DIED or stage.markers(Path(row.from_dir)).ended


def _named(row: JobRow, verdict: Verdict) -> Verdict:
    """Return the verdict with the reason that the job's own files tell, if nobody has told one."""
    unnamed = verdict.status == DIED and (verdict.end is None or verdict.end.reason in (END_DIED, END_LOST))
    told = (_end_in_files(row) or _end_in_record(row)) if unnamed else None
    if told is None:
        return verdict
    status = TIMEOUT if told.reason == END_TIMED_OUT else verdict.remote_status
    code = None if verdict.end is None else verdict.end.exit_code
    return replace(verdict, remote_status=status, end=replace(told, exit_code=code))


def _end_in_record(row: JobRow) -> End | None:
    return End(END_CANCELLED, "this project has asked the queue for it") if row.reason == END_CANCELLED else None


def _end_in_files(row: JobRow) -> End | None:
    directory = Path(row.from_dir)
    if stage.markers(directory).timed_out:
        return End(END_TIMED_OUT, stage.error_text(directory).strip())
    return end_in_messages(stage.streams(directory, row.id).job_stderr)


def _verdict(row: JobRow, look: Look, since: float, now: float) -> Verdict:
    silent = look.told and row.unknown_since is not None
    unknown_for = max(0.0, now - max(row.unknown_since or 0.0, since)) if silent else 0.0
    evidence = look.evidence(unknown_for)
    if row.reason == END_CANCELLED and look.told and evidence.queue == UNKNOWN:
        evidence = replace(evidence, queue=DONE)  # it went where it was told to go
    return decide(evidence, status=row.status)


def _ends(row: JobRow, verdict: Verdict) -> bool:
    return verdict.status in ENDED and row.status != verdict.status


def _change(row: JobRow, look: Look, verdict: Verdict, now: float) -> Change | None:
    """Return what the record has to learn, or None."""
    details: dict[str, Any] = {}
    gone = look.queue not in ALIVE and look.queue != OTHER and verdict.status not in ENDED
    if look.told and gone != (row.unknown_since is not None):
        details["unknown_since"] = now if gone else None
    if _ends(row, verdict):
        details.update(_times(row), t_fetched=time.time())
        details["reason"] = None if verdict.end is None else verdict.end.reason
        if verdict.end is not None:
            details.update(end_detail=verdict.end.detail, exit_code=verdict.end.exit_code)
    same = verdict.status == row.status and verdict.remote_status == row.remote_status
    if same and not details:
        return None
    status = None if verdict.status == row.status else verdict.status
    return Change(row.id, status=status, expect=(row.status,), remote_status=verdict.remote_status, details=details)


def _times(row: JobRow) -> dict[str, float]:
    """Return when the job started and ended by its own files, which are closer to the truth than the looks at it."""
    started, ended = stage.times(Path(row.from_dir))
    return {name: t for name, t in (("t_started", started), ("t_ended", ended)) if t is not None}
