"""``xpr sync``: what the queues and the jobs' directories say now, into the record."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from expyre.cli.filters import Selection, selects
from expyre.cli.output import count, warn
from expyre.cli.session import Session, by_system, pass_session
from expyre.errors import ExPyReError

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow

__all__ = ["sync"]


@click.command()
@click.option("-d", "--delete", is_flag=True, help="Remove local files of jobs that are no longer on the host.")
@click.option("-f", "--files", is_flag=True, help="Fetch the files of jobs that have not ended, too.")
@click.option("-v", "--verbose", is_flag=True, help="Say what is done.")
@selects(default_status="ongoing")
@pass_session
def sync(session: Session, selection: Selection, delete: bool, files: bool, verbose: bool) -> None:
    """Fetch statuses and results of jobs; by default of those that are still under way."""
    rows = list(selection.rows(session))
    if not rows:
        warn("No jobs to sync")
        return
    submitted = by_system(_submitted(rows))
    faults = [name for name, here in submitted.items() if not _sync(session, name, here, verbose)]
    if files or delete:
        left = {name: here for name, here in submitted.items() if name not in faults}
        faults += [name for name, here in left.items() if not _fetch(session, name, here, delete)]
    _report(rows, session.record.rows([row.id for row in rows]), verbose)
    if faults:
        raise click.ClickException(f"not everything could be fetched from: {', '.join(faults)}")


def _submitted(rows: list[JobRow]) -> list[JobRow]:
    """Return the rows that some system may know of: a job that was never submitted has nothing to fetch."""
    there = [row for row in rows if row.system and row.remote_id]
    if len(there) < len(rows):
        warn(f"{len(rows) - len(there)} of {count(len(rows))} never submitted: nothing to fetch")
    return there


def _sync(session: Session, name: str, rows: list[JobRow], verbose: bool) -> bool:
    """Sync the jobs of one system; report a fault, and return whether there was none."""
    from expyre import gather

    if verbose:
        warn(f"{name}: {count(len(rows))}")
    with _Faults() as faults:
        try:
            session.system(name)
            gather.sync(session.project, rows)
        except (ExPyReError, OSError) as exc:
            warn(f"{name}: {exc}")
            return False
    return not faults.seen


def _fetch(session: Session, name: str, rows: list[JobRow], delete: bool) -> bool:
    """Fetch the directories of jobs of one system; report a fault, and return whether there was none."""
    system = session.system(name)
    parents: dict[Path, list[str]] = {}
    for row in rows:
        if row.from_dir:
            parents.setdefault(Path(row.from_dir).parent, []).append(Path(row.from_dir).name)
    try:
        for parent, names in parents.items():
            system.get_remotes(parent, names, delete=delete)
    except (ExPyReError, OSError) as exc:
        warn(f"{name}: {exc}")
        return False
    return True


class _Faults(logging.Handler):
    """Notices warnings of the layers below (a host that does not answer is no error to them)."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen = False

    def emit(self, record: logging.LogRecord) -> None:
        """Report a warning."""
        self.seen = True
        warn(record.getMessage())

    def __enter__(self) -> _Faults:
        logging.getLogger("expyre").addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logging.getLogger("expyre").removeHandler(self)


def _report(before: list[JobRow], after: dict[str, JobRow], verbose: bool) -> None:
    for old in before:
        new = after.get(old.id, old)
        if new.remote_status != old.remote_status:
            warn(f"Update remote status of {old.id} to {new.remote_status}")
        if verbose and new.status != old.status:
            warn(f"Update status of {old.id} to {new.status}")
