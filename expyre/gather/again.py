"""Failed jobs are submitted again where a policy says so, with more of what they ran out of."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from expyre.errors import ExPyReError
from expyre.launch import LaunchOptions
from expyre.retry import Retry
from expyre.starting import Startable, restart_jobs

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["try_again"]

log = logging.getLogger(__name__)

Job = TypeVar("Job", bound=Startable)


def try_again(failed: Sequence[tuple[Job, BaseException]], retry: Retry | None) -> set[str]:
    """Submit those of the failed jobs again that a policy wants to be tried again; return their ids.

    Parameters
    ----------
    failed
        Jobs with their errors.
    retry
        The policy; None for that of the job's system, if it has one.
    """
    groups: dict[tuple[int, str, str], list[tuple[Job, BaseException]]] = {}
    options_of: dict[tuple[int, str, str], LaunchOptions] = {}
    for job, error in failed:
        options = _options_of_next_try(job, error, retry)
        if options is not None:
            key = (id(job.project), type(error).__name__, json.dumps([options.system_name, options.to_details()]))
            options_of[key] = options
            groups.setdefault(key, []).append((job, error))
    return {job_id for key, group in groups.items() for job_id in _restart(group, options_of[key])}


def _options_of_next_try(job: Startable, error: BaseException, retry: Retry | None) -> LaunchOptions | None:
    policy = retry or _policy_of_system(job.project, job.row.system)
    options = LaunchOptions.of(job.row)
    if policy is None or options is None or not policy.wants(error, job.row.tries):
        return None
    return replace(options, resources=policy.escalate(options.resources, error))


def _policy_of_system(project: Project, system_name: str | None) -> Retry | None:
    system = project.systems.get(system_name) if system_name else None
    return None if system is None or system.retry is None else Retry.from_spec(system.retry)


def _restart(group: Sequence[tuple[Job, BaseException]], options: LaunchOptions) -> list[str]:
    """Submit jobs of equal options and failures; if that fails their failures stand."""
    jobs = [job for job, _ in group]
    kind = type(group[0][1]).__name__
    log.warning("%s: %s; trying again with %s", _named(jobs), kind, options.resources)
    try:
        restart_jobs(jobs, options, note=f"tried again after {kind}, with {options.resources}")
    except ExPyReError as error:
        log.warning("%s could not be tried again: %s", _named(jobs), error)
        return []
    return [job.id for job in jobs]


def _named(jobs: Sequence[Startable]) -> str:
    return f"job {jobs[0].id}" if len(jobs) == 1 else f"{len(jobs)} jobs ({jobs[0].id}, …)"
