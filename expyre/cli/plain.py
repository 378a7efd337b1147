"""The columns of the ``jobs`` table and nothing else, read in one go: what a listing of very many jobs needs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from expyre.errors import RecordError

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow, JobsDB

__all__ = ["no_collection", "read_plain"]

_LONG = frozenset({"from_dir", "creation_time"})


def read_plain(
    record: JobsDB,
    *,
    statuses: list[str] | None = None,
    limit: int | None = None,
    newest_first: bool = False,
    brief: bool = False,
) -> list[JobRow]:
    """Return jobs as `JobsDB.query` does, without what the record knows beside the ``jobs`` table.

    Parameters
    ----------
    statuses
        Statuses let through; None for all.
    limit, newest_first
        As for `JobsDB.query`.
    brief
        Leave out directories and times of creation, which take a quarter of the time.

    Raises
    ------
    RecordError
        The record cannot be read.
    """
    import sqlite3

    from expyre.jobsdb import JobRow

    values: list[str | int] = [*(statuses or ()), -1 if limit is None else limit]
    condition = "1" if statuses is None else f"status IN ({', '.join('?' * len(statuses))})"
    columns = ["NULL" if brief and name in _LONG else name for name in record.columns]
    order = "DESC" if newest_first else "ASC"
    sql = f"SELECT {', '.join(columns)} FROM jobs WHERE {condition} ORDER BY rowid {order} LIMIT ?"
    try:
        return [JobRow(*row) for row in record.db.execute(sql, values)]
    except sqlite3.DatabaseError as exc:
        raise RecordError(f"the record {record.db_filename} cannot be read: {exc}") from exc


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking through very many rows that are all in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
