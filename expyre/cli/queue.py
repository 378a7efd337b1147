"""``xpr cancel``, ``hold`` and ``release``: what a user tells the queue about jobs, one command per system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from expyre.cli.ask import confirm_if_watched, refuse_without_filter
from expyre.cli.filters import Selection, selects
from expyre.cli.output import Screen, count, warn
from expyre.cli.session import Session, by_system, pass_session
from expyre.errors import ExPyReError
from expyre.states import GROUPS

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow
    from expyre.system import System

__all__ = ["cancel", "cancel_jobs", "hold", "release"]

_Order = Callable[["System", Sequence[str]], object]
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.command()
@_yes
@selects(default_status="ongoing")
@pass_session
def cancel(session: Session, selection: Selection, yes: bool) -> None:
    """Take jobs out of the queue; those that run are stopped."""
    _order(session, selection, yes, "cancel", lambda system, ids: system.scheduler.cancel(ids))


@click.command()
@_yes
@selects(default_status="ongoing")
@pass_session
def hold(session: Session, selection: Selection, yes: bool) -> None:
    """Keep queued jobs from starting until they are released."""
    _order(session, selection, yes, "hold", lambda system, ids: system.scheduler.hold(ids))


@click.command()
@_yes
@selects(default_status="ongoing")
@pass_session
def release(session: Session, selection: Selection, yes: bool) -> None:
    """Let held jobs start."""
    _order(session, selection, yes, "release", lambda system, ids: system.scheduler.release(ids))


def _order(session: Session, selection: Selection, yes: bool, verb: str, order: _Order) -> None:
    refuse_without_filter(selection.given, verb)
    rows = list(selection.rows(session))
    there = [row for row in rows if row.remote_id and row.status in GROUPS["ongoing"]]
    waiting = _waiting(rows) if verb == "cancel" else []
    if left := len(rows) - len(there) - len(waiting):
        warn(f"{left} of {count(len(rows))} not in a queue: nothing to {verb}")
    if not there and not waiting:
        warn(f"No jobs to {verb}")
        return
    confirm_if_watched(f"{verb.capitalize()} {count(len(there) + len(waiting))}?", yes)
    if waiting:
        _withdraw(session, waiting)
    if there and not _give(session, there, verb, order):
        raise click.exceptions.Exit(1)


def _waiting(rows: Sequence[JobRow]) -> list[JobRow]:
    from expyre.launch import waits_for_room

    return [row for row in rows if waits_for_room(row)]


def _withdraw(session: Session, rows: Sequence[JobRow]) -> None:
    from expyre.launch import withdraw

    done = withdraw(session.project, rows, "xpr cancel")
    warn(f"cancel: {count(len(done))} that waited for room in its queue: will not be submitted")


def _give(session: Session, rows: Sequence[JobRow], verb: str, order: _Order) -> bool:
    """Give an order to every system concerned; report, and return whether all took it."""
    told = 0
    for name, here in by_system(rows).items():
        try:
            order(session.system(name), [str(row.remote_id) for row in here])
        except ExPyReError as exc:
            warn(f"{Screen.current().bold(name)}: {exc}")
        else:
            note_all(session, here, verb)
            told += len(here)
    warn(f"{verb}: {told} of {count(len(rows))}" + (" (`xpr sync` fetches what came of it)" if told else ""))
    return told == len(rows)


def note_all(session: Session, rows: Sequence[JobRow], verb: str) -> None:
    """Write into the history of jobs what the user has told the queue."""
    from expyre.gather import cancelled
    from expyre.jobsdb import Change

    note = f"xpr {verb}"
    session.record.step([cancelled(row.id, note) if verb == "cancel" else Change(row.id, note=note) for row in rows])


def cancel_jobs(session: Session, rows: Sequence[JobRow]) -> None:
    """Cancel the jobs among rows that may be in a queue; a job that cannot be cancelled is reported."""
    for name, here in by_system([row for row in rows if row.remote_id and row.status in GROUPS["ongoing"]]).items():
        try:
            session.system(name).scheduler.cancel([str(row.remote_id) for row in here])
        except ExPyReError as exc:
            warn(f"{name}: not cancelled: {exc}")
