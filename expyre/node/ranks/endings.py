"""How ranks ended that should not have, from what their launcher says.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import re
import signal
from typing import NamedTuple, Optional, Sequence  # noqa: UP035  (Python 3.9)

from ..family import how_it_ended

__all__ = ["Ending", "ending_of"]

# Intel MPI: "KILLED BY SIGNAL: 9 (Killed)"; Open MPI: "exited on signal 9 (Killed)"; MPICH, below "EXIT CODE: 9":
# "EXIT STRING: Killed (signal 9)".
_SIGNAL = re.compile(r"(?:KILLED BY SIGNAL: |exited on signal |EXIT STRING: .*\(signal )(\d+)")
_EXIT_CODE = re.compile(r"^= +EXIT CODE: (\d+)", re.MULTILINE)
# The first task that it tells of has ended first; its own exit status is the largest one.
_OF_SRUN = re.compile(r"^srun: error: \S+: tasks? [\d,-]+: (?:Exited with exit code (\d+)|(.*))$", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(r"^(srun|slurmstepd\S*): error: .*(Out Of Memory|oom[-_]kill)", re.I | re.M)
_NUMBERS = {signal.strsignal(number): int(number) for number in signal.valid_signals()}
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
        Those that were found to be gone first; all of them if none has come.
    size
        How many there were.
    launcher
        Name of the command that has started them.
    status
        How that has ended, negative for a signal; None if it went on.
    output, words
        What it said last on its standard output and error.
    """
    who = f"rank {ranks[0]} of {size}" if len(ranks) == 1 else f"one of {size} ranks"
    found = _status_in(f"{output}\n{words}")
    if found is None and status is not None and (status < 0 or status > _OF_SHELLS):
        found = status if status < 0 else _OF_SHELLS - status
    if found is not None and found < 0:
        return Ending(found, f"{who} {how_it_ended(found)}")
    if found is not None:
        how = f"{who} {how_it_ended(found)}, without an answer"
    else:
        then = "had to be ended" if status is None else how_it_ended(status)
        how = f"{who} ended without an answer; {launcher} {then}"
    return Ending(found or status or 1, how + (f"; {launcher} said:\n{words}" if words else ""))


def _status_in(text: str) -> Optional[int]:  # noqa: UP045
    """Return how a rank has ended, as far as it is said."""
    if _OUT_OF_MEMORY.search(text):
        return -int(signal.SIGKILL)
    told = _SIGNAL.search(text)
    if told is not None:
        return -int(told[1])
    told = _OF_SRUN.search(text)
    if told is not None and told[1] is None:
        number = _NUMBERS.get(told[2].partition(" (")[0])
        return None if number is None else -number
    told = told or _EXIT_CODE.search(text)
    return None if told is None else int(told[1])
