"""``xpr retry``: failed and died jobs, submitted again with what they had, or with more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from expyre.cli.ask import confirm_if_watched, refuse_without_filter
from expyre.cli.complete import complete_system
from expyre.cli.filters import Selection, selects
from expyre.cli.output import warn
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean
from expyre.errors import ExPyReError, RequestError
from expyre.states import DIED, FAILED

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow
    from expyre.resources import Resources

__all__ = ["retry"]

_factor = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", metavar="REASON", help="Only jobs that ended so: TimedOut, OutOfMemory, NodeFailed, Lost, …")
@click.option("--time-factor", type=_factor, default=1.0, metavar="X", help="Ask for so many times the run time.")
@click.option("--mem-factor", type=_factor, default=1.0, metavar="X", help="Ask for so many times the memory.")
@click.option("--on", metavar="SYSTEM", help="Submit to another system.", shell_complete=complete_system)
@click.option("--resources", metavar="JSON", help="Ask for these resources instead, as a JSON object.")
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
) -> None:
    """Submit failed and died jobs again, as the same jobs: a script that waits for them gets their results.

    What they left behind is removed. Resources and system are those of the last submission unless given here.
    """
    refuse_without_filter(selection.given or reason is not None, "retry")
    rows = _retryable(list(selection.rows(session)), reason)
    if not rows:
        warn("No jobs to retry")
        return
    given = None if resources is None else _given_resources(resources)
    groups, missing = _groups(rows, on, given)
    for row in missing:
        warn(f"{clean(row.id)}: its system or resources are not recorded; give --on and --resources")
    count = sum(map(len, groups.values()))
    if count:
        confirm_if_watched(f"Submit {count} jobs again?", yes)
    done = sum(_resubmit(session, *group, members, time_factor, mem_factor) for group, members in groups.items())
    warn(f"Submitted {done} jobs again")
    if done < len(rows):
        raise click.exceptions.Exit(1)


def _retryable(rows: list[JobRow], reason: str | None) -> list[JobRow]:
    ended = [row for row in rows if row.status in (FAILED, DIED)]
    if len(ended) < len(rows):
        warn(f"{len(rows) - len(ended)} of {len(rows)} jobs have neither failed nor died: left alone")
    return [row for row in ended if reason is None or (row.reason or "").lower() == reason.lower()]


def _given_resources(text: str) -> str:
    """Return resources given as JSON, checked, in one spelling."""
    from expyre.resources import Resources

    try:
        given = json.loads(text)
    except ValueError as exc:
        raise RequestError(f"--resources: not JSON: {exc}") from None
    if not isinstance(given, Mapping):
        raise RequestError('--resources: a JSON object is wanted, like {"max_time": "2h", "num_nodes": 1}')
    try:
        Resources(**given)
    except TypeError as exc:
        raise RequestError(f"--resources: {exc}") from None
    return json.dumps(given, sort_keys=True)


def _groups(
    rows: Sequence[JobRow], on: str | None, given: str | None
) -> tuple[dict[tuple[str, str], list[JobRow]], list[JobRow]]:
    """Return the rows by (system, resources as JSON), one submission each; and those that lack either."""
    groups: dict[tuple[str, str], list[JobRow]] = {}
    missing = []
    for row in rows:
        system, asked = on or row.system, given or row.resources
        if system and asked:
            groups.setdefault((system, asked), []).append(row)
        else:
            missing.append(row)
    return groups, missing


def _resubmit(
    session: Session, system: str, asked: str, rows: Sequence[JobRow], time_factor: float, mem_factor: float
) -> int:
    """Submit jobs of one system and equal resources again; return how many were."""
    from expyre.func import start_jobs

    try:
        session.system(system)
        wanted = _resources(json.loads(asked)).scaled(time=time_factor, mem=mem_factor)
        start_jobs(session.jobs(rows), wanted, system, force_rerun=True)
    except (ExPyReError, OSError) as exc:
        warn(f"{system}: {exc}")
        after = session.record.rows([row.id for row in rows])
        return sum(row.id in after and after[row.id].remote_id not in (None, row.remote_id) for row in rows)
    return len(rows)


def _resources(kwargs: dict[str, Any]) -> Resources:
    from expyre.resources import Resources

    return Resources(**kwargs)
