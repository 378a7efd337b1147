"""States and ends of jobs of Grid Engine in the words of `expyre.states`."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Final

from expyre.states import (
    DONE,
    END_CANCELLED,
    END_COMPLETED,
    END_DIED,
    END_NODE_FAILED,
    END_OUT_OF_MEMORY,
    END_TIMED_OUT,
    HELD,
    OTHER,
    QUEUE_FAILED,
    QUEUED,
    RUNNING,
    End,
)
from expyre.units import time_to_sec

# What `failed` in the accounting means; what is not here says that the job could not be started.
_NOT_STARTED: Final = "it could not be started"
_FAILED: Final[dict[int, tuple[str, str]]] = {
    17: (END_CANCELLED, "killed by a signal, as by qdel"),
    18: (END_NODE_FAILED, "its shepherd died"),
    19: (END_NODE_FAILED, "its shepherd left no exit status, as after a crash of the node"),
    24: (END_NODE_FAILED, "it was to move to another node"),
    25: (END_NODE_FAILED, "it was to run again"),
    26: (END_DIED, "the file for its output could not be opened"),
    27: (END_DIED, "its shell was not found"),
    28: (END_DIED, "its directory could not be entered"),
    30: (END_DIED, "it exited with 100, which tells the queue of an error"),
}
_AFTER_THE_JOB: Final = frozenset({12, 13, 14, 15, 16})
_OVER_LIMIT, _KILLED = 37, 100
_UNITS: Final = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}


def state_of(letters: str) -> str:
    """Return the word for the letters that `qstat` shows as a state.

    Suspended jobs are running; so are those that are being deleted while they still run.
    """
    if "E" in letters:
        return QUEUE_FAILED
    if "z" in letters:
        return DONE
    if re.search(r"[rtsSTNP]", letters):
        return RUNNING
    if "h" in letters:
        return HELD
    return QUEUED if re.search(r"[qw]", letters) else OTHER


def end_of(record: Mapping[str, str]) -> End | None:
    """Return how a job ended, from its record in the accounting; None if that does not tell.

    Parameters
    ----------
    record
        Fields as `qacct` names them.
    """
    failed, status = _number(record.get("failed", "")), _number(record.get("exit_status", ""))
    if failed is None:
        return None
    if failed == 0 or failed in _AFTER_THE_JOB:
        return _of_status(record, status)
    if failed in (_OVER_LIMIT, _KILLED):
        return _killed(record, failed, status)
    reason, words = _FAILED.get(failed, (END_DIED, _NOT_STARTED))
    return End(reason, _detail(record, words), status)


def _of_status(record: Mapping[str, str], status: int | None) -> End | None:
    if status is None:
        return None
    if status == 0:
        return End(END_COMPLETED, "", 0)
    reason = _limit_reached(record) if status > 128 else None
    return End(reason or END_DIED, _detail(record, "its script failed"), status)


def _killed(record: Mapping[str, str], failed: int, status: int | None) -> End:
    reason = _limit_reached(record)
    number = (status or 0) - 128
    if reason is None and failed == _OVER_LIMIT:
        reason = END_TIMED_OUT
    if reason is None and number in (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        reason = END_CANCELLED
    if reason is None and (status or 0) == 0:
        reason = END_NODE_FAILED
    words = "killed, as by qdel" if reason == END_CANCELLED else "killed"
    return End(reason or END_DIED, _detail(record, words), status)


def _limit_reached(record: Mapping[str, str]) -> str | None:
    """Return the limit that the job has reached, if any, judged by what it asked for and what it used."""
    asked = dict(re.findall(r"([a-z_]+)=([^,\s]+)", record.get("category", "")))
    limit, used = _seconds(asked.get("h_rt", "")), _seconds(record.get("ru_wallclock", ""))
    if limit and used is not None and used >= limit:
        return END_TIMED_OUT
    size, most = _bytes(asked.get("h_vmem", "")), _bytes(record.get("maxvmem", ""))
    slots = _number(record.get("slots", "")) or 1
    if size and most is not None and most >= 0.9 * size * slots:
        return END_OUT_OF_MEMORY
    return None


def _detail(record: Mapping[str, str], words: str) -> str:
    failed, status = record.get("failed", "?"), record.get("exit_status", "?")
    return f"{words} (qacct: failed {' '.join(failed.split())}, exit_status {' '.join(status.split())})"


def _number(text: str) -> int | None:
    found = re.match(r"\s*(\d+)", text)
    return int(found[1]) if found else None


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d*)?)s?", text.strip())
    if found is not None:
        return float(found[1])
    try:
        return time_to_sec(text)
    except ValueError:
        return None


def _bytes(text: str) -> float | None:
    """Return an amount of memory; capital letters count in steps of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([KMGTkmgt]?)B?", text.strip())
    if found is None:
        return None
    factor = _UNITS[found[2].lower()]
    return float(found[1]) * (factor if found[2].islower() or factor == 1 else 1024 ** (len(str(factor)) // 3))
