"""Rows in the order in which they were recorded, page by page, so that no lock is held while the caller works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from expyre.jobsdb.connection import Connections
from expyre.jobsdb.filters import Filter
from expyre.jobsdb.rows import COLUMNS, SELECT

COLUMNS_ONLY: Final = f"SELECT {', '.join(f'j.{name}' for name in COLUMNS)} FROM jobs AS j"
_PAGE: Final = 500


def pages(
    connections: Connections,
    chosen: Filter,
    *,
    limit: int | None = None,
    newest_first: bool = False,
    select: str = SELECT,
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that a filter lets through, as many as ``limit`` says."""
    sql = _statement(chosen, newest_first, select)
    left = 2**62 if limit is None else limit
    last = 2**62 if newest_first else -(2**62)
    while left > 0:
        size = min(left, _PAGE)
        with connections.reading() as connection:
            page = connection.execute(sql, chosen.values(last, size)).fetchall()
        for row in page:
            yield row[:-1]
        if len(page) < size:
            return
        left, last = left - len(page), page[-1][-1]


def _statement(chosen: Filter, newest_first: bool, select: str) -> str:
    """Return the SQL of a page.

    The rows of a page are found first and read afterwards. With several statuses each is searched for itself, because
    an index gives the rows of one status, but not of several, in order.
    """
    compare, order = ("<", "DESC") if newest_first else (">", "ASC")
    position = "+rowid" if chosen.narrow else "rowid"
    branches = [
        f"SELECT * FROM (SELECT j.rowid AS position FROM jobs AS j WHERE {condition} AND {position} {compare} :last "
        f"ORDER BY {position} {order} LIMIT :size)"
        for condition in chosen.branches()
    ]
    head, _, tables = select.partition(" FROM jobs AS j")
    found = " UNION ALL ".join(branches)
    return (
        f"{head}, found.position FROM ({found} ORDER BY position {order} LIMIT :size) AS found "
        f"CROSS JOIN jobs AS j ON j.rowid = found.position{tables} ORDER BY found.position {order}"
    )
