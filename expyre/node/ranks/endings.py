"""How ranks ended that should not have, from what their launcher says.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import re
import signal
from typing import NamedTuple, Optional, Sequence  # noqa: UP035  (Python 3.9)

from ..family import how_it_ended

__all__ = ["Ending", "ending_of"]

# Intel MPI: "KILLED BY SIGNAL: 9 (Killed)"; Open MPI: "exited on signal 9 (Killed)";
# MPICH: "EXIT STRING: Killed (signal 9)".
_SIGNAL = re.compile(r"(?:KILLED BY SIGNAL: |exited on signal |EXIT STRING: .*\(signal )(\d+)")
_OUT_OF_MEMORY = re.compile(r"^(srun|slurmstepd): error: .*(Out Of Memory|oom[-_]kill)", re.IGNORECASE | re.MULTILINE)
_OF_SHELLS = 128  # exit status of what a signal has ended, less its number


class Ending(NamedTuple):
    """How ranks ended.

    Attributes
    ----------
    status
        Exit status, negative for a signal.
    text
        What happened, in words.
    """

    status: int
    text: str


def ending_of(
    ranks: Sequence[int],
    size: int,
    launcher: str,
    status: Optional[int],  # noqa: UP045  (Python 3.9)
    output: str,
    words: str,
) -> Ending:
    """Return how ranks have ended.

    Parameters
    ----------
    ranks
        Those that were found to be gone first.
    size
        How many there were.
    launcher
        Name of the command that has started them.
    status
        How that has ended, negative for a signal; None if it went on.
    output, words
        What it said last on its standard output and error.
    """
    found = 1 if status is None else _status_of_rank(status, f"{output}\n{words}")
    who = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} of {size}"
    then = "had to be ended" if status is None else how_it_ended(status)
    how = how_it_ended(found) if found < 0 else f"ended without an answer; {launcher} {then}"
    said = f"; it said:\n{words}" if words and found >= 0 else ""
    return Ending(found, f"{who} {how}{said}")


def _status_of_rank(status: int, words: str) -> int:
    if _OUT_OF_MEMORY.search(words):
        return -int(signal.SIGKILL)
    told = _SIGNAL.search(words)
    if told is not None:
        return -int(told[1])
    return status if status <= _OF_SHELLS else _OF_SHELLS - status
