"""Jobs that are nearly the same: what a new key differs from."""

from __future__ import annotations

import sqlite3
import zlib
from typing import TYPE_CHECKING, Final

from expyre.jobsdb.rows import SELECT, JobRow

if TYPE_CHECKING:
    from expyre.identity import Identity

_CANDIDATES: Final = 200


def parts(connection: sqlite3.Connection, id: str) -> Identity | None:
    """Return what entered the key of a job."""
    sql = "SELECT blob FROM parts WHERE num = (SELECT num FROM details WHERE id = ?)"
    found = connection.execute(sql, (id,)).fetchone()
    return None if found is None else _unpack(found[0])


def _unpack(blob: bytes) -> Identity:
    from expyre.identity import Identity

    return Identity.from_json(zlib.decompress(blob).decode())


def nearest(connection: sqlite3.Connection, row: JobRow) -> tuple[JobRow, Identity] | None:
    """Return the earlier job that differs least; see `JobsDB.nearest`."""
    own = parts(connection, row.id)
    mine = None if own is None else _digests(own)
    best: tuple[int, str, Identity] | None = None
    for id, blob in connection.execute(_EARLIER, {"id": row.id, "limit": _CANDIDATES}):
        other = _unpack(blob)
        distance = 0 if mine is None else len(mine ^ _digests(other))
        if best is None or distance < best[0]:
            best = distance, id, other
    if best is None:
        return None
    return JobRow(*connection.execute(f"{SELECT} WHERE j.id = ?", (best[1],)).fetchone()), best[2]


_EARLIER: Final = """
SELECT d.id, parts.blob
FROM details AS mine
JOIN details AS d ON d.func = mine.func
JOIN parts ON parts.num = d.num
WHERE mine.id = :id AND d.num < mine.num AND d.key IS NOT mine.key AND d.t_created IS NOT mine.t_created
ORDER BY d.num DESC LIMIT :limit
"""


def _digests(identity: Identity) -> set[tuple[str, str]]:
    return {(part.path, part.digest) for part in identity.parts}
