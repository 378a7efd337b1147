"""The columns of the ``jobs`` table and nothing else, read in one go: what a listing of very many jobs needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Final

from expyre.jobsdb.rows import COLUMNS, JobRow

_LONG: Final = frozenset({"from_dir", "creation_time"})


def read(
    connection: sqlite3.Connection, statuses: Collection[str] | None, limit: int | None, newest_first: bool, brief: bool
) -> list[JobRow]:
    """Return rows in one statement; see `JobsDB.listing`."""
    values: list[str | int] = [*(statuses or ()), -1 if limit is None else limit]
    condition = "1" if statuses is None else f"status IN ({', '.join('?' * len(statuses))})"
    columns = ["NULL" if brief and name in _LONG else name for name in COLUMNS]
    order = "DESC" if newest_first else "ASC"
    sql = f"SELECT {', '.join(columns)} FROM jobs WHERE {condition} ORDER BY rowid {order} LIMIT ?"
    return [JobRow(*row) for row in connection.execute(sql, values)]
