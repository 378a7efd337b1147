"""Filters of job rows as SQL: regular expressions for whole strings, statuses and their groups."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from expyre import states

Words = str | Sequence[str] | None
_SPECIAL: Final = frozenset(r".^$*+?{}[]\|()")


@dataclass(frozen=True)
class Filter:
    """Conditions over the columns of ``jobs AS j``.

    Attributes
    ----------
    statuses
        Statuses let through; None for all.
    condition
        The other conditions, as SQL.
    parameters
        Values of the named parameters in it.
    narrow
        Whether an index over ids or names finds the few rows let through.
    """

    statuses: list[str] | None
    condition: str
    parameters: dict[str, str]
    narrow: bool

    def branches(self) -> list[str]:
        """Return conditions that together let through the rows, each at most once."""
        if self.statuses is None:
            return [self.condition]
        names = [f":status{i}" for i in range(len(self.statuses))]
        if self.narrow or not names:
            return [f"{self.condition} AND +j.status IN ({', '.join(names)})"]
        return [f"{self.condition} AND j.status = {name}" for name in names]

    def values(self, last: int, size: int) -> dict[str, str | int]:
        """Return the values of all parameters of a page after row ``last``."""
        statuses = {f"status{i}": status for i, status in enumerate(self.statuses or ())}
        return {**self.parameters, **statuses, "last": last, "size": size}


def where(*, status: Words = None, id: Words = None, name: Words = None, system: Words = None) -> Filter:
    """Return the filter for statuses (or groups of them) and regular expressions for whole strings.

    Raises
    ------
    ValueError
        A pattern is not a regular expression, or a status word is unknown.
    """
    statuses = states.expand_statuses(status if status is None or isinstance(status, str) else list(status))
    conditions, parameters, narrow = ["1"], {}, False
    for column, patterns in (("id", id), ("name", name), ("system", system)):
        if patterns is not None:
            each = [_match(f"j.{column}", f"{column}{i}", p) for i, p in enumerate(_as_list(patterns))]
            conditions.append("(" + (" OR ".join(match.sql for match in each) or "0") + ")")
            parameters.update({key: value for match in each for key, value in match.parameters.items()})
            narrow = narrow or (column != "system" and all(match.indexed for match in each))
    return Filter(statuses, " AND ".join(conditions), parameters, narrow)


def _as_list(words: str | Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


@dataclass(frozen=True)
class _Match:
    sql: str
    parameters: dict[str, str]
    indexed: bool


def _match(column: str, parameter: str, pattern: str) -> _Match:
    """Return SQL for a full match; what the pattern fixes literally is left to an index."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    prefix, rest = literal_prefix(pattern)
    if not rest:
        return _Match(f"{column} = :{parameter}", {parameter: prefix}, True)
    if not prefix or (end := _successor(prefix)) is None:
        return _Match(f"{column} REGEXP :{parameter}", {parameter: pattern}, False)
    sql = f"({column} >= :{parameter}a AND {column} < :{parameter}b AND {column} REGEXP :{parameter})"
    return _Match(sql, {f"{parameter}a": prefix, f"{parameter}b": end, parameter: pattern}, True)


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
