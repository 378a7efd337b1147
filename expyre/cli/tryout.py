"""A small job that goes the way of all jobs, and how long each step of it takes."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Any

from expyre.cli.times import duration
from expyre.errors import ExPyReError, ExPyReTimeoutError

if TYPE_CHECKING:
    from expyre.checkup import Finding
    from expyre.config import Project
    from expyre.func import ExPyRe

__all__ = ["try_out"]

# One core for a short time: what any queue has room for first.
_RESOURCES: dict[str, Any] = {"num_cores": 1, "max_time": "2m"}


def try_out(project: Project, name: str, timeout: float, python_cmd: str) -> list[Finding]:
    """Run a job on a system, wait for its result, and remove all traces of it; return how it went."""
    from expyre.checkup import Finding
    from expyre.func import ExPyRe

    begin = time.monotonic()
    job = ExPyRe("xpr_doctor", function=platform.node, try_restart_from_prev=False)
    staged = time.monotonic()
    found = [Finding("ok", "staged", f"in {duration(staged - begin)}")]
    try:
        job.start(dict(_RESOURCES), name, partial_node=True, exact_fit=False, python_cmd=python_cmd)
        found.append(Finding("ok", "submitted", f"as {job.remote_id}, in {duration(time.monotonic() - staged)}"))
        found += _waited(job, timeout)
    except ExPyReError as error:
        found.append(Finding("failure", "job", f"{type(error).__name__}: {error}", f"see also: xpr doctor {name}"))
    finally:
        _remove(project, job)
    return found


def _waited(job: ExPyRe, timeout: float) -> list[Finding]:
    from expyre.checkup import Finding

    begin = time.monotonic()
    try:
        value, _, _ = job.get_results(timeout=timeout, check_interval=5, quiet=True)
    except ExPyReTimeoutError:
        why = "; ".join((job.system.scheduler.why_pending([job.remote_id or ""]) if job.system else {}).values())
        evidence = f"no result in {duration(timeout)}: {job.status}, {job.row.remote_status}{why and ': '}{why}"
        return [Finding("failure", "job", evidence, "wait longer (--timeout), or ask for the state of the queue")]
    row = job._reread()
    phases = {"waited": (row.t_submitted, row.t_started), "ran": (row.t_started, row.t_ended)}
    # times that the host has not told, or not finely enough, are left out
    known = [
        f"{word} {duration(end - start)}" for word, (start, end) in phases.items() if start and end and end > start
    ]
    took = duration(time.monotonic() - begin)
    return [Finding("ok", "result", ", ".join([f"from node {value}, back after {took}", *known]))]


def _remove(project: Project, job: ExPyRe) -> None:
    job.cancel()
    job.clean(wipe=True)
    project.record.remove(job.id)
