"""``xpr retry``: failed and died jobs, submitted again as they were, or with more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING

import click

from expyre.cli.ask import confirm_if_watched, refuse_without_filter
from expyre.cli.complete import complete_system
from expyre.cli.filters import Selection, selects
from expyre.cli.output import count, warn
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean
from expyre.errors import ExPyReError, RequestError
from expyre.states import DIED, FAILED

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow
    from expyre.launch import LaunchOptions
    from expyre.resources import Resources

__all__ = ["Changes", "retry"]

_factor = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True)
class Changes:
    """What is to be different from a job's last submission; None: as it was."""

    time: float = 1.0
    mem: float = 1.0
    system: str | None = None
    resources: Resources | None = None
    python_cmd: str | None = None

    def apply(self, row: JobRow) -> LaunchOptions | None:
        """Return how to submit a job again; None if neither the record nor the user says so."""
        from expyre.launch import LaunchOptions

        options = LaunchOptions.of(row)
        if options is None and (self.system or row.system) and self.resources:
            options = LaunchOptions(self.system or row.system or "", self.resources)
        if options is None:
            return None
        if self.system or self.resources:  # a fit that was exact need not be so there
            options = replace(options, exact_fit=False, system_name=self.system or options.system_name)
        resources = (self.resources or options.resources).scaled(time=self.time, mem=self.mem)
        return replace(options, resources=resources, python_cmd=self.python_cmd or options.python_cmd)


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", metavar="REASON", help="Only jobs that ended so: TimedOut, OutOfMemory, NodeFailed, Lost, …")
@click.option("--time-factor", type=_factor, default=1.0, metavar="X", help="Ask for so many times the run time.")
@click.option("--mem-factor", type=_factor, default=1.0, metavar="X", help="Ask for so many times the memory.")
@click.option("--on", metavar="SYSTEM", help="Submit to another system.", shell_complete=complete_system)
@click.option("--resources", metavar="JSON", help="Ask for these resources instead, as a JSON object.")
@click.option("--python-cmd", metavar="CMD", help="Use another interpreter.")
@selects(default_status=f"{FAILED},{DIED}")
@pass_session
def retry(
    session: Session,
    selection: Selection,
    yes: bool,
    reason: str | None,
    time_factor: float,
    mem_factor: float,
    on: str | None,
    resources: str | None,
    python_cmd: str | None,
) -> None:
    """Submit failed and died jobs again, as the same jobs: a script that waits for them gets their results.

    What they left behind is removed. They are submitted as they were the last time, but for what is given here.
    """
    refuse_without_filter(selection.given or reason is not None, "retry")
    given = None if resources is None else _given_resources(resources)
    rows = _retryable(list(selection.rows(session)), reason)
    if not rows:
        warn("No jobs to retry")
        return
    groups = _groups(rows, Changes(time_factor, mem_factor, on, given, python_cmd))
    total = sum(len(members) for _, members in groups)
    if total:
        confirm_if_watched(f"Submit {count(total)} again?", yes)
    done = sum(_resubmit(session, options, members) for options, members in groups)
    warn(f"Submitted {count(done)} again")
    if done < len(rows):
        raise click.exceptions.Exit(1)


def _retryable(rows: list[JobRow], reason: str | None) -> list[JobRow]:
    ended = [row for row in rows if row.status in (FAILED, DIED)]
    if len(ended) < len(rows):
        warn(f"{len(rows) - len(ended)} of {len(rows)} jobs have neither failed nor died: left alone")
    return [row for row in ended if reason is None or (row.reason or "").lower() == reason.lower()]


def _given_resources(text: str) -> Resources:
    """Return resources given as a JSON object."""
    from expyre.resources import Resources

    try:
        given = json.loads(text)
    except ValueError as exc:
        raise RequestError(f"--resources: not JSON: {exc}") from None
    if not isinstance(given, Mapping):
        raise RequestError('--resources: a JSON object is wanted, like {"max_time": "2h", "num_nodes": 1}')
    known = signature(Resources).parameters
    if unknown := [name for name in given if name not in known]:
        raise RequestError(f"--resources: there is no {', '.join(unknown)}; known are: {', '.join(known)}")
    return Resources(**{"max_time": None, **given})


def _groups(rows: Iterable[JobRow], changes: Changes) -> list[tuple[LaunchOptions, list[JobRow]]]:
    """Return the jobs by how they are to be submitted: each group is one submission. Others are reported."""
    from expyre.launch import launched_alike

    known = [(changes.apply(members[0]), members) for members in launched_alike(rows)]
    for row in (row for options, members in known if options is None for row in members):
        warn(f"{clean(row.id)}: its system or resources are not recorded; give --on and --resources")
    return [(options, members) for options, members in known if options is not None]


def _resubmit(session: Session, options: LaunchOptions, rows: Sequence[JobRow]) -> int:
    """Submit jobs again in the same way; return how many were."""
    from expyre.func import restart_jobs

    try:
        session.system(options.system_name)
        restart_jobs(session.jobs(rows), options, note="xpr retry")
    except (ExPyReError, OSError) as exc:
        warn(f"{options.system_name}: {exc}")
        after = session.record.rows([row.id for row in rows])
        return sum(row.id in after and after[row.id].remote_id not in (None, row.remote_id) for row in rows)
    return len(rows)
