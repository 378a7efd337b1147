"""``xpr fail_job``: make a job count as failed, whatever it left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from expyre.cli.ask import accepted, refuse_without_filter
from expyre.cli.filters import Selection, selects
from expyre.cli.output import count, warn
from expyre.cli.queue import note_all
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow

__all__ = ["fail_job"]

_WORDS = "xpr fail_job"


@click.command("fail_job")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@selects()
@pass_session
def fail_job(session: Session, selection: Selection, yes: bool) -> None:
    """Make jobs count as failed: whoever asks for their results next gets RuntimeError("xpr fail_job").

    Replaces the result in the job's directory by an error; the recorded status changes when results are asked for.
    """
    refuse_without_filter(selection.given, "fail_job")
    chosen = [row for row in selection.rows(session) if yes or accepted(f'Fail "{row.id}"')]
    done = [row for row in chosen if _fail(row)]
    if done:
        note_all(session, done, _WORDS)
    warn(f"Failed {count(len(done))}")
    if len(done) < len(chosen):
        raise click.exceptions.Exit(1)


def _fail(row: JobRow) -> bool:
    """Leave an error in the place of a job's result; return whether that was possible."""
    directory = Path(row.from_dir or "")
    if not row.from_dir or not directory.is_dir():
        warn(f"{clean(row.id)}: no directory {clean(str(directory))}")
        return False
    try:
        _write_error(directory, row.hmac_key)
    except OSError as exc:
        warn(f"{clean(row.id)}: {exc}")
        return False
    return True


def _write_error(directory: Path, key: bytes | None) -> None:
    """Write error and exception as a job that failed leaves them; without its key only the error, which needs none."""
    from expyre.node import runner
    from expyre.stage import names

    error = RuntimeError(_WORDS)
    (directory / names.EXCEPTION).unlink(missing_ok=True)
    if key:
        _replace(directory / names.EXCEPTION, runner.sign(runner.exception_bytes(error), key))
    _replace(directory / names.ERROR, f"Exception: {_WORDS}\n".encode())
    (directory / names.SUCCEEDED).unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.new")
    partial.write_bytes(content)
    partial.replace(path)
