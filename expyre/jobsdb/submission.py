"""Who may submit a job: the intent is on disk before the queue hears of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Final

from expyre import states
from expyre.errors import JobNotFoundError
from expyre.owners import owner_alive

CLAIMED: Final = "claimed"
TAKEN: Final = "taken"
STALE: Final = "stale"
SUBMITTED: Final = "submitted"


def claim(
    connection: sqlite3.Connection,
    ids: Sequence[str],
    token_of: Mapping[str, str],
    owner: str,
    expect: Sequence[str] = (states.CREATED,),
) -> dict[str, str]:
    """Claim jobs inside a write transaction; see `JobsDB.claim_submission`."""
    now = time.time()
    answers: dict[str, str] = {}
    alive: dict[tuple[str, float | None], bool] = {}
    for id in dict.fromkeys(ids):
        found = connection.execute(_LOOK, (id,)).fetchone()
        if found is None:
            continue
        answers[id] = _judge(found, expect, alive)
    _need_all(ids, answers)
    fresh = [(token_of[id], owner, now, id) for id, answer in answers.items() if answer == CLAIMED]
    connection.executemany(_CLAIM, fresh)
    connection.executemany(_TAKE_OVER, [(owner, now, id) for id, answer in answers.items() if answer == STALE])
    return answers


_LOOK: Final = """
SELECT j.status, d.submit_state, d.owner, d.t_claimed FROM jobs AS j JOIN details AS d ON d.id = j.id WHERE j.id = ?
"""
_CLAIM: Final = """
UPDATE details SET submit_state = 'submitting', token = ?, owner = ?, t_claimed = ? WHERE id = ?
"""
_TAKE_OVER: Final = "UPDATE details SET owner = ?, t_claimed = ? WHERE id = ?"


def _judge(
    found: tuple[str, str | None, str | None, float | None],
    expect: Sequence[str],
    alive: dict[tuple[str, float | None], bool],
) -> str:
    status, state, owner, claimed_at = found
    if status not in expect:
        return SUBMITTED
    if state != "submitting":
        return CLAIMED
    if owner is None:
        return STALE
    if (owner, claimed_at) not in alive:
        alive[owner, claimed_at] = owner_alive(owner, claimed_at)
    return TAKEN if alive[owner, claimed_at] else STALE


def _need_all(ids: Sequence[str], answers: Mapping[str, str]) -> None:
    missing = [id for id in ids if id not in answers]
    if missing:
        raise JobNotFoundError(f"the record has no job {', '.join(map(repr, missing))}")


def renew(connection: sqlite3.Connection, ids: Sequence[str], owner: str) -> set[str]:
    """Give a sign of life for claims; return those that are still this owner's."""
    sql = "UPDATE details SET t_claimed = ? WHERE id = ? AND owner = ? AND submit_state = 'submitting'"
    now = time.time()
    return {id for id in ids if connection.execute(sql, (now, id, owner)).rowcount == 1}


def release(connection: sqlite3.Connection, ids: Sequence[str], owner: str | None, in_doubt: bool) -> None:
    """Give claims back; see `JobsDB.release_submission`."""
    change = "owner = NULL" if in_doubt else _GIVE_BACK
    sql = f"UPDATE details SET {change} WHERE id = ? AND submit_state = 'submitting' AND (? IS NULL OR owner = ?)"
    connection.executemany(sql, [(id, owner, owner) for id in ids])


_GIVE_BACK: Final = "submit_state = NULL, owner = NULL, token = NULL, t_claimed = NULL"
