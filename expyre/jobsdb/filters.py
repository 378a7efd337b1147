"""Filters of job rows as SQL: regular expressions for whole strings, statuses and their groups."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from typing import Final

from expyre import states

Words = str | Sequence[str] | None
_SPECIAL: Final = frozenset(r".^$*+?{}[]\|()")


def where(
    *, status: Words = None, id: Words = None, name: Words = None, system: Words = None
) -> tuple[str, list[str]]:
    """Return a condition over the columns of ``jobs AS j`` and its parameters.

    Raises
    ------
    ValueError
        A pattern is not a regular expression, or a status word is unknown.
    """
    conditions, values = ["1"], []
    statuses = states.expand_statuses(status if status is None or isinstance(status, str) else list(status))
    if statuses is not None:
        conditions.append(f"j.status IN ({', '.join('?' * len(statuses))})")
        values += statuses
    for column, patterns in (("id", id), ("name", name), ("system", system)):
        if patterns is not None:
            each = [_match(f"j.{column}", p) for p in ([patterns] if isinstance(patterns, str) else patterns)]
            conditions.append("(" + (" OR ".join(sql for sql, _ in each) or "0") + ")")
            values += [value for _, found in each for value in found]
    return " AND ".join(conditions), values


def _match(column: str, pattern: str) -> tuple[str, list[str]]:
    """Return SQL for a full match; what the pattern fixes literally is left to an index."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    prefix, rest = literal_prefix(pattern)
    if not rest:
        return f"{column} = ?", [prefix]
    if not prefix or (end := _successor(prefix)) is None:
        return f"{column} REGEXP ?", [pattern]
    return f"({column} >= ? AND {column} < ? AND {column} REGEXP ?)", [prefix, end, pattern]


def literal_prefix(pattern: str) -> tuple[str, str]:
    """Split a regular expression into the text every match begins with and the rest of the pattern.

    An empty rest means that the text is the only match.
    """
    if "|" in pattern:
        return "", pattern or "|"
    tokens = list(_literals(pattern))
    used = sum(len(source) for source, _ in tokens)
    if tokens and pattern[used : used + 1] in {"*", "?", "{"}:
        used -= len(tokens.pop()[0])
    return "".join(char for _, char in tokens), pattern[used:]


def _literals(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield (source, character) of the plain characters a pattern begins with."""
    at = 0
    while at < len(pattern):
        char = pattern[at]
        escaped = char == "\\" and pattern[at + 1 : at + 2] not in _WORD_ESCAPES
        if char in _SPECIAL and not escaped:
            return
        source = pattern[at : at + 2] if escaped else char
        yield source, source[-1]
        at += len(source)


_WORD_ESCAPES: Final = frozenset(string.ascii_letters + string.digits) | {""}


def _successor(prefix: str) -> str | None:
    """Return the least string greater than all that begin with ``prefix`` (None if there is no simple one)."""
    code = ord(prefix[-1]) + 1
    return None if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else prefix[:-1] + chr(code)
