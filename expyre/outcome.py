"""From an ended job's files to its value, or to the exception that says what happened and where to look."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expyre import errors, stage
from expyre.errors import AuthenticationError, ExPyReJobDiedError, StageError
from expyre.jobsdb import JobRow
from expyre.states import DIED, END_DIED, FAILED, SUCCEEDED

__all__ = ["Outcome", "read_outcome"]

_TAIL = 4000

_NEXT = {
    "TimedOut": "give it more max_time, or smaller chunks of work",
    "OutOfMemory": "ask for more memory (max_mem_tot, max_mem_per_core) or fewer processes",
    "NodeFailed": "submit it again: xpr retry {id}",
    "Preempted": "submit it again: xpr retry {id}",
    "Cancelled": "submit it again if that was a mistake: xpr retry {id}",
    "Lost": "look at the queue and at the job's directory; submit it again: xpr retry {id}",
    "ExPyReJobDiedError": "read the output below and the job's directory; then fix, and xpr retry {id}",
}


@dataclass
class Outcome:
    """How a job ended.

    Attributes
    ----------
    job
        Whatever stands for the job with the caller; its id if nothing does.
    value
        What the function returned; None after a failure.
    stdout, stderr
        What the function printed.
    error
        None after success; otherwise the function's own exception, or one of the named failures.
    """

    job: Any
    value: Any = None
    stdout: str = ""
    stderr: str = ""
    error: BaseException | None = None

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


def read_outcome(row: JobRow) -> Outcome:
    """Return the outcome of an ended job from its stage directory; never raises for what the job did."""
    directory = Path(row.from_dir)
    streams = stage.streams(directory, row.id)
    outcome = Outcome(row.id, stdout=streams.stdout, stderr=streams.stderr)
    if row.status == SUCCEEDED:
        _read_value(outcome, row, directory)
    elif row.status == FAILED:
        outcome.error = _read_error(row, directory, streams)
    elif row.status == DIED:
        outcome.error = _death(row, directory, streams)
    else:
        outcome.error = StageError(f"job {row.id} is {row.status} and has no result to give")
    return outcome


def _read_value(outcome: Outcome, row: JobRow, directory: Path) -> None:
    try:
        outcome.value = stage.read_result(directory, row.hmac_key)
    except StageError as error:  # truncated, forged, or of classes that cannot be imported here
        outcome.error = error
    except FileNotFoundError:
        what = f"job {row.id} succeeded but its result file is gone from {directory}"
        outcome.error = StageError(f"{what}; forget it with: xpr rm -c {_word(row.id)}")


def _read_error(row: JobRow, directory: Path, streams: stage.Streams) -> BaseException:
    try:
        error = stage.read_exception(directory, row.hmac_key)
    except AuthenticationError as refused:
        return refused
    return error if error is not None else _death(row, directory, streams)


def _death(row: JobRow, directory: Path, streams: stage.Streams) -> ExPyReJobDiedError:
    reason = row.reason or END_DIED
    kind = getattr(errors, reason, ExPyReJobDiedError)
    lines = [
        f"job {row.id} on {row.system} (remote id {row.remote_id}, remote status {row.remote_status}): {_what(row)}",
        f"  directory: {directory}",
        f"  next: {_NEXT.get(reason, _NEXT[END_DIED]).format(id=_word(row.id))}",
    ]
    texts = {
        "error": stage.error_text(directory),
        "stdout": streams.stdout,
        "stderr": streams.stderr,
        "job stdout": streams.job_stdout,
        "job stderr": streams.job_stderr,
    }
    lines.extend(f"  {name}:\n{_tail(text)}" for name, text in texts.items() if text.strip())
    error: ExPyReJobDiedError = kind("\n".join(lines))
    return error


def _word(id: str) -> str:
    """Return an id as words of a command that can be pasted into a shell."""
    return f"{'-- ' * id.startswith('-')}{shlex.quote(id)}"


def _what(row: JobRow) -> str:
    names = {
        "TimedOut": "reached its time limit",
        "OutOfMemory": "ran out of memory",
        "NodeFailed": "its node failed",
        "Preempted": "was preempted",
        "Cancelled": "was cancelled",
        "Lost": "was lost",
    }
    what = names.get(row.reason or "", "died without a result")
    return f"{what} ({row.end_detail})" if row.end_detail else what


def _tail(text: str) -> str:
    text = text.rstrip("\n")
    return text if len(text) <= _TAIL else "[…]\n" + text[-_TAIL:]
