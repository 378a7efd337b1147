"""Calls on their way as jobs: equal ones share a job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expyre import calls
from expyre.executor.calls import Call
from expyre.executor.jobs.requests import JobRequest
from expyre.func import ExPyRe, create_jobs
from expyre.identity import Identity, remembering

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.launch import LaunchOptions

__all__ = ["Flight", "KeyedCall", "keyed", "make_jobs_of"]

_SCOPE = "Executor"
"""Calls of executors find each other's jobs, whatever these are called; jobs of `ExPyRe` have scopes of their own."""


@dataclass(frozen=True)
class KeyedCall(calls.Call):
    """A call that is to become a job, with its key."""

    known: Identity | None = None

    def identity(self) -> Identity:
        """Return the key of the call and what entered it."""
        return super().identity() if self.known is None else self.known


@dataclass(eq=False)
class Flight:
    """A job, and the calls that it is to answer.

    Attributes
    ----------
    key
        Scope and key of the call.
    call
        What the job is made of; None once it is made.
    options
        How it is submitted.
    slots
        Cores that it takes.
    waiters
        The calls.
    job
        The job; None before it is made.
    submitted
        Whether the queue has it, as far as this process knows.
    """

    key: tuple[str | None, str]
    call: KeyedCall | None
    options: LaunchOptions
    slots: int
    waiters: list[Call] = field(default_factory=list)
    job: ExPyRe | None = None
    submitted: bool = False

    def fail(self, error: BaseException) -> None:
        """End all calls with an error."""
        for call in self.waiters:
            call.fail(error)

    def begin(self) -> None:
        """Mark all calls as running."""
        for call in self.waiters:
            call.begin()


def keyed(call: Call, request: JobRequest) -> KeyedCall:
    """Return a call as one that can become a job, with its key.

    Raises
    ------
    KeyUnstableError
        An argument has no stable value.
    InvalidCallError, RequestError
        The call cannot become a job.
    """
    details: dict[str, Any] = {
        "name": request.job_name or _name(call.function),
        "function": call.function,
        "args": tuple(call.args),
        "kwargs": dict(call.kwargs),
        "scope": _SCOPE if request.cores == 1 else f"{_SCOPE} of {request.cores} ranks",
        **request.surroundings(),
    }
    plain = calls.Call(**details)
    plain.check()
    return KeyedCall(**details, known=plain.identity())


def _name(function: Any) -> str:
    words = getattr(function, "__name__", None) or type(function).__name__
    return re.sub(r"[^\w.-]+", "", words) or "call"


def make_jobs_of(project: Project, flights: Sequence[Flight]) -> Iterable[Flight]:
    """Find or make the jobs of flights, together; yield those that have one, fail those that cannot have one."""
    try:
        with remembering():
            jobs = create_jobs([flight.call for flight in flights if flight.call is not None], project)
    except Exception as error:
        if len(flights) == 1:
            flights[0].fail(error)
            return
        middle = len(flights) // 2  # one of them is to blame: the others go without it
        yield from make_jobs_of(project, flights[:middle])
        yield from make_jobs_of(project, flights[middle:])
        return
    for flight, job in zip(flights, jobs, strict=True):
        flight.job, flight.call = job, None
        yield flight
