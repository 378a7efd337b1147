"""How jobs of PBS ended: states, exit statuses and comments in the words of `expyre.states`."""

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
    END_PREEMPTED,
    END_TIMED_OUT,
    HELD,
    OTHER,
    QUEUED,
    RUNNING,
    End,
)

STATES: Final[dict[str, str]] = {
    "Q": QUEUED,
    "W": QUEUED,  # waits for its time or for files
    "T": QUEUED,  # on its way from one server to another
    "H": HELD,
    "R": RUNNING,
    "B": RUNNING,  # array of which a member has begun
    "E": RUNNING,  # exiting
    "S": RUNNING,  # suspended
    "U": RUNNING,  # suspended because somebody uses the workstation
    "M": OTHER,  # moved to another server
    "F": DONE,
    "X": DONE,  # member of an array that still has others
    "C": DONE,
}
ENDED: Final = frozenset("FXC")

# Exit statuses below zero: the queue's own, by dialect; 1 to 7 are common.
_COMMON: Final[dict[int, tuple[str, str]]] = {
    -1: (END_DIED, "the job could not be started, before its files were there"),
    -2: (END_DIED, "the job could not be started, after its files were there"),
    -3: (END_NODE_FAILED, "the job could not be started and should be tried again"),
    -4: (END_NODE_FAILED, "the job was aborted when its node's daemon was started again"),
    -5: (END_NODE_FAILED, "the job was aborted when its node's daemon was started again"),
    -6: (END_NODE_FAILED, "the job was aborted when its node's daemon was started again"),
    -7: (END_DIED, "the job could not be restarted"),
}
_OPENPBS: Final[dict[int, tuple[str, str]]] = {
    **_COMMON,
    -10: (END_DIED, "the user or group is not known on the node"),
    -11: (END_NODE_FAILED, "the job was stopped to be run again"),
    -12: (END_PREEMPTED, "the job was checkpointed and killed"),
    -13: (END_DIED, "the password was not accepted"),
    -14: (END_NODE_FAILED, "another node of the job failed"),
    -15: (END_NODE_FAILED, "the job was put back to be restarted from a checkpoint"),
    -16: (END_DIED, "a hook of the site stopped the job to be run again"),
    -17: (END_DIED, "a hook of the site deleted the job"),
    -18: (END_DIED, "a hook of the site stopped the job to be run again"),
    -19: (END_DIED, "a hook of the site deleted the job"),
    -20: (END_NODE_FAILED, "the connection to the first node of the job was lost"),
    -21: (END_DIED, "a security check failed"),
    -24: (END_DIED, "the job used more cores than it had asked for"),
    -25: (END_DIED, "the job used more cores than it had asked for"),
    -26: (END_OUT_OF_MEMORY, "the limit of virtual memory was exceeded"),
    -27: (END_OUT_OF_MEMORY, "the limit of memory was exceeded"),
    -28: (END_TIMED_OUT, "the limit of CPU time was exceeded"),
    -29: (END_TIMED_OUT, "the time limit was exceeded"),
}
_TORQUE: Final[dict[int, tuple[str, str]]] = {
    **_COMMON,
    -8: (END_DIED, "the job's shell could not be executed"),
    -9: (END_DIED, "the files for output and errors could not be made"),
    -10: (END_OUT_OF_MEMORY, "the limit of memory was exceeded"),
    -11: (END_TIMED_OUT, "the time limit was exceeded"),
    -12: (END_TIMED_OUT, "the limit of CPU time was exceeded"),
    -13: (END_NODE_FAILED, "the node could not make the job's control groups"),
    -14: (END_NODE_FAILED, "the site's prologue failed"),
}
# What comments and the server's notes say, in this order.
_WORDS: Final = (
    (END_NODE_FAILED, re.compile(r"too many failed attempts")),
    (END_TIMED_OUT, re.compile(r"exceeded (?:resource|limit).*(?:walltime|cput)|(?:walltime|cput)\b.* exceeded limit")),
    (END_OUT_OF_MEMORY, re.compile(r"exceeded (?:resource|limit).*mem|mem\b.* exceeded limit|out of memory", re.I)),
    (END_PREEMPTED, re.compile(r"preempt", re.I)),
    (END_NODE_FAILED, re.compile(r"node (?:failure|down|fail)|mom .*(?:down|lost)|lost connection", re.I)),
    (END_CANCELLED, re.compile(r"terminated by|deleted|cancel", re.I)),
)
_TERMINATED: Final = "91"
_RESOURCES: Final = ("resources_used", "Resource_List")
_MEMORY_UNITS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def end_of(job: Mapping[str, str]) -> End | None:
    """Return how a job ended; None if it has not, or nothing is known of it.

    Parameters
    ----------
    job
        Its attributes from a full display of `qstat`.
    """
    if job.get("job_state", "")[:1] not in ENDED:
        return None
    text = job.get("Exit_status", job.get("exit_status", "")).strip()
    if not re.fullmatch(r"-?\d+", text):
        return _without_status(job)
    code = int(text)
    if code == 0:
        return End(END_COMPLETED, "", 0)
    if code < 0:
        table = _TORQUE if "exit_status" in job else _OPENPBS
        reason, words = table.get(code, (END_DIED, "the queue could not run the job"))
        return End(reason, _detail(job, words, code), code)
    if code > 128:
        return _killed(job, code)
    return End(_reason_in_words(job) or END_DIED, _detail(job, "its script failed", code), code)


def _without_status(job: Mapping[str, str]) -> End | None:
    """Return the end of a job that never ran, or whose end the queue does not tell."""
    words = _reason_in_words(job)
    if words is None and job.get("substate") == _TERMINATED:
        words = END_CANCELLED
    return None if words is None else End(words, _detail(job, "it has no exit status"))


def _killed(job: Mapping[str, str], code: int) -> End:
    """Return the end of a job whose script was killed by a signal, or failed because a process of it was."""
    by_queue = code >= 256
    number = code - 256 if by_queue else code - 128
    told = _detail(job, f"killed by {_signal_name(number)}", code)
    reason = _reason_in_words(job)
    if reason in (None, END_CANCELLED):
        reason = _limit_reached(job) or reason
    if reason is None and by_queue and number == signal.SIGTERM:
        reason = END_CANCELLED  # what qdel sends first
    return End(reason or END_DIED, told, code)


def _reason_in_words(job: Mapping[str, str]) -> str | None:
    text = " ".join(job.get(name, "") for name in ("comment", "sched_hint"))
    text = re.sub(r"\bon \(.*?\)", "", text)  # names of nodes say nothing
    return next((reason for reason, words in _WORDS if words.search(text)), None)


def _limit_reached(job: Mapping[str, str]) -> str | None:
    """Return the limit that the used resources have reached, if any."""
    used, limit = (_seconds(job.get(f"{part}.walltime", "")) for part in _RESOURCES)
    if used is not None and limit and used >= limit:
        return END_TIMED_OUT
    for name in ("mem", "vmem"):
        size, largest = (_kilobytes(job.get(f"{part}.{name}", "")) for part in _RESOURCES)
        if size is not None and largest and size >= 0.98 * largest:
            return END_OUT_OF_MEMORY
    return None


def _detail(job: Mapping[str, str], words: str, code: int | None = None) -> str:
    status = "" if code is None else f"exit status {code}: "
    comment = job.get("comment", "").strip()
    return f"{status}{words}" + (f" ({comment})" if comment else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _seconds(text: str) -> int | None:
    parts = text.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    total = 0
    for part in parts:
        total = 60 * total + int(part)
    return total


def _kilobytes(text: str) -> float | None:
    found = re.fullmatch(r"(\d+)([kmgtp]?)([bw]?)", text.strip().lower())
    if found is None:
        return None
    factor = 1024.0 ** (_MEMORY_UNITS[found[2]] - 1)
    return int(found[1]) * factor * (8 if found[3] == "w" else 1)
