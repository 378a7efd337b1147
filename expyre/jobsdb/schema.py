"""The tables of the record and their versions: a file of an older version is brought up to date in place."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from expyre.errors import RecordError
from expyre.jobsdb.rows import COLUMNS

VERSION: Final = 1
_FOLDER: Final = Path(__file__).parent


def is_current(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether a file has the tables of this version.

    Raises
    ------
    RecordError
        The file is of a newer version.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise RecordError(
            f"the record {path} was written by a newer version of this package (record version {version}, this one "
            f"knows up to {VERSION}); update this installation, or use another stage directory (local_stage_dir)"
        )
    return version == VERSION


def need_current(current: bool, path: Path) -> None:
    """Raise RecordError unless a file that can only be read has the tables of this version."""
    if not current:
        raise RecordError(
            f"the record {path} is of an older version and its directory is write-protected, so that it cannot be "
            "brought up to date; copy the file to where it can be written"
        )


def check_readable(connection: sqlite3.Connection, path: Path) -> None:
    """Raise RecordError if a file has tables, but no jobs table with the nine columns."""
    if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        return  # another process has made the file and is about to fill it
    found = [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        what = f"its jobs table lacks {', '.join(missing)}" if found else "it has no jobs table"
        raise RecordError(f"{path} is not a record of jobs: {what}; name another file, or move this one away")


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a file up to this version, in one transaction; does nothing if another process was faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not is_current(connection, path):
            _upgrade(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _upgrade(connection: sqlite3.Connection) -> None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
        _run(connection, "jobs.sql")
    _index_ids(connection)
    for version in range(int(connection.execute("PRAGMA user_version").fetchone()[0]), VERSION):
        _run(connection, f"version{version + 1}.sql")


def _index_ids(connection: sqlite3.Connection) -> None:
    """Make ids unique, unless the file already has an id twice: older programs did not prevent that."""
    try:
        connection.execute("CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_id ON jobs (id)")
    except sqlite3.IntegrityError:
        connection.execute("CREATE INDEX jobs_by_id ON jobs (id)")


def _run(connection: sqlite3.Connection, name: str) -> None:
    for statement in statements((_FOLDER / name).read_text()):
        connection.execute(statement)


def statements(script: str) -> Iterator[str]:
    """Split a script into its statements (``executescript`` would end the transaction it runs in)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
