"""One job's life: the statuses of a job, the allowed steps between them, and what evidence decides.

Two words describe a job. Its *status* is what this project has recorded of it; its *remote status* is the last word
of the queue system, in one vocabulary for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

CREATED: Final = "created"
SUBMITTED: Final = "submitted"
STARTED: Final = "started"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
DIED: Final = "died"
PROCESSED: Final = "processed"
CLEANED: Final = "cleaned"

STATUSES: Final = (CREATED, SUBMITTED, STARTED, SUCCEEDED, FAILED, DIED, PROCESSED, CLEANED)
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "ongoing": (CREATED, SUBMITTED, STARTED),
    "can_produce_results": (CREATED, SUBMITTED, STARTED, SUCCEEDED, DIED),
}

# The steps a job may take. `reset_status` of the command line and a forced rerun go outside this table on purpose.
STEPS: Final[dict[str, frozenset[str]]] = {
    CREATED: frozenset({SUBMITTED, STARTED, SUCCEEDED, FAILED, DIED, PROCESSED, CLEANED}),
    SUBMITTED: frozenset({CREATED, STARTED, SUCCEEDED, FAILED, DIED, PROCESSED, CLEANED}),
    STARTED: frozenset({SUBMITTED, SUCCEEDED, FAILED, DIED, PROCESSED, CLEANED}),
    SUCCEEDED: frozenset({PROCESSED, CLEANED, DIED}),
    FAILED: frozenset({SUBMITTED, PROCESSED, CLEANED, SUCCEEDED}),
    DIED: frozenset({SUBMITTED, STARTED, SUCCEEDED, FAILED, PROCESSED, CLEANED}),
    PROCESSED: frozenset({CLEANED}),
    CLEANED: frozenset({PROCESSED}),
}

# Words of the queue, the same for every queue system.
QUEUED: Final = "queued"
HELD: Final = "held"
RUNNING: Final = "running"
DONE: Final = "done"
QUEUE_FAILED: Final = "failed"
TIMEOUT: Final = "timeout"
OTHER: Final = "other"
UNKNOWN: Final = "unknown"
REMOTE_STATUSES: Final = (QUEUED, HELD, RUNNING, DONE, QUEUE_FAILED, TIMEOUT, OTHER, UNKNOWN)
ALIVE: Final = frozenset({QUEUED, HELD, RUNNING})

# Why a job ended without a result: the vocabulary of `End.reason`, each the name of one error class.
END_TIMED_OUT: Final = "TimedOut"
END_OUT_OF_MEMORY: Final = "OutOfMemory"
END_NODE_FAILED: Final = "NodeFailed"
END_PREEMPTED: Final = "Preempted"
END_CANCELLED: Final = "Cancelled"
END_LOST: Final = "Lost"
END_DIED: Final = "ExPyReJobDiedError"
# The queue's word that a job ended by itself, exit code 0: no reason for anything by itself.
END_COMPLETED: Final = "Completed"


def expand_statuses(words: str | list[str] | tuple[str, ...] | None) -> list[str] | None:
    """Return the statuses that status words and group names stand for; None (no restriction) for None.

    Raises
    ------
    ValueError
        A word is neither a status nor a group.
    """
    if words is None:
        return None
    result: list[str] = []
    for word in [words] if isinstance(words, str) else words:
        if word in GROUPS:
            result.extend(GROUPS[word])
        elif word in STATUSES:
            result.append(word)
        else:
            known = ", ".join((*STATUSES, *GROUPS))
            raise ValueError(f"unknown status {word!r}; the statuses and groups are: {known}")
    return list(dict.fromkeys(result))


@dataclass(frozen=True)
class End:
    """How the queue system says a job ended.

    Attributes
    ----------
    reason
        One of the ``END_…`` words.
    detail
        The queue's own words, for the message.
    exit_code
        Exit status of the job's script, if known.
    """

    reason: str
    detail: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What one look at a job found.

    Attributes
    ----------
    succeeded, failed, started, terminated
        Whether the result file, the error file, the file written at the start, the file that tells of a signal are in
        the job's directory.
    queue
        Word of the queue (one of ``REMOTE_STATUSES``); ``unknown`` when the queue could not be asked, gave an empty
        or damaged answer, or does not list the job.
    end
        What accounting says about the end, if it says anything.
    unknown_for
        Seconds since the queue last knew the job, while ``queue`` is ``unknown``.
    """

    succeeded: bool = False
    failed: bool = False
    started: bool = False
    queue: str = UNKNOWN
    end: End | None = None
    unknown_for: float = 0.0
    terminated: bool = False


@dataclass(frozen=True)
class Verdict:
    """What evidence amounts to: the job's status, the remote status to record, and the end if it died."""

    status: str
    remote_status: str
    end: End | None = None


# What queues do to jobs that they put back into the queue a moment later.
_MAY_COME_BACK: Final = frozenset({END_NODE_FAILED, END_PREEMPTED})
_REQUEUE_TIME: Final = 5.0


def decide(evidence: Evidence, *, status: str, budget: float = 60.0) -> Verdict:
    """Return what a job's evidence amounts to.

    Files of the job outrank every word of the queue: a result is a result whatever the queue says. Without files, a
    queue that knows the job alive is believed; one that says the job has ended needs the job's directory to have been
    looked at after it (the caller looks at files second). One that lost its node or was preempted gets a moment to come
    back into the queue. A job of which nobody knows anything stays as it is until
    ``budget`` seconds have passed, then it is lost. What has started goes back to submitted only when the queue says
    that it waits again; what was never submitted cannot be lost; what has a result or an error recorded, or was done
    with, does not change for want of its files.

    Parameters
    ----------
    evidence
        The look.
    status
        The status recorded so far; kept where the evidence says nothing.
    budget
        Seconds for which a job may stay unknown to the queue.
    """
    if status in (PROCESSED, CLEANED):
        return Verdict(status, evidence.queue)
    if evidence.succeeded:
        return Verdict(SUCCEEDED, DONE)
    if evidence.failed:
        return Verdict(FAILED, DONE)
    if status in (SUCCEEDED, FAILED):
        return Verdict(status, evidence.queue)
    if evidence.queue in ALIVE or evidence.queue == OTHER:
        has_started = evidence.started or (status == STARTED and evidence.queue != QUEUED)
        return Verdict(STARTED if has_started else SUBMITTED, evidence.queue)
    end = evidence.end
    if end is not None and end.reason == END_COMPLETED:
        return decide(replace(evidence, queue=DONE, end=None), status=status, budget=budget)
    if end is not None and (end.reason not in _MAY_COME_BACK or evidence.unknown_for >= _REQUEUE_TIME):
        return Verdict(DIED, TIMEOUT if end.reason == END_TIMED_OUT else QUEUE_FAILED, end)
    if evidence.queue == TIMEOUT:
        return Verdict(DIED, TIMEOUT, End(END_TIMED_OUT, "the queue reports that the time limit was reached"))
    if evidence.queue == QUEUE_FAILED and end is None:
        return Verdict(DIED, QUEUE_FAILED, End(END_DIED, "the queue reports that the job failed"))
    if (evidence.queue == DONE or evidence.terminated) and evidence.unknown_for >= min(budget, 5.0):
        how = "was ended by a signal" if evidence.terminated else "ended"
        return Verdict(DIED, DONE, End(END_DIED, f"the job {how} and left neither a result nor an error"))
    if evidence.queue == UNKNOWN and evidence.unknown_for >= budget and status in (SUBMITTED, STARTED):
        detail = f"neither the queue nor the job's directory has known it for {evidence.unknown_for:.0f} s"
        return Verdict(DIED, UNKNOWN, End(END_LOST, detail))
    return Verdict(STARTED if evidence.started and status == SUBMITTED else status, evidence.queue)
