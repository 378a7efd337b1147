"""``xpr reset_status``, ``create_job`` and ``db_unlock``: the record put right by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from expyre.cli.ask import confirm_if_watched
from expyre.cli.complete import complete_system
from expyre.cli.filters import Selection, selects
from expyre.cli.output import count, warn
from expyre.cli.session import Session, pass_session
from expyre.errors import RecordError, RequestError
from expyre.states import STATUSES

if TYPE_CHECKING:
    from expyre.jobsdb import JobsDB

__all__ = ["create_job", "db_unlock", "reset_status"]

_TAIL = 54  # what follows the name in an id: "_", 44 characters of the key, "_", 8 random ones


@click.command("reset_status")
@click.argument("new", type=click.Choice(STATUSES))
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a change to all jobs.")
@selects()
@pass_session
def reset_status(session: Session, selection: Selection, new: str, yes: bool) -> None:
    """Set the recorded status of jobs to NEW; without any filter, of all jobs.

    The change is made even where a job could not take that step by itself; it is kept in the history of the job.
    """
    from expyre.jobsdb import Change

    rows = [row for row in selection.rows(session) if row.status != new]
    if not selection.given and rows:
        confirm_if_watched(f"No filter given: set the status of all {count(len(rows))} to {new}?", yes)
    changes = [Change(row.id, status=new, note="xpr reset_status") for row in rows]
    changed = session.record.step(changes, force=True) if changes else set()
    warn(f"Status of {count(len(changed))} set to {new}")
    if len(changed) < len(rows):
        names = ", ".join(row.id for row in rows if row.id not in changed)
        raise RecordError(f"not changed, because they were removed meanwhile: {names}")


@click.command("create_job")
@click.option("-d", "--from_dir", "--from-dir", required=True, metavar="DIR", help="Directory of the job.",
              type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))  # fmt: skip
@click.option("-S", "--system", required=True, shell_complete=complete_system, help="System the job runs on.")
@click.option("-i", "--id", "id_", help="Id (default: name of the directory without run_).")
@click.option("-n", "--name", help=f"Name (default: id without its last {_TAIL} characters).")
@pass_session
def create_job(session: Session, from_dir: Path, system: str, id_: str | None, name: str | None) -> None:
    """Record a job whose directory exists, for example after the record was lost."""
    job_id = id_ if id_ is not None else from_dir.name.removeprefix("run_")
    job_name = name if name is not None else job_id[:-_TAIL]
    if not job_name:
        raise RequestError(f"no name can be made of the id {job_id!r}; give one with --name")
    record = session.create_record()
    try:
        record.add(job_id, job_name, from_dir, system=system, remote_id="NA", remote_status="unknown")
    except ValueError as exc:
        raise RecordError(str(exc)) from exc
    _know_again(record, job_id, job_name, from_dir)
    warn(f"Created job {job_id}")


def _know_again(record: JobsDB, job_id: str, name: str, directory: Path) -> None:
    """Record what a job's directory and id tell of it: the key that signs its results, and that of its call."""
    from expyre.jobsdb import Change
    from expyre.stage import names

    try:
        signs = bytes.fromhex((directory / names.KEY).read_text().strip())
    except (OSError, ValueError):
        return
    details: dict[str, object] = {"hmac_key": signs}
    if len(job_id) == len(name) + _TAIL and job_id.startswith(f"{name}_"):
        details |= {"scope": name, "key": f"k1:{job_id[-_TAIL + 1 : -9]}"}
    record.step([Change(job_id, details=details, note="xpr create_job")])


@click.command("db_unlock")
@click.option("--force", is_flag=True, help="Even if a living process of this machine holds the lock.")
@pass_session
def db_unlock(session: Session, force: bool) -> None:
    """Free the record of a lock that a dead process has left, by putting a copy of the file in its place."""
    session.record.unlock(force=force)
    warn(f"Unlocked {session.record.db_filename}")
