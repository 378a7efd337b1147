"""The columns of the ``jobs`` table and nothing else, read in one go: what a listing of very many jobs needs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from expyre.errors import RecordError

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow, JobsDB

__all__ = ["read_plain"]


def read_plain(
    record: JobsDB,
    *,
    status: list[str] | None = None,
    id: list[str] | None = None,
    name: list[str] | None = None,
    system: list[str] | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> list[JobRow]:
    """Return the jobs that match, as `JobsDB.query` does, without what the record knows beside the ``jobs`` table.

    Raises
    ------
    RecordError
        The record cannot be read.
    """
    import sqlite3

    from expyre.jobsdb import JobRow
    from expyre.jobsdb.filters import where

    condition, values = where(status=status, id=id, name=name, system=system)
    columns = ", ".join(f"j.{column}" for column in record.columns)
    order = "DESC" if newest_first else "ASC"
    sql = f"SELECT {columns} FROM jobs AS j WHERE {condition} ORDER BY j.rowid {order} LIMIT ?"
    try:
        with _no_collection():
            return [JobRow(*row) for row in record.db.execute(sql, (*values, -1 if limit is None else limit))]
    except sqlite3.DatabaseError as exc:
        raise RecordError(f"the record {record.db_filename} cannot be read: {exc}") from exc


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking through rows that are all in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
