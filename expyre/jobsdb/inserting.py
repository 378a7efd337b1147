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
    return {row.id: _compressed(row.parts_json.encode()) for row in rows if row.parts_json is not None}


def _compressed(data: bytes) -> bytes:
    """Compress with a window no larger than small data need: setting up a large one takes most of the time."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 10, 3) if len(data) < 2000 else zlib.compressobj(1)
    return packer.compress(data) + packer.flush()


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
    id: str | None = connection.execute(_LIVE, pair).fetchone()[0]
    return id


def _insert(connection: sqlite3.Connection, rows: Sequence[NewJob], blobs: dict[str, bytes]) -> None:
    now = time.time()
    last = connection.execute("SELECT coalesce(max(num), 0) FROM details").fetchone()[0]
    try:
        connection.executemany(_DETAILS, [(num, *_details(row, now)) for num, row in enumerate(rows, last + 1)])
    except sqlite3.IntegrityError:
        raise ValueError(_known(connection, rows)) from None
    connection.executemany(_JOBS, [_job(row, int(now)) for row in rows])
    parts = [(num, blobs[row.id]) for num, row in enumerate(rows, last + 1) if row.id in blobs]
    connection.executemany("INSERT INTO parts VALUES (?, ?)", parts)


def _known(connection: sqlite3.Connection, rows: Sequence[NewJob]) -> str:
    sql = "SELECT 1 FROM jobs WHERE id = ?"
    known = [row.id for row in rows if connection.execute(sql, (row.id,)).fetchone() is not None]
    return f"the record already has a job {', '.join(map(repr, known))}"


_LIVE: Final = "SELECT id, min(position) FROM live WHERE scope = ? AND key = ?"
_JOBS: Final = "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)"
_DETAILS: Final = """
INSERT INTO details (num, id, scope, key, func, submit_state, "partition", resources, hmac_key, num_cores, t_created)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def _job(row: NewJob, now: int) -> tuple[Any, ...]:
    return (row.id, row.name, row.from_dir, row.status, row.system, row.remote_id, row.remote_status, now)


def _details(row: NewJob, now: float) -> tuple[Any, ...]:
    state = None if row.status == states.CREATED else "submitted"
    resources = as_text(row.resources)
    return (row.id, row.scope, row.key, row.func, state, row.partition, resources, row.hmac_key, row.num_cores, now)
