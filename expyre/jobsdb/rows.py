"""The rows of the record as data: what is read, what is inserted, what is changed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

COLUMNS: Final = (
    "id", "name", "from_dir", "status", "system", "remote_id", "remote_status", "creation_time", "status_time",
)  # fmt: skip


@dataclass(slots=True)
class JobRow:
    """One job of the record: the nine columns of the ``jobs`` table, then what the record knows besides.

    Attributes
    ----------
    creation_time, status_time
        Whole seconds since 1970; ``status_time`` is when the status last changed.
    scope, key
        What the job is known by: two calls of one scope and key are one job.
    func
        Dotted name of the function.
    token
        Word under which the queue system was, or will be, told of the submission.
    owner, t_claimed
        Process that is submitting the job now, and its last sign of life.
    submit_state
        ``None``, ``"submitting"`` or ``"submitted"``.
    resources
        What was asked for, as JSON text; see `resources_dict`.
    options
        How the job was submitted besides (header lines, fit, interpreter), as JSON text.
    tries
        How often the job was tried again; whoever tries again counts.
    unknown_since
        Since when the queue system has not known the job.
    reason, end_detail, exit_code
        How the job died: an ``END_…`` word of `expyre.states`, the queue's own words, the exit status.
    t_created, t_submitted, t_started, t_ended, t_fetched
        Seconds since 1970.
    """

    id: str
    name: str
    from_dir: str
    status: str
    system: str | None = None
    remote_id: str | None = None
    remote_status: str | None = None
    creation_time: int | None = None
    status_time: int | None = None
    scope: str | None = None
    key: str | None = None
    func: str | None = None
    token: str | None = None
    owner: str | None = None
    submit_state: str | None = None
    t_claimed: float | None = None
    partition: str | None = None
    resources: str | None = None
    options: str | None = None
    hmac_key: bytes | None = None
    tries: int = 0
    unknown_since: float | None = None
    reason: str | None = None
    end_detail: str | None = None
    exit_code: int | None = None
    t_created: float | None = None
    t_submitted: float | None = None
    t_started: float | None = None
    t_ended: float | None = None
    t_fetched: float | None = None
    num_cores: int | None = None

    @property
    def resources_dict(self) -> dict[str, Any]:
        """What was asked for; empty if nothing is recorded."""
        return dict(json.loads(self.resources)) if self.resources else {}


DETAILS: Final = tuple(f.name for f in fields(JobRow) if f.name not in COLUMNS)
SELECT: Final = "SELECT {} FROM jobs AS j LEFT JOIN details AS d ON d.id = j.id".format(
    ", ".join(
        [f"coalesce(j.{name}, '')" if name in ("name", "from_dir", "status") else f"j.{name}" for name in COLUMNS]
        + ["coalesce(d.tries, 0)" if name == "tries" else f'd."{name}"' for name in DETAILS]
    )
)


@dataclass(slots=True)
class NewJob:
    """A job to be put into the record.

    Attributes
    ----------
    scope, key
        What the job is known by; without a key it is never found again by content.
    func
        Dotted name of the function, by which `JobsDB.nearest` finds related jobs.
    parts_json
        What entered the key, as `expyre.identity.Identity.to_json` gives it.
    resources
        What was asked for; a mapping is stored as JSON.
    """

    id: str
    name: str
    from_dir: str
    scope: str | None = None
    key: str | None = None
    func: str | None = None
    parts_json: str | None = None
    hmac_key: bytes | None = None
    status: str = "created"
    system: str | None = None
    remote_id: str | None = None
    remote_status: str | None = None
    partition: str | None = None
    resources: Mapping[str, Any] | str | None = None
    num_cores: int | None = None


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final[Any] = _Unset()
"""Marks a field of a `Change` that stays as it is (``None`` is a value)."""


@dataclass(slots=True)
class Change:
    """A step of one job.

    Attributes
    ----------
    status
        New status; None leaves it.
    expect
        Statuses the job must have for the change to be made; None for any from which the step is allowed.
    remote_status, remote_id, system
        New values, `UNSET` leaves them.
    details
        New values of other fields of `JobRow` (``partition``, ``reason``, ``t_fetched``…).
    note
        Words for the history.
    """

    id: str
    status: str | None = None
    expect: tuple[str, ...] | None = None
    remote_status: str | None = UNSET
    remote_id: str | None = UNSET
    system: str | None = UNSET
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


def as_text(value: Any) -> Any:
    """Return a value as SQLite can store it: mappings and sequences as JSON."""
    return json.dumps(value) if isinstance(value, (Mapping, list, tuple)) else value


def readable_time(seconds: int | None) -> str | None:
    """Return local time as ``YYYY-mm-dd HH:MM:SS``."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
