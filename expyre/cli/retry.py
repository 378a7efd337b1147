"""``xpr retry``: failed and died jobs, submitted again with what they had, or with more."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    from expyre.system import System

__all__ = ["retry"]

_factor = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", metavar="REASON", help="Only jobs that ended so: TimedOut, OutOfMemory, NodeFailed, Lost, …")
@click.option("--time-factor", type=_factor, default=1.0, metavar="X", help="Ask for so many times the run time.")
@click.option("--mem-factor", type=_factor, default=1.0, metavar="X", help="Ask for so many times the memory.")
@click.option("--on", metavar="SYSTEM", help="Submit to another system.", shell_complete=complete_system)
@click.option("--resources", metavar="JSON", help="Ask for these resources instead, as a JSON object.")
@click.option("--python-cmd", default="python3", show_default=True, help="Interpreter of the jobs.")
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
    python_cmd: str,
) -> None:
    """Submit failed and died jobs again, as the same jobs: a script that waits for them gets their results.

    What they left behind is removed. Resources and system are those of the last submission unless given here; extra
    lines of the job script's header are not kept from there.
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
    total = sum(map(len, groups.values()))
    if total:
        confirm_if_watched(f"Submit {count(total)} again?", yes)
    factors = (time_factor, mem_factor)
    done = sum(_resubmit(session, *group, members, factors, python_cmd) for group, members in groups.items())
    warn(f"Submitted {count(done)} again")
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
    known = signature(Resources).parameters
    if unknown := [name for name in given if name not in known]:
        raise RequestError(f"--resources: there is no {', '.join(unknown)}; known are: {', '.join(known)}")
    Resources(**{"max_time": None, **given})
    return json.dumps({"max_time": None, **given}, sort_keys=True)


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
    session: Session, system: str, asked: str, rows: Sequence[JobRow], factors: tuple[float, float], python_cmd: str
) -> int:
    """Submit jobs of one system and equal resources again; return how many were."""
    from expyre.func import start_jobs
    from expyre.jobsdb import Change
    from expyre.resources import Resources

    try:
        place = session.system(system)
        wanted = Resources(**json.loads(asked)).scaled(time=factors[0], mem=factors[1])
        partial = all(_had_part_of_a_node(row, place) for row in rows)
        # before anything of the last run is removed
        wanted.find_nodes(place.partitions or {}, exact_fit=False, partial_node=partial)
        jobs = session.jobs(rows)
        start_jobs(
            jobs, wanted, system, exact_fit=False, partial_node=partial, python_cmd=python_cmd, force_rerun=True
        )
    except (ExPyReError, OSError) as exc:
        warn(f"{system}: {exc}")
        after = session.record.rows([row.id for row in rows])
        rows = [row for row in rows if row.id in after and after[row.id].remote_id not in (None, row.remote_id)]
    session.record.step([Change(row.id, details={"tries": row.tries + 1}, note="xpr retry") for row in rows])
    return len(rows)


def _had_part_of_a_node(row: JobRow, system: System) -> bool:
    """Tell whether a job was given fewer cores than its node has: it had asked for part of a node."""
    node = (system.partitions or {}).get(row.partition or "", {})
    return row.num_cores is not None and row.num_cores < node.get("num_cores", 0)
