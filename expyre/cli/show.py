"""``xpr show``: everything known of one job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from expyre.cli.complete import complete_id
from expyre.cli.output import Screen, echo_json, facts, json_option
from expyre.cli.resolve import one
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean
from expyre.cli.times import duration, stamp

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow

__all__ = ["show"]

_MOST_FILES = 40
_TIMES = ("t_created", "t_submitted", "t_started", "t_ended", "t_fetched")


@click.command()
@click.argument("job", shell_complete=complete_id)
@json_option
@pass_session
def show(session: Session, job: str, as_json: bool) -> None:
    """Show everything known of JOB: times, directory, resources, how it ended, its history and its files."""
    row = one(session.record, job)
    history = _history(session, row)
    files = _files(row)
    if as_json:
        echo_json({**facts(row), "history": history, "files": files, "key_parts": _parts(session, row)})
        return
    screen = Screen.current()
    for title, lines in _sections(session, row, history, files).items():
        if lines:
            click.echo(screen.bold(f"{title}:"))
            click.echo("".join(f"  {clean(line)}\n" for line in lines), nl=False)


def _sections(
    session: Session, row: JobRow, history: list[dict[str, Any]], files: list[dict[str, Any]]
) -> dict[str, list[str]]:
    return {
        "Job": list(_about(row)),
        "Times": list(_times(row)),
        "Resources": [f"{name}: {value}" for name, value in row.resources_dict.items() if value is not None],
        "End": list(_end(row)),
        "Key": [f"{part['path']}: {part['summary']}" for part in _parts(session, row)],
        "History": [_event(event) for event in history],
        "Files": [f"{file['size']:>10}  {file['name']}" for file in files[:_MOST_FILES]] + _more(files),
    }


def _about(row: JobRow) -> Iterator[str]:
    names = ("id", "name", "status", "system", "remote_id", "remote_status", "partition", "num_cores", "tries")
    for name in names:
        value = getattr(row, name)
        if value is not None and (name, value) != ("tries", 0):
            yield f"{name}: {value}"
    yield f"directory: {row.from_dir}" + ("" if row.from_dir and Path(row.from_dir).is_dir() else " (not there)")
    if row.func:
        yield f"function: {row.func}"
    if row.submit_state == "submitting":
        yield f"being submitted by: {row.owner}"


def _times(row: JobRow) -> Iterator[str]:
    last: float | None = None
    for name in _TIMES:
        value = getattr(row, name) or (row.creation_time if name == "t_created" else None)
        if value is not None:
            since = "" if last is None else f"  (+{duration(value - last)})"
            yield f"{name.removeprefix('t_'):<9} {stamp(value)}{since}"
            last = value
    if row.status_time is not None:
        yield f"{'status':<9} {stamp(row.status_time)}"


def _end(row: JobRow) -> Iterator[str]:
    for name, value in (("reason", row.reason), ("detail", row.end_detail), ("exit code", row.exit_code)):
        if value is not None and value != "":
            yield f"{name}: {value}"


def _parts(session: Session, row: JobRow) -> list[dict[str, str]]:
    identity = session.record.parts(row.id)
    if identity is None:
        return []
    return [{"path": part.path, "summary": part.summary, "digest": part.digest} for part in identity.parts]


def _history(session: Session, row: JobRow) -> list[dict[str, Any]]:
    return [
        {"time": time, "status": status, "remote_status": remote_status, "note": note}
        for time, status, remote_status, note in session.record.history(row.id)
    ]


def _event(event: dict[str, Any]) -> str:
    queue = f"({event['remote_status']})" if event["remote_status"] else None
    words = [stamp(event["time"]), event["status"], queue, event["note"]]
    return " ".join(str(word) for word in words if word)


def _files(row: JobRow) -> list[dict[str, Any]]:
    directory = Path(row.from_dir or "")
    if not row.from_dir or not directory.is_dir():
        return []
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [{"name": str(path.relative_to(directory)), "size": path.lstat().st_size} for path in found]


def _more(files: list[dict[str, Any]]) -> list[str]:
    return [f"and {len(files) - _MOST_FILES} more files"] if len(files) > _MOST_FILES else []
