"""Jobs that are nearly the same: what a new key differs from."""

from __future__ import annotations

import sqlite3
import zlib
from typing import TYPE_CHECKING, Final

from expyre.jobsdb.rows import SELECT, JobRow

if TYPE_CHECKING:
    from expyre.identity import Identity

_CANDIDATES: Final = 200


def unpack(blob: bytes) -> Identity:
    """Return the parts of a key from their compressed form."""
    from expyre.identity import Identity

    return Identity.from_json(zlib.decompress(blob).decode())


def nearest(connection: sqlite3.Connection, row: JobRow) -> tuple[JobRow, Identity] | None:
    """Return the earlier job that differs least; see `JobsDB.nearest`."""
    own = connection.execute("SELECT blob FROM parts WHERE id = ?", (row.id,)).fetchone()
    mine = None if own is None else _digests(unpack(own[0]))
    best: tuple[int, str, Identity] | None = None
    for id, blob in connection.execute(_EARLIER, {"id": row.id, "limit": _CANDIDATES}):
        parts = unpack(blob)
        distance = 0 if mine is None else len(mine ^ _digests(parts))
        if best is None or distance < best[0]:
            best = distance, id, parts
    if best is None:
        return None
    return JobRow(*connection.execute(f"{SELECT} WHERE j.id = ?", (best[1],)).fetchone()), best[2]


_EARLIER: Final = """
SELECT d.id, parts.blob
FROM details AS mine
JOIN details AS d ON d.func = mine.func
JOIN parts ON parts.id = d.id
WHERE mine.id = :id AND d.rowid < mine.rowid AND d.key IS NOT mine.key AND d.t_created IS NOT mine.t_created
ORDER BY d.rowid DESC LIMIT :limit
"""


def _digests(identity: Identity) -> set[tuple[str, str]]:
    return {(part.path, part.digest) for part in identity.parts}
