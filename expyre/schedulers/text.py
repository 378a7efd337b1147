"""Texts of job scripts: header lines, commands before submission, names of jobs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from expyre.errors import RequestError

__all__ = ["format_header", "header_extra_from_environment", "pre_submit_script", "short_name"]

HEADER_VARIABLE: Final = "EXPYRE_HEADER_EXTRA"


def format_header(lines: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Fill in the templates of header lines.

    Raises
    ------
    RequestError
        Lines with unknown keys or unbalanced braces; names all of them and the keys there are.
    """
    result, wrong = [], []
    for line in lines:
        try:
            result.append(line.rstrip().format(**values))
        except KeyError as exc:
            wrong.append(f"{line!r} uses the unknown key {{{exc.args[0]}}}")
        except (ValueError, IndexError, AttributeError, TypeError) as exc:
            wrong.append(f"{line!r}: {exc} (braces that are meant as such are written twice)")
    if wrong:
        raise RequestError(f"header lines: {'; '.join(wrong)}. Known keys: {', '.join(sorted(values))}")
    return result


def header_extra_from_environment() -> list[str]:
    """Return the header lines in ``EXPYRE_HEADER_EXTRA``, a JSON list.

    Raises
    ------
    RequestError
        It is something else.
    """
    text = os.environ.get(HEADER_VARIABLE)
    if not text:
        return []
    try:
        lines = json.loads(text)
    except ValueError as exc:
        raise RequestError(f"{HEADER_VARIABLE} is no JSON ({exc}): {text!r}") from exc
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise RequestError(f"{HEADER_VARIABLE} must be a JSON list of strings, not {text!r}")
    return lines


def pre_submit_script(words: Sequence[str]) -> str:
    """Return the commands to run before submission as one shell command; empty if there are none.

    An element with blanks is a command of its own; elements without are words of one command, among them operators.
    """
    parts: list[str] = []
    for word in words:
        whole = " " in word.strip() or (parts and " " in parts[-1].strip())
        if whole and parts and not {word, parts[-1]} & _OPERATORS:
            parts.append("&&")
        parts.append(word)
    return " ".join(parts)


_OPERATORS = frozenset({"&&", "||", ";", "|", "&"})


def short_name(id: str, length: int) -> str:
    """Return a job's id as a name for queues that allow few characters and little length; the end is what tells."""
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", id)
    return name if len(name) <= length else name[-length:]
