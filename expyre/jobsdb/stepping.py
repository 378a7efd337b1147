"""Steps of jobs from status to status: compare and set, in bulk, along the table of allowed steps."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

from expyre import states
from expyre.jobsdb.rows import DETAILS, UNSET, Change, as_text

_FIELDS: Final = ("status", "system", "remote_id", "remote_status")
_CHANGEABLE: Final = frozenset(DETAILS)
_Done = tuple[Change, tuple[Any, ...], tuple[Any, ...]]


def check(changes: Iterable[Change]) -> None:
    """Raise ValueError, with all mistakes, for statuses and fields that do not exist."""
    mistakes = []
    for change in changes:
        if change.status is not None and change.status not in states.STATUSES:
            mistakes.append(f"{change.id}: unknown status {change.status!r}")
        if unknown := change.details.keys() - _CHANGEABLE:
            mistakes.append(f"{change.id}: unknown fields {', '.join(sorted(unknown))}")
    if mistakes:
        known = f"statuses: {', '.join(states.STATUSES)}; fields: {', '.join(DETAILS)}"
        raise ValueError("; ".join(mistakes) + f" ({known})")


def step(connection: sqlite3.Connection, changes: Sequence[Change], *, force: bool = False) -> set[str]:
    """Make changes inside a write transaction; see `JobsDB.step`."""
    changed: set[str] = set()
    for turn in _turns(changes):
        changed |= _step_once(connection, turn, force)
    return changed


def _turns(changes: Sequence[Change]) -> list[list[Change]]:
    """Split changes so that no job is in a turn twice; one turn, as a rule."""
    turns: list[list[Change]] = []
    seen: dict[str, int] = {}
    for change in changes:
        number = seen[change.id] = seen.get(change.id, -1) + 1
        if number == len(turns):
            turns.append([])
        turns[number].append(change)
    return turns


def _step_once(connection: sqlite3.Connection, changes: Sequence[Change], force: bool) -> set[str]:
    done: list[_Done] = []
    for change in changes:
        old = connection.execute(_LOOK, (change.id,)).fetchone()
        if old is None or not _allowed(change, old[0], force):
            continue
        new = _after(change, old)
        if new != old or change.details or change.note is not None:
            done.append((change, old, new))
    _write(connection, done)
    return {change.id for change, _, _ in done}


_LOOK: Final = "SELECT status, system, remote_id, remote_status FROM jobs WHERE id = ?"


def _allowed(change: Change, status: str, force: bool) -> bool:
    if change.expect is not None and status not in change.expect:
        return False
    if change.status is None or change.status == status or force:
        return True
    return change.status in states.STEPS.get(status, ())


def _after(change: Change, old: tuple[Any, ...]) -> tuple[Any, ...]:
    wanted = (UNSET if change.status is None else change.status, change.system, change.remote_id, change.remote_status)
    return tuple(was if new is UNSET else new for new, was in zip(wanted, old, strict=True))


def _write(connection: sqlite3.Connection, done: list[_Done]) -> None:
    now = int(time.time())
    connection.executemany(_MOVE, [(*new, now, change.id) for change, old, new in done if new[0] != old[0]])
    stayed = [(*new[1:], change.id) for change, old, new in done if new[0] == old[0] and new != old]
    connection.executemany(_STAY, stayed)
    _write_details(connection, [change for change, _, _ in done if change.details])
    _write_notes(connection, [each for each in done if each[0].note is not None])


def _write_notes(connection: sqlite3.Connection, done: list[_Done]) -> None:
    """Put notes to the line of history that the change has made, or on lines of their own."""
    alone = [change for change, old, new in done if new[0] == old[0] and new[3] == old[3]]
    with_line = [change for change, old, new in done if new[0] != old[0] or new[3] != old[3]]
    connection.executemany(_NOTE_ALONE, [(time.time(), change.note, change.id) for change in alone])
    connection.executemany(_NOTE, [(change.note, change.id) for change in with_line])


_MOVE: Final = "UPDATE jobs SET status = ?, system = ?, remote_id = ?, remote_status = ?, status_time = ? WHERE id = ?"
_STAY: Final = "UPDATE jobs SET system = ?, remote_id = ?, remote_status = ? WHERE id = ?"
_NOTE: Final = """
UPDATE history SET note = ?
WHERE seq = (SELECT max(seq) FROM history WHERE num = (SELECT num FROM details WHERE id = ?))
"""
_NOTE_ALONE: Final = """
INSERT INTO history (time, note, num, status, remote_status)
SELECT ?, ?, d.num, j.status, j.remote_status FROM jobs AS j JOIN details AS d ON d.id = j.id WHERE j.id = ?
"""


def _write_details(connection: sqlite3.Connection, changes: list[Change]) -> None:
    """Write details of many jobs; runs of jobs that change the same fields share a statement."""
    for names, group in groupby(changes, key=lambda change: tuple(change.details)):
        assignments = ", ".join(f'"{name}" = ?' for name in names)
        values = [(*map(as_text, change.details.values()), change.id) for change in group]
        connection.executemany(f"UPDATE details SET {assignments} WHERE id = ?", values)
