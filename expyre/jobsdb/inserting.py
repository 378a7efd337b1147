"""New jobs: one transaction decides for each whether it is new or known."""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from expyre import states
from expyre.jobsdb.rows import NewJob, as_text

_Pair = tuple[str | None, str | None]


def check(rows: Sequence[NewJob]) -> None:
    """Raise ValueError, with all mistakes, for unknown statuses and ids that come twice."""
    mistakes = [f"{row.id}: unknown status {row.status!r}" for row in rows if row.status not in states.STATUSES]
    mistakes += [f"{id}: comes {number} times" for id, number in Counter(row.id for row in rows).items() if number > 1]
    if mistakes:
        raise ValueError("; ".join(mistakes))


def compress(rows: Sequence[NewJob]) -> dict[str, bytes]:
    """Return the compressed parts of each row that has some; done before the lock is taken."""
    return {row.id: zlib.compress(row.parts_json.encode(), 1) for row in rows if row.parts_json is not None}


def insert(connection: sqlite3.Connection, rows: Sequence[NewJob], blobs: dict[str, bytes]) -> dict[str, str]:
    """Insert the rows whose scope and key no live job has; see `JobsDB.insert_jobs`."""
    owners: dict[_Pair, str] = {}
    result, fresh = {}, []
    for row in rows:
        pair = (row.scope, row.key)
        owner = _owner(connection, pair, owners)
        result[row.id] = owner or row.id
        if owner is None:
            fresh.append(row)
            if None not in pair and row.status in states.GROUPS["can_produce_results"]:
                owners[pair] = row.id
    _insert(connection, fresh, blobs)
    return result


def _owner(connection: sqlite3.Connection, pair: _Pair, owners: dict[_Pair, str]) -> str | None:
    if None in pair:
        return None
    if pair in owners:
        return owners[pair]
    found = connection.execute(_LIVE, pair).fetchone()
    return None if found is None else str(found[0])


def _insert(connection: sqlite3.Connection, rows: Sequence[NewJob], blobs: dict[str, bytes]) -> None:
    now = time.time()
    _refuse_known(connection, rows)
    connection.executemany(_DETAILS, [_details(row, now) for row in rows])
    connection.executemany(_JOBS, [_job(row, int(now)) for row in rows])
    connection.executemany(_PARTS, [(blobs[row.id], row.id) for row in rows if row.id in blobs])


def _refuse_known(connection: sqlite3.Connection, rows: Sequence[NewJob]) -> None:
    sql = "SELECT 1 FROM jobs WHERE id = ?"
    known = [row.id for row in rows if connection.execute(sql, (row.id,)).fetchone() is not None]
    if known:
        raise ValueError(f"the record already has a job {', '.join(map(repr, known))}")


_LIVE: Final = "SELECT id FROM live WHERE scope = ? AND key = ? ORDER BY position LIMIT 1"
_PARTS: Final = "INSERT INTO parts SELECT num, ? FROM details WHERE id = ?"
_JOBS: Final = "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)"
_DETAILS: Final = """
INSERT INTO details (id, scope, key, func, submit_state, "partition", resources, hmac_key, num_cores, t_created)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def _job(row: NewJob, now: int) -> tuple[Any, ...]:
    return (row.id, row.name, row.from_dir, row.status, row.system, row.remote_id, row.remote_status, now)


def _details(row: NewJob, now: float) -> tuple[Any, ...]:
    state = None if row.status == states.CREATED else "submitted"
    resources = as_text(row.resources)
    return (row.id, row.scope, row.key, row.func, state, row.partition, resources, row.hmac_key, row.num_cores, now)
