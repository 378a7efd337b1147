"""Copies of the record that are checked before anybody trusts them; freeing a record from a dead lock."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from expyre.errors import RecordError
from expyre.jobsdb.connection import Connections
from expyre.jobsdb.holders import holders

_COMPANIONS = ("-wal", "-journal")


def copy(source: Path, target: Path) -> None:
    """Copy a record that others may be using; see `JobsDB.backup`."""
    try:
        _backup(source, target)
        _check(target)
    except (sqlite3.DatabaseError, OSError) as error:
        raise RecordError(f"no copy of {source} could be made as {target}: {error}") from error


def unlock(connections: Connections, force: bool = False) -> None:
    """Put a copy in the place of a record that is locked; see `JobsDB.unlock`."""
    path = connections.path
    copied = Path(f"{path}.tmp")
    connections.close()
    with _nobody_writes(path) as free:
        if not free and not force and (found := holders(path)):
            raise RecordError(
                f"the record {path} is in use by process {', '.join(found)}; let that finish or stop it (or unlock "
                "with force=True: what that process writes from now on would be lost)"
            )
        _copy_somehow(path, copied, free)
        _replace(path, copied)


@contextmanager
def _nobody_writes(path: Path) -> Iterator[bool]:
    """Hold the write lock, if it can be had: a writer that waits for it finds the new file when it gets it."""
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError:
            yield False
        else:
            yield True
            connection.rollback()


def _copy_somehow(path: Path, target: Path, free: bool) -> None:
    """Copy through SQLite; if the lock forbids that, copy the files with what SQLite needs to restore them."""
    try:
        try:
            _backup(path, target, 5.0 if free else 0.5)
        except sqlite3.DatabaseError:
            if free:
                raise
            _copy_files(path, target)
        _check(target)
    except (sqlite3.DatabaseError, OSError) as error:
        raise RecordError(f"no readable copy of {path} could be made ({error}); the file was left as it is") from error


def _backup(source: Path, target: Path, patience: float = 5.0) -> None:
    _make_private(target)
    with closing(sqlite3.connect(source, timeout=patience, isolation_level=None)) as old:
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM sqlite_master").fetchone()  # locked for reading: the copy has not to wait
        with closing(sqlite3.connect(target)) as new:
            old.backup(new)


def _make_private(target: Path) -> None:
    for name in (target, *(Path(f"{target}{ending}") for ending in _COMPANIONS)):
        name.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _copy_files(source: Path, target: Path) -> None:
    _make_private(target)
    shutil.copyfile(source, target)
    for ending in _COMPANIONS:
        if os.path.exists(f"{source}{ending}"):
            shutil.copyfile(f"{source}{ending}", f"{target}{ending}")


def _check(target: Path) -> None:
    """Raise sqlite3.DatabaseError unless a copy is whole; leaves it as one file, on disk."""
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        connection.execute("PRAGMA journal_mode = delete")
        answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if answer != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {answer}")
        connection.execute("SELECT count(id) FROM jobs")
        connection.execute(f"PRAGMA journal_mode = {mode}")
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def _replace(path: Path, copied: Path) -> None:
    """Rename the copy to the record's name; there is no moment without a file of that name."""
    old = Path(f"{path}.old")
    old.unlink(missing_ok=True)
    os.link(path, old)
    for ending in (*_COMPANIONS, "-shm"):
        if os.path.exists(f"{path}{ending}"):
            os.replace(f"{path}{ending}", f"{old}{ending}")
    os.replace(copied, path)
