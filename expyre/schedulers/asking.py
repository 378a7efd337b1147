"""Questions to a queue whose commands may fail in part: each command's output, errors and exit code, kept apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from expyre.errors import SchedulerError

__all__ = ["Reply", "asking", "replies"]

_BEGIN: Final = "=== begin"
_ERRORS: Final = "=== errors"
_END: Final = "=== end"

SECONDS: Final = 60
"""After so many seconds a command of the queue is given up."""
_GIVEN_UP: Final = (124, 137)

# Output goes straight through; errors are collected, so that they do not end up in the middle of a line of output.
# Only programs can be limited in time, not shell functions: these use `$limit` themselves.
_FUNCTIONS: Final = f"""
limit=
! command -v timeout >/dev/null 2>&1 || limit="timeout -k 5 %d"
ask() {{
  case $(command -v "$1") in /*) set -- $limit "$@";; esac
  {{ errors=$("$@" 2>&1 >&3 3>&-); }} 3>&1
  printf '\\n{_ERRORS} %%s\\n%%s\\n{_END}\\n' "$?" "$errors"
}}
printf '\\n{_BEGIN}\\n'
"""
_REPLY = re.compile(rf"(.*?)\n{_ERRORS} (\d+)\n(.*?)\n{_END}(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """What a command has written, and its exit code."""

    text: str
    errors: str
    code: int

    @property
    def failure(self) -> str:
        """How the command has ended, for one that has failed without a word."""
        return f"no answer in {SECONDS} s" if self.code in _GIVEN_UP else f"exit code {self.code}"


def asking(*lines: str) -> str:
    """Return a script in which ``ask COMMAND…`` runs a command so that `replies` can read what it says."""
    return "\n".join([_FUNCTIONS % SECONDS, *lines])


def replies(text: str, at_least: int = 1) -> list[Reply]:
    """Return what the commands of a script have said, without what a shell may have said before them.

    Parameters
    ----------
    text
        Output of the script.
    at_least
        How many there must be.

    Raises
    ------
    SchedulerError
        The script has not come to its end.
    """
    told = text.rpartition(f"\n{_BEGIN}\n")[2]
    found = [Reply(output, errors, int(code)) for output, code, errors in _REPLY.findall(told)]
    if len(found) < at_least:
        raise SchedulerError(f"the queue was asked but has not answered to the end: {text.strip()[-500:]!r}")
    return found
