"""From what a user writes for a job to the job: ids in any short form, names, ids in the queue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from expyre.cli.text import clean
from expyre.errors import JobNotFoundError

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow, JobsDB

__all__ = ["AmbiguousError", "one", "resolve"]

_SHOWN = 8


class AmbiguousError(JobNotFoundError):
    """Raised when what the user wrote for one job fits several."""


def resolve(record: JobsDB, words: Sequence[str]) -> list[JobRow]:
    """Return the jobs that words name; a name stands for all jobs of that name.

    Raises
    ------
    JobNotFoundError
        Words that name no job or are the beginning of several; all of them at once.
    """
    exact = record.rows(words)
    found, mistakes = dict(exact), []
    for word in words:
        if word not in exact:
            try:
                found.update((row.id, row) for row in _search(record, word))
            except JobNotFoundError as exc:
                mistakes.append(exc)
    if mistakes:
        raise type(mistakes[0])("\n".join(map(str, mistakes)))
    return list(found.values())


def one(record: JobsDB, word: str) -> JobRow:
    """Return the one job that a word names.

    Raises
    ------
    JobNotFoundError
        The word names no job, or several.
    """
    rows = resolve(record, [word])
    if len(rows) > 1:
        raise _ambiguous(word, rows)
    return rows[0]


def _search(record: JobsDB, word: str) -> list[JobRow]:
    named = list(record.query(name=[re.escape(word)]))
    if named:
        return named
    found = list(record.query(id=_shapes(word))) or _by_queue_id(record, word)
    if len(found) > 1:
        raise _ambiguous(word, found)
    if not found:
        raise JobNotFoundError(f"no job {clean(word)!r} in {record.db_filename}{_suggestion(record, word)}")
    return found


def _shapes(word: str) -> list[str]:
    """Return the expressions for the ids that a word may be short for: beginning, end, middle left out."""
    head, gap, tail = word.replace("…", "...").partition("...")
    if gap:
        return [f"{re.escape(head)}.*{re.escape(tail)}"]
    return [f"{re.escape(word)}.*", f".*_{re.escape(word)}"]


def _by_queue_id(record: JobsDB, word: str) -> list[JobRow]:
    remote_id, at, system = word.rpartition("@")
    if not at:
        remote_id, system = word, ""
    rows = record.query(system=[re.escape(system)] if at else None)
    return [row for row in rows if row.remote_id == remote_id]


def _ambiguous(word: str, rows: Sequence[JobRow]) -> AmbiguousError:
    listed = "".join(f"\n  {clean(row.id)} ({row.status})" for row in rows[-_SHOWN:])
    more = f"\n  and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return AmbiguousError(f"{clean(word)!r} stands for {len(rows)} jobs; write more of the id:{listed}{more}")


def _suggestion(record: JobsDB, word: str) -> str:
    names: Iterable[str] = {row.name for row in record.query(limit=5000, newest_first=True) if row.name}
    near = get_close_matches(word, sorted(names), n=3)
    return f"; did you mean: {', '.join(map(clean, near))}?" if near else " (`xpr ls` lists them)"
