"""The options that choose jobs, shared by all commands over many jobs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from expyre.cli.complete import complete_id, complete_id_filter, complete_status, complete_system
from expyre.cli.times import AGE
from expyre.states import GROUPS, STATUSES, expand_statuses

if TYPE_CHECKING:
    from expyre.cli.session import Session
    from expyre.jobsdb import JobRow

__all__ = ["EVERYTHING", "Selection", "selects", "split_list"]

EVERYTHING = "*"
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Selection:
    """Which jobs a command is about.

    Attributes
    ----------
    words
        Jobs named one by one, in any short form; empty: not restricted.
    id, name, system
        Regular expressions for the whole text; None: not restricted.
    status
        Statuses and names of groups; None: not restricted.
    given
        Whether the user restricted anything (``*`` counts).
    since, before
        Ages in seconds: made at most, or at least, so long ago.
    limit
        At most so many jobs.
    newest
        Newest first.
    """

    words: tuple[str, ...] = ()
    id: list[str] | None = None
    name: list[str] | None = None
    system: list[str] | None = None
    status: list[str] | None = None
    given: bool = False
    since: float | None = None
    before: float | None = None
    limit: int | None = None
    newest: bool = False

    @property
    def timed(self) -> bool:
        """Whether ages restrict."""
        return self.since is not None or self.before is not None

    def rows(self, session: Session) -> Iterator[JobRow]:
        """Return the jobs chosen, in the order of the record (newest first if asked for)."""
        if self.words:
            found = self._named(session)
        else:
            found = session.record.query(
                status=expand_statuses(self.status),
                id=self.id,
                name=self.name,
                system=self.system,
                limit=None if self.timed else self.limit,
                newest_first=self.newest,
            )
        return islice(filter(self._of_age, found), self.limit)

    def plain_rows(self, session: Session, *, brief: bool) -> list[JobRow]:
        """Return the jobs chosen, perhaps with the columns of the ``jobs`` table only (``brief``: not all of them).

        Takes a third of the time of `rows` for all jobs of a large record.
        """
        if self.words or self.id or self.name or self.system or self.timed:
            return list(self.rows(session))
        statuses = expand_statuses(self.status)
        return session.record.listing(statuses=statuses, limit=self.limit, newest_first=self.newest, brief=brief)

    def _named(self, session: Session) -> Iterator[JobRow]:
        """Return the jobs named one by one that the other filters let through."""
        from expyre.cli.resolve import resolve

        rows = resolve(session.record, self.words)
        statuses = expand_statuses(self.status)
        for row in reversed(rows) if self.newest else rows:
            texts = ((self.id, row.id), (self.name, row.name), (self.system, row.system))
            if (statuses is None or row.status in statuses) and all(_fits(p, text) for p, text in texts):
                yield row

    def _of_age(self, row: JobRow) -> bool:
        if not self.timed:
            return True
        old = time.time() - (row.creation_time or 0)
        return (self.since is None or old <= self.since) and (self.before is None or old >= self.before)


def _fits(patterns: list[str] | None, text: str | None) -> bool:
    return patterns is None or (text is not None and any(re.fullmatch(pattern, text) for pattern in patterns))


def split_list(text: str) -> list[str]:
    r"""Split at commas outside brackets and not after a backslash: ``a,b{2,3},c\,d`` are three items."""
    items, depth, start, i = [], 0, 0, 0
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 1
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth = max(depth - 1, 0)
        elif char == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
        i += 1
    return [item for item in (part.strip() for part in (*items, text[start:])) if item]


def _patterns(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[str] | None:
    patterns = [item for value in values for item in split_list(value)]
    for pattern in patterns:
        if pattern != EVERYTHING:
            _check_pattern(pattern, param)
    return patterns or None


def _check_pattern(pattern: str, param: click.Parameter) -> None:
    try:
        re.compile(pattern)
    except re.error as exc:
        message = f"{pattern!r} is not a regular expression: {exc} (`.*` stands for anything)"
        raise click.BadParameter(message, param=param) from None


def _statuses(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[str] | None:
    words = [word.strip() for value in values for word in value.split(",") if word.strip()]
    known = (*STATUSES, *GROUPS)
    for word in words:
        if word not in known and word != EVERYTHING:
            raise click.BadParameter(_unknown_status(word, known), param=param)
    return words or None


def _unknown_status(word: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown status {word!r}; {hint}Statuses and groups: {', '.join(known)}; * for all"


def _unrestricted(words: list[str] | None) -> list[str] | None:
    return None if words is None or EVERYTHING in words else words


def _options(default_status: str | None) -> list[Callable[[Any], Any]]:
    shown = f" (default: {default_status})" if default_status else ""
    return [
        click.argument("words", metavar="[JOB]...", nargs=-1, shell_complete=complete_id),
        click.option("-i", "--id", "id_", multiple=True, metavar="RE,…", callback=_patterns, help="Ids.",
                     shell_complete=complete_id_filter),
        click.option("-n", "--name", multiple=True, metavar="RE,…", callback=_patterns, help="Names of jobs."),
        click.option("-s", "--status", multiple=True, metavar="STATUS,…", callback=_statuses,
                     help=f"Statuses or groups of them; * for all{shown}.", shell_complete=complete_status),
        click.option("-S", "--system", multiple=True, metavar="RE,…", callback=_patterns, help="Systems.",
                     shell_complete=complete_system),
        click.option("--since", type=AGE, metavar="AGE", help="Only jobs made in the last 2h, 3d, …"),
        click.option("--before", type=AGE, metavar="AGE", help="Only jobs made longer ago than 2h, 3d, …"),
    ]  # fmt: skip


def _ordering() -> list[Callable[[Any], Any]]:
    return [
        click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many jobs."),
        click.option("--newest", is_flag=True, help="Newest first."),
    ]


def selects(*, default_status: str | None = None, ordered: bool = False) -> Callable[[_F], _F]:
    """Give a command the options that choose jobs; it gets them as one argument ``selection``.

    Parameters
    ----------
    default_status
        Status or group taken when the user names neither a status nor a job.
    ordered
        Whether ``--limit`` and ``--newest`` make sense for the command.
    """

    def decorate(function: _F) -> _F:
        @wraps(function)
        def with_selection(*args: Any, **options: Any) -> Any:
            return function(*args, selection=_selection(options, default_status), **options)

        wrapped: Any = with_selection
        for option in reversed(_options(default_status) + (_ordering() if ordered else [])):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


def _selection(options: dict[str, Any], default_status: str | None) -> Selection:
    words, id_, name, status, system, since, before = (
        options.pop(key) for key in ("words", "id_", "name", "status", "system", "since", "before")
    )
    given = bool(words or id_ or name or status or system or since is not None or before is not None)
    if status is None and default_status is not None and not words:
        status = default_status.split(",")
    return Selection(
        words=words,
        id=_unrestricted(id_),
        name=_unrestricted(name),
        system=_unrestricted(system),
        status=_unrestricted(status),
        given=given,
        since=since,
        before=before,
        limit=options.pop("limit", None),
        newest=options.pop("newest", False),
    )
