"""Starting jobs, and starting ended ones again, together: which are due, with what, and from what state."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from expyre import plan, stage
from expyre.errors import ExPyReError, InvalidCallError
from expyre.jobsdb import Change, JobRow
from expyre.launch import LaunchOptions, launch
from expyre.resources import Resources
from expyre.states import CREATED
from expyre.system import System

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["Startable", "restart_jobs", "start_jobs", "submit_jobs"]

log = logging.getLogger(__name__)


class Startable(Protocol):
    """What starting needs of a job."""

    id: str
    status: str
    remote_id: str | None
    stage_dir: Path
    row: JobRow
    project: Project
    recreated: bool
    planned: bool

    @property
    def system(self) -> System | None:
        """The system that has the job, if it was submitted."""
        ...

    def refresh(self, row: JobRow) -> None:
        """Take over what the record says now."""


def start_jobs(
    jobs: Sequence[Startable],
    resources: Resources | Mapping[str, Any],
    system_name: str | None = None,
    *,
    header_extra: Sequence[str] = (),
    exact_fit: bool = True,
    partial_node: bool = False,
    python_cmd: str = "python3",
    force_rerun: bool = False,
) -> None:
    """Submit jobs of one project together, as in `ExPyRe.start`; see `submit_jobs`."""
    if not jobs:
        return
    options = LaunchOptions(
        system_name=_known_system(jobs[0].project, system_name),
        resources=resources if isinstance(resources, Resources) else Resources(**resources),
        header_extra=tuple(header_extra),
        exact_fit=exact_fit,
        partial_node=partial_node,
        python_cmd=python_cmd,
    )
    submit_jobs(jobs, options, force_rerun=force_rerun)


def submit_jobs(jobs: Sequence[Startable], options: LaunchOptions, *, force_rerun: bool = False) -> None:
    """Submit jobs of one project together; those that were submitted before are left alone. See `ExPyRe.start`."""
    if not jobs:
        return
    if plan.active():
        plan.note_jobs(jobs, options)
        return
    todo = [job for job in jobs if _is_due(job, force_rerun)]
    if force_rerun:
        _reset(todo)
    launch(jobs[0].project, list(dict.fromkeys(job.id for job in todo)), options)
    _refresh(jobs)


def restart_jobs(jobs: Sequence[Startable], options: LaunchOptions, *, note: str = "tried again") -> None:
    """Submit ended jobs of one project again as the same jobs, removing what they left behind.

    Parameters
    ----------
    jobs
        The jobs.
    options
        How to submit them; `LaunchOptions.of` gives how a job was submitted last.
    note
        What the record says about why.

    Raises
    ------
    RequestError
        No partition fits; nothing was removed.
    SubmitFailed
        The queue refused; the jobs stay as created.
    """
    if not jobs:
        return
    project = jobs[0].project
    project.systems[options.system_name].check(options.resources, options.exact_fit, options.partial_node)
    tries = {job.id: job.row.tries + 1 for job in jobs}
    _reset(jobs)
    project.record.step([Change(i, details={"tries": n}, note=note) for i, n in tries.items()])
    launch(project, list(tries), options)
    _refresh(jobs)


def _refresh(jobs: Sequence[Startable]) -> None:
    rows = jobs[0].project.record.rows([job.id for job in jobs])
    for job in jobs:
        job.refresh(rows[job.id])


def _known_system(project: Project, name: str | None) -> str:
    name = name or os.environ.get("EXPYRE_SYS")
    if name is None or name not in project.systems:
        known = ", ".join(project.systems) or "none"
        what = "no system was named (argument system_name, environment variable EXPYRE_SYS)"
        raise KeyError(f"{what if name is None else f'unknown system {name!r}'}; configured systems: {known}")
    return name


def _is_due(job: Startable, force_rerun: bool) -> bool:
    if job.status == CREATED or force_rerun:
        return True
    if not job.recreated:
        raise InvalidCallError(f"job {job.id} is {job.status} already; use force_rerun=True to submit it again")
    return False


_FORGOTTEN = (
    "reason",
    "end_detail",
    "exit_code",
    "t_started",
    "t_ended",
    "t_fetched",
    "unknown_since",
    "token",
    "submit_state",
)


def _reset(jobs: Sequence[Startable]) -> None:
    """Bring jobs back to where they were before they were submitted: not in the queue, no results on either side."""
    if not jobs:
        return
    for system, group in _by_system(jobs):
        _cancel(system, [job.remote_id for job in group if job.remote_id])
        system.clean_rundir([job.stage_dir for job in group], None)
    for job in jobs:
        stage.reset(job.stage_dir)
    blank = dict.fromkeys(_FORGOTTEN)
    changes = [
        Change(job.id, status=CREATED, remote_id=None, remote_status=None, details=blank, note="to be run again")
        for job in jobs
    ]
    jobs[0].project.record.step(changes, force=True)
    _refresh(jobs)


def _by_system(jobs: Sequence[Startable]) -> list[tuple[System, list[Startable]]]:
    groups: dict[int, tuple[System, list[Startable]]] = {}
    for job in jobs:
        if job.system is not None:
            groups.setdefault(id(job.system), (job.system, []))[1].append(job)
    return list(groups.values())


def _cancel(system: System, remote_ids: Sequence[str]) -> None:
    """Ask the queue to end jobs, in case it still has them."""
    try:
        if remote_ids:
            system.scheduler.cancel(remote_ids)
    except ExPyReError as error:
        log.warning("jobs that are to run again could not be cancelled first: %s", error)
