"""What queue systems write into the error output of a job that they end, for ends that no accounting tells of."""

from __future__ import annotations

import re
from typing import Final

from expyre.states import END_CANCELLED, END_NODE_FAILED, END_OUT_OF_MEMORY, END_PREEMPTED, END_TIMED_OUT, End

__all__ = ["end_in_messages"]

# The first that is found counts: a job that is killed for its memory or time is also said to be cancelled.
_MESSAGES: Final = (
    (END_OUT_OF_MEMORY, r"slurmstepd.*(exceeded (job |step )?memory limit|oom[-_ ]kill|out[- ]of[- ]memory)"),
    (END_OUT_OF_MEMORY, r"PBS: job killed: .?(mem|vmem|pmem|pvmem)\b.* exceeded"),
    (END_OUT_OF_MEMORY, r"^Cgroup (mem|memsw) limit exceeded"),
    (END_TIMED_OUT, r"slurmstepd.*DUE TO TIME LIMIT"),
    (END_TIMED_OUT, r"PBS: job killed: (walltime|cput|pcput)\b.* exceed"),
    (END_PREEMPTED, r"slurmstepd.*DUE TO (PREEMPTION|JOB REQUEUE)"),
    (END_NODE_FAILED, r"slurmstepd.*DUE TO NODE FAILURE"),
    (END_NODE_FAILED, r"PBS: .*node .* (down|failed)"),
    (END_CANCELLED, r"slurmstepd.*\*\*\* (JOB|STEP) .* CANCELLED AT"),
    (END_CANCELLED, r"PBS: job deleted"),
)


def end_in_messages(text: str) -> End | None:
    """Return the end of which messages of the queue in a job's error output tell; None if they tell of none."""
    for reason, pattern in _MESSAGES:
        found = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
        if found:
            start = text.rfind("\n", 0, found.start()) + 1
            return End(reason, text[start:].split("\n", 1)[0].strip())
    return None
