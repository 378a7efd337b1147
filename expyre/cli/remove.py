"""``xpr rm``: jobs out of the record, with or without their files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from expyre.cli.ask import accepted, refuse_without_filter
from expyre.cli.filters import Selection, selects
from expyre.cli.output import count, warn
from expyre.cli.queue import cancel_jobs
from expyre.cli.session import Session, by_system, pass_session
from expyre.cli.text import clean
from expyre.errors import ExPyReError, StageError
from expyre.stage import names
from expyre.states import STARTED, SUBMITTED

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow

__all__ = ["describe", "rm"]

_BATCH = 500


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-c", "--clean", "wipe", is_flag=True, help="Cancel the jobs and remove their files everywhere.")
@selects()
@pass_session
def rm(session: Session, selection: Selection, yes: bool, wipe: bool) -> None:
    """Remove jobs from the record.

    With --clean jobs are cancelled and their directories removed first; without it, files stay and jobs that run go
    on running, known to nobody.
    """
    refuse_without_filter(selection.given, "rm")
    rows = list(selection.rows(session))
    chosen = [row for row in rows if yes or accepted(f'Delete "{describe(row)}"')]
    if not chosen:
        warn("No jobs removed")
        return
    gone = _wipe(session, chosen) if wipe else _leave(session, chosen)
    for row in gone:
        session.record.remove(row.id)
    warn(f"Removed {len(gone)} of {count(len(rows))} from the record")
    if len(gone) < len(chosen):
        raise click.exceptions.Exit(1)


def describe(row: JobRow) -> str:
    """Return a job in one line."""
    where = f"system={row.system} remote_id={row.remote_id}"
    return f"{row.id} {where} status={row.status} stage_dir={row.from_dir}"


def _wipe(session: Session, rows: Sequence[JobRow]) -> list[JobRow]:
    """Cancel jobs and remove their files; return those of which nothing is left."""
    cancel_jobs(session, rows)
    gone: list[JobRow] = []
    for name, here in by_system(rows).items():
        for start in range(0, len(here), _BATCH):
            batch = here[start : start + _BATCH]
            try:
                _wipe_there(session, name, batch)
            except (ExPyReError, OSError) as exc:
                warn(f"{count(len(batch))} of {name} not removed: {exc}")
            else:
                gone += [row for row in batch if _wipe_here(row)]
    return gone


def _wipe_there(session: Session, name: str, rows: Sequence[JobRow]) -> None:
    """Remove the directories of jobs on their host, all with one command."""
    system = session.system(name) if name else None
    if system is not None and system.remote_rundir is not None:
        system.rundir.remove([Path(row.from_dir or "").name for row in rows])


def _wipe_here(row: JobRow) -> bool:
    """Remove the directory of a job on this machine; say so if that was not possible."""
    directory = Path(row.from_dir or "")
    try:
        if not directory.name.startswith(names.PREFIX):
            raise StageError(f"{directory} is no directory of a job")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
    except (StageError, OSError) as exc:
        warn(f"{clean(row.id)} stays in the record, its files could not be removed: {clean(str(exc))}")
        return False
    return True


def _leave(session: Session, rows: Sequence[JobRow]) -> list[JobRow]:
    """Say what a removal from the record alone leaves behind; return all rows."""
    running = [row for row in rows if row.status in (SUBMITTED, STARTED)]
    if running:
        listed = ", ".join(f"{row.remote_id}@{row.system}" for row in running[:5])
        more = ", …" if len(running) > 5 else ""
        warn(f"warning: still in a queue and going on: {count(len(running))} ({listed}{more}); rm -c cancels them")
    left = [line for row in rows for line in _left(session, row)]
    if left:
        click.echo("\n".join([*left, "These files stay (with -c they would have been removed)."]))
    return list(rows)


def _left(session: Session, row: JobRow) -> list[str]:
    directory = Path(row.from_dir or "")
    lines = [f"would remove {clean(str(directory))}"] if row.from_dir and directory.is_dir() else []
    if row.system is None or row.remote_id is None:
        return lines
    try:
        system = session.system(row.system)
    except ExPyReError:
        return lines
    if system.remote_rundir is not None:
        lines.append(f"would remove {clean(system.job_dir(directory))} on {system.host or 'this machine'}")
    return lines
