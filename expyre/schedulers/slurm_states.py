"""The words of Slurm: states of jobs, reasons of waiting, ends."""

from __future__ import annotations

from typing import Final

from expyre.schedulers.base import Listing
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
    QUEUE_FAILED,
    QUEUED,
    RUNNING,
    TIMEOUT,
    End,
)

__all__ = ["ENDS", "HOPELESS", "STATES", "end_of", "listing_of", "why_waiting"]

# Every state of "JOB STATE CODES" in the manual of squeue, and those of sacct.
STATES: Final = {
    "PENDING": QUEUED,
    "CONFIGURING": QUEUED,
    "REQUEUED": QUEUED,
    "REQUEUE_FED": QUEUED,
    "EXPEDITING": QUEUED,
    "POWER_UP_NODE": QUEUED,
    "REQUEUE_HOLD": HELD,
    "RESV_DEL_HOLD": HELD,
    "SPECIAL_EXIT": HELD,
    "RUNNING": RUNNING,
    "COMPLETING": RUNNING,
    "RESIZING": RUNNING,
    "SIGNALING": RUNNING,
    "STAGE_OUT": RUNNING,
    "STOPPED": RUNNING,
    "SUSPENDED": RUNNING,
    "UPDATE_DB": RUNNING,
    "RECONFIG_FAIL": OTHER,
    "REVOKED": OTHER,
    "COMPLETED": DONE,
    "CANCELLED": DONE,
    "FAILED": QUEUE_FAILED,
    "BOOT_FAIL": QUEUE_FAILED,
    "LAUNCH_FAILED": QUEUE_FAILED,
    "NODE_FAIL": QUEUE_FAILED,
    "OUT_OF_MEMORY": QUEUE_FAILED,
    "PREEMPTED": QUEUE_FAILED,
    "DEADLINE": TIMEOUT,
    "TIMEOUT": TIMEOUT,
}

ENDS: Final = {
    "COMPLETED": END_COMPLETED,
    "CANCELLED": END_CANCELLED,
    "FAILED": END_DIED,
    "BOOT_FAIL": END_NODE_FAILED,
    "LAUNCH_FAILED": END_NODE_FAILED,
    "NODE_FAIL": END_NODE_FAILED,
    "OUT_OF_MEMORY": END_OUT_OF_MEMORY,
    "PREEMPTED": END_PREEMPTED,
    "DEADLINE": END_TIMED_OUT,
    "TIMEOUT": END_TIMED_OUT,
}

# Reasons of waiting that do not pass by themselves, as in "JOB REASON CODES" of the manual of squeue.
HOPELESS: Final = {
    "DependencyNeverSatisfied": "a job that it waits for has failed, so that it never starts",
    "PartitionConfig": "it asks for more than the partition has",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives to one job",
    "PartitionTimeLimit": "it asks for more time than the partition gives",
    "BadConstraints": "no node is as it asks for",
    "AssocMaxCpuPerJobLimit": "it asks for more cores than the account may use",
    "AccountNotAllowed": "its account may not use the partition",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its quality of service is not valid",
    "QOSNotAllowed": "its quality of service may not use the partition",
    "QOSMaxWallDurationPerJobLimit": "it asks for more time than its quality of service gives",
    "AssocMaxWallDurationPerJobLimit": "it asks for more time than the account may use",
}

# What slurmd uses as the number of a signal when the job's files could not be opened.
_NO_FILES = 53


def listing_of(word: str, reason: str) -> Listing:
    """Return state and reason of a job in the words of this package; words that are not known come last as other."""
    state = STATES.get(word, QUEUE_FAILED if "FAIL" in word else OTHER)
    if state == QUEUED and "held" in reason.lower():
        state = HELD
    told = "" if reason in ("None", "(null)", "") else reason
    if word not in ("PENDING", "RUNNING"):
        told = f"{word}: {told}" if told and told.upper() != word else word
    return Listing(state, told, f"{word} {reason}".strip())


def end_of(words: str, exit_code: int | None, signal: int, reason: str = "") -> End | None:
    """Return how a job ended; None if it has not.

    Parameters
    ----------
    words
        The state, possibly with more: ``CANCELLED by 1000``.
    exit_code, signal
        How the script ended.
    reason
        What Slurm says beside.
    """
    word = words.split(" ")[0].rstrip("+")
    end = ENDS.get(word)
    if end is None:
        return None
    detail = [f"Slurm: {words}"]
    if signal == _NO_FILES:
        detail.append("the output files of the job could not be opened on the node")
    elif signal:
        detail.append(f"signal {signal}")
    elif exit_code:
        detail.append(f"exit code {exit_code}")
    if reason not in ("", "None", "(null)"):
        detail.append(reason)
    code = None if signal == _NO_FILES else 128 + signal if signal else exit_code
    return End(end, ", ".join(detail), code)


def why_waiting(listing: Listing) -> str:
    """Return in words why a job waits; empty if it does not, or for no reason that Slurm knows."""
    if listing.state not in (QUEUED, HELD):
        return ""
    reason = listing.reason.strip("()")
    if listing.state == HELD:
        return f"{reason or 'held'}: it starts only when it is released (`xpr release`)"
    return f"{reason}: {HOPELESS[reason]}" if reason in HOPELESS else reason
