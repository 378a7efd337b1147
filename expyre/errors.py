"""Every error that expyre raises on its own account, each with one sentence on when."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pickle import PicklingError

__all__ = [
    "AuthenticationError",
    "Cancelled",
    "ConfigError",
    "ExPyReError",
    "ExPyReJobDiedError",
    "ExPyReTimeoutError",
    "GatherError",
    "InputFailed",
    "InvalidCallError",
    "JobNotFoundError",
    "KeyUnstableError",
    "Lost",
    "NodeFailed",
    "OutOfMemory",
    "PlanEnd",
    "Preempted",
    "QueueFull",
    "RecordError",
    "RemoteTraceback",
    "RequestError",
    "SchedulerError",
    "StageError",
    "SubmitFailed",
    "TimedOut",
    "TransportError",
    "UnpicklableError",
    "WorkerDied",
]


class ExPyReError(Exception):
    """Root of the errors of this package."""


class ConfigError(ExPyReError, ValueError, RuntimeError):
    """Raised when the configuration files cannot be used; the message lists every mistake of every file."""


class RequestError(ExPyReError, ValueError, RuntimeError):
    """Raised when a request (resources, file names, options of a call) cannot be met or makes no sense."""


class InvalidCallError(RequestError, AssertionError):
    """Raised when a call that is to become a job, or what is asked of a job, is not well formed."""


class UnpicklableError(RequestError, TypeError, PicklingError):
    """Raised when a part of a call cannot be sent to where it is to run; says which part, and why."""


class KeyUnstableError(ExPyReError, TypeError):
    """Raised when an argument has no stable value to make a key of; names the argument and the way out."""


class StageError(ExPyReError, RuntimeError):
    """Raised when the files of a job cannot be staged, or a staged or returned file is unusable."""


class AuthenticationError(StageError):
    """Raised when a returned file is truncated or does not carry the signature of its job; nothing was unpickled."""


class RecordError(ExPyReError, RuntimeError):
    """Raised when the record of jobs (the SQLite file) cannot be opened, read or written."""


class JobNotFoundError(RecordError, ValueError):
    """Raised when the record has no job of that id."""


class TransportError(ExPyReError, RuntimeError):
    """Raised when a host could not be reached or a transfer broke off; says nothing about the state of any job."""

    def __init__(self, message: str, *, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient


class SchedulerError(ExPyReError, RuntimeError):
    """Raised when a command of the queue system failed or its answer could not be understood."""


class SubmitFailed(SchedulerError):
    """Raised when the queue system refused a job."""


class QueueFull(SubmitFailed):
    """Raised when the queue takes no more jobs for now: a limit on the number of submitted jobs is reached."""


class ExPyReTimeoutError(TimeoutError):
    """Raised when results were not there in the time the caller was ready to wait; the job goes on."""


class PlanEnd(ExPyReError, SystemExit):
    """Raised in a dry run where the script cannot go on without results; ends the script, code 0."""


class RemoteTraceback(Exception):
    """Cause of an exception that was raised in a job: carries the traceback of the other side as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class ExPyReJobDiedError(ExPyReError):
    """Raised when a job ended without a result or an exception of its own."""


class TimedOut(ExPyReJobDiedError):
    """Raised when a job was killed because it reached its time limit."""


class OutOfMemory(ExPyReJobDiedError):
    """Raised when a job was killed because it used more memory than it was given."""


class NodeFailed(ExPyReJobDiedError):
    """Raised when the machine that ran a job failed under it."""


class Preempted(ExPyReJobDiedError):
    """Raised when the queue system took the job's resources away for another job."""


class Cancelled(ExPyReJobDiedError):
    """Raised when somebody cancelled the job."""


class WorkerDied(ExPyReJobDiedError, BrokenExecutor):
    """Raised when the process that worked on a call ended under it, or could not be started."""


class InputFailed(ExPyReError):
    """Raised when a call cannot run because a call whose result it needs has failed; its cause is that failure.

    Parameters
    ----------
    message
        Summary for people.
    first
        What has failed at the beginning of a chain of calls.
    """

    def __init__(self, message: str, first: str = "") -> None:
        super().__init__(message)
        self.first = first or message


class Lost(ExPyReJobDiedError):
    """Raised when neither the queue nor the job's files know of the job any more."""


class GatherError(ExPyReError):
    """Raised when several jobs failed; ``failures`` holds (job id, exception) of each, the rest was kept.

    Parameters
    ----------
    message
        Summary for people.
    failures
        One ``(job id, exception)`` per failed job.
    """

    def __init__(self, message: str, failures: list[tuple[str, BaseException]]) -> None:
        super().__init__(message)
        self.failures = failures
