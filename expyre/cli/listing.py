"""``xpr ls``: the jobs of the record as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from expyre.cli.filters import Selection, selects
from expyre.cli.output import Screen, echo_ids, echo_json, facts, json_option, quiet_option
from expyre.cli.session import Session, pass_session
from expyre.cli.table import Column, fit, render
from expyre.cli.text import ELLIPSIS, crop, middle
from expyre.cli.times import age, stamper
from expyre.util import no_collection

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow

__all__ = ["ls", "table"]

_RANDOM = 8  # characters that end an id and tell it from every other
_MARK = len(ELLIPSIS) + _RANDOM


@click.command()
@click.option("-l", "--long-output", is_flag=True, help="Also names, times of creation and directories; whole ids.")
@quiet_option
@json_option
@selects(ordered=True)
@pass_session
def ls(session: Session, selection: Selection, long_output: bool, quiet: bool, as_json: bool) -> None:
    """List jobs: all of them, or those that the filters let through.

    On a terminal too narrow for the table ids are cut to the name and their last 8 characters (which are enough to
    name a job to other commands) and times become ages.
    """
    if as_json:
        echo_json([facts(row) for row in selection.rows(session)])
        return
    with no_collection():
        _print(session, selection.plain_rows(session, brief=not long_output), long_output, quiet)


def _print(session: Session, rows: Sequence[JobRow], long_output: bool, quiet: bool) -> None:
    if quiet:
        echo_ids(rows)
    elif not rows:
        click.echo(f"No matching jobs in JobsDB at {session.record.db_filename}")
    else:
        click.echo("Jobs:\n" + "\n".join(table(rows, Screen.current(), long=long_output)))


def table(rows: Sequence[JobRow], screen: Screen, *, long: bool = False) -> list[str]:
    """Return the lines of the table of jobs; cut to fit if the screen is a terminal."""
    columns = _columns(rows, long)
    if screen.width is not None and _total(columns) > screen.width:
        columns = _narrow_columns(rows, long)
        fit(columns, screen.width)
    lines = render(columns)
    if screen.width is not None:
        lines = [crop(line, screen.width) for line in lines]
    if not screen.color:
        return lines
    return [screen.bold(lines[0]), *(screen.status(r.status, line) for r, line in zip(rows, lines[1:], strict=True))]


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(columns) - 1


def _columns(rows: Sequence[JobRow], long: bool) -> list[Column]:
    """Return the columns in full."""
    stamp = stamper()
    ids = [row.id for row in rows] if long else [f"{row.id[: len(row.name or '') + 10]}..." for row in rows]
    status = [f"{row.status}({stamp(row.status_time)})" for row in rows]
    created = [stamp(row.creation_time) for row in rows] if long else []
    return _assemble(rows, ids, status, created, long)


def _narrow_columns(rows: Sequence[JobRow], long: bool) -> list[Column]:
    """Return the columns for a narrow terminal: short ids, and ages for times."""
    now = time.time()
    ids = [_short_id(row) for row in rows]
    status = [f"{row.status}({age(row.status_time, now)})" for row in rows]
    created = [age(row.creation_time, now) for row in rows] if long else []
    return _assemble(rows, ids, status, created, long)


def _assemble(
    rows: Sequence[JobRow], ids: list[str], status: list[str], created: list[str], long: bool
) -> list[Column]:
    columns = [
        Column("", [str(i) for i in range(len(rows))]),
        Column("id", ids, _MARK + 4, _cut_id),
        Column("stat (time)", status, 8, crop),
        Column("remote_id@sys", [f"{row.remote_id}@{row.system}" for row in rows], 9),
        Column("remote stat", [str(row.remote_status) for row in rows], 7, crop),
    ]
    if not long:
        return columns
    columns.insert(1, Column("name", [str(row.name) for row in rows], 4))
    columns.insert(3, Column("created", created, 7, crop))
    return [*columns, Column("from dir", [str(row.from_dir) for row in rows], 8)]


def _short_id(row: JobRow) -> str:
    """Return name and last characters of an id; the whole of it if that is no shorter or the id is not of our make."""
    name = row.name or ""
    if not row.id.startswith(name) or len(row.id) <= len(name) + _MARK:
        return row.id
    return f"{name}{ELLIPSIS}{row.id[-_RANDOM:]}"


def _cut_id(text: str, columns: int) -> str:
    """Cut an id, keeping its last characters as long as there is room for them."""
    return middle(text, columns, tail=_RANDOM)
