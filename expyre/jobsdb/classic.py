"""The methods of the record that scripts and older programs know: plain rows, one at a time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre import states
from expyre.jobsdb import filters, paging
from expyre.jobsdb.rows import COLUMNS, readable_time

if TYPE_CHECKING:
    from expyre.jobsdb.connection import Connections


class ClassicMethods:
    """Add, remove, update and list rows of the ``jobs`` table."""

    db_filename: Path
    columns: list[str]
    _connections: Connections

    def add(
        self,
        id: str,
        name: str,
        from_dir: str | Path,
        status: str = states.CREATED,
        system: str | None = None,
        remote_id: str | None = None,
        remote_status: str | None = None,
    ) -> None:
        """Add a job.

        Raises
        ------
        AssertionError
            Unknown status.
        ValueError
            The record already has a job of this id.
        """
        _need_status(status)
        row = (id, name, str(from_dir), status, system, remote_id, remote_status, int(time.time()))
        with self._connections.writing() as connection:
            if connection.execute("SELECT 1 FROM jobs WHERE id = ?", (id,)).fetchone():
                raise ValueError(f"the record {self.db_filename} already has a job {id!r}")
            connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", row)

    def remove(self, id: str) -> None:
        """Remove a job and all that is known of it.

        Raises
        ------
        ValueError
            There is not exactly one job of this id.
        """
        with self._connections.writing() as connection:
            self._need_one(connection, id)
            connection.execute("DELETE FROM jobs WHERE id = ?", (id,))

    def update(self, id: str, /, **fields: Any) -> None:
        """Set columns of a job; a new status also sets ``status_time``.

        Raises
        ------
        AssertionError
            Unknown status.
        ValueError
            There is no job of this id.
        sqlite3.OperationalError
            There is no column of this name.
        """
        if unknown := [name for name in fields if name not in COLUMNS]:
            known = ", ".join(COLUMNS)
            raise sqlite3.OperationalError(f"no such column: {', '.join(unknown)}; the columns are: {known}")
        if "status" in fields:
            _need_status(fields["status"])
        with self._connections.writing() as connection:
            self._need_one(connection, id, several=True)
            _update(connection, id, fields)

    def _need_one(self, connection: sqlite3.Connection, id: str, *, several: bool = False) -> None:
        number = int(connection.execute("SELECT count(*) FROM jobs WHERE id = ?", (id,)).fetchone()[0])
        if number == 0 or (number > 1 and not several):
            raise ValueError(f"the record {self.db_filename} has {number or 'no'} jobs {id!r}")

    def jobs(
        self,
        status: filters.Words = None,
        id: filters.Words = None,
        name: filters.Words = None,
        system: filters.Words = None,
        readable: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Return the jobs that match all filters, in the order in which they were added.

        Parameters
        ----------
        status
            Statuses or groups of them.
        id, name, system
            Regular expressions for the whole string; of several, one has to match. A missing value never matches.
        readable
            Whether times are ``YYYY-mm-dd HH:MM:SS`` in local time, rather than whole seconds since 1970.

        Returns
        -------
        Iterator of dicts with the columns of the ``jobs`` table.

        Raises
        ------
        AssertionError
            Unknown status.
        ValueError
            Bad regular expression.
        """
        for word in [status] if isinstance(status, str) else status or []:
            _need_status(word, *states.GROUPS)
        chosen = filters.where(status=status, id=id, name=name, system=system)
        rows = paging.pages(self._connections, chosen, select=paging.COLUMNS_ONLY)
        return self._dicts(rows, readable)

    def _dicts(self, rows: Iterator[tuple[Any, ...]], readable: bool) -> Iterator[dict[str, Any]]:
        """Yield rows as dicts; who reads them keeps the record open, which nobody else may refer to any more."""
        for row in rows:
            yield _as_dict(row, readable)

    def __str__(self) -> str:
        names = " ".join(self.columns)
        lines = [f"JobsDB {self.db_filename}", names, "-" * len(names), *map(str, self.jobs())]
        return "\n".join(lines)


def _need_status(status: str, *groups: str) -> None:
    known: Sequence[str] = (*states.STATUSES, *groups)
    if status not in known:
        raise AssertionError(f"unknown status {status!r}; it can be {', '.join(known)}")


def _update(connection: sqlite3.Connection, id: str, fields: dict[str, Any]) -> None:
    assignments = [f"{name} = :{name}" for name in fields]
    if "status" in fields and "status_time" not in fields:
        assignments.append(
            "status_time = CASE WHEN status IS NOT :status OR status_time IS NULL THEN :now ELSE status_time END"
        )
    if assignments:
        values = {**fields, "now": int(time.time()), "job": id}
        connection.execute(f"UPDATE jobs SET {', '.join(assignments)} WHERE id = :job", values)


def _as_dict(row: tuple[Any, ...], readable: bool) -> dict[str, Any]:
    result = dict(zip(COLUMNS, row, strict=True))
    if readable:
        for name in ("creation_time", "status_time"):
            result[name] = readable_time(result[name])
    return result
