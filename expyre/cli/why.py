"""``xpr why``: why a job waits, why it was computed again, why it failed, and what to do about it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from expyre.cli.complete import complete_id
from expyre.cli.logs import Tail, job_directory, log_files, system_of
from expyre.cli.output import Screen, echo_json, json_option
from expyre.cli.resolve import one
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean
from expyre.cli.times import duration
from expyre.errors import ExPyReError
from expyre.states import CLEANED, CREATED, DIED, FAILED, HELD, PROCESSED, STARTED, SUBMITTED, SUCCEEDED

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow
    from expyre.system import System

__all__ = ["Answer", "why"]

_LINES = 10

_ENDS = {
    "TimedOut": ("it reached its time limit", "give it more time: xpr retry --time-factor 2 {id}"),
    "OutOfMemory": ("it ran out of memory", "give it more memory: xpr retry --mem-factor 2 {id}"),
    "NodeFailed": ("its node failed", "submit it again: xpr retry {id}"),
    "Preempted": ("the queue took its resources away", "submit it again: xpr retry {id}"),
    "Cancelled": ("somebody cancelled it", "if that was a mistake: xpr retry {id}"),
    "Lost": ("neither the queue nor its directory knows it any more", "submit it again: xpr retry {id}"),
}
_DIED = ("it ended without a result or an error of its own", "read its output (xpr logs {id}), then: xpr retry {id}")

_STATES = {
    STARTED: ("it is running", "follow its output: xpr logs -f {id}"),
    SUCCEEDED: ("it succeeded; its results wait to be fetched", "run the script again: it takes the results over"),
    PROCESSED: ("its results are stored elsewhere; it is not used again", "free the space: xpr rm -c {id}"),
    CLEANED: ("its files were removed; it is not used again", "forget it: xpr rm {id}"),
}


@dataclass
class Answer:
    """What is known of the reasons.

    Attributes
    ----------
    state
        In one line, why the job is where it is.
    details
        What the queue, the system or the record adds.
    recomputed
        What tells the call from the nearest earlier one.
    logs
        Last lines of the files that say something, by name.
    next
        What to do.
    """

    state: str
    details: list[str] = field(default_factory=list)
    recomputed: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    next: str = ""


@click.command()
@click.argument("job", shell_complete=complete_id)
@json_option
@pass_session
def why(session: Session, job: str, as_json: bool) -> None:
    """Say why JOB waits, why it was computed again, or why it failed, and what to do next."""
    row = one(session.record, job)
    answer = _answer(session, row)
    answer.recomputed = _recomputed(session, row)
    answer.next = answer.next.replace("{id}", _short(row))
    if as_json:
        echo_json({"id": row.id, "status": row.status, **vars(answer)})
    else:
        _print(row, answer)


def _short(row: JobRow) -> str:
    """Return the end of an id, by which other commands find the job, or the id if it is not of the usual make."""
    if row.name and len(row.id) == len(row.name) + 54 and row.id[-8:].isalnum():
        return row.id[-8:]
    return shlex.quote(row.id)


def _print(row: JobRow, answer: Answer) -> None:
    screen = Screen.current()
    click.echo(f"{clean(row.id)} ({screen.status(row.status)}): {clean(answer.state)}")
    for line in answer.details:
        click.echo(f"  {clean(line)}")
    if answer.recomputed:
        click.echo(screen.bold("Why it is a job of its own:"))
        click.echo("".join(f"  {clean(line)}\n" for line in answer.recomputed), nl=False)
    for name, text in answer.logs.items():
        click.echo(screen.bold(f"End of {name}:"))
        click.echo("".join(f"  {clean(line)}\n" for line in text.splitlines()), nl=False)
    if answer.next:
        click.echo(f"{screen.bold('Next:')} {clean(answer.next)}")


def _answer(session: Session, row: JobRow) -> Answer:
    system = system_of(session, row)
    if row.status == CREATED:
        return _not_submitted(row, system)
    if row.status == SUBMITTED:
        return _waiting(session, row, system)
    if row.status in (FAILED, DIED):
        return _failed(session, row, system)
    state, step = _STATES[row.status]
    return Answer(state, [*_since(row), *_tries(session, row)], next=step)


def _tries(session: Session, row: JobRow) -> list[str]:
    """Return what the history says of earlier tries."""
    if not row.tries:
        return []
    notes = [
        note for *_, note in session.record.history(row.id) if note and ("tried again" in note or note == "xpr retry")
    ]
    return [f"try {number}: {note}" for number, note in enumerate(notes, 2)]


def _since(row: JobRow) -> Iterator[str]:
    if row.status == STARTED and row.t_started is not None:
        limit = row.resources_dict.get("max_time")
        yield f"for {duration(time.time() - row.t_started)}" + (f" of {duration(limit)} asked for" if limit else "")


def _not_submitted(row: JobRow, system: System | None) -> Answer:
    from expyre.launch import waits_for_room

    if waits_for_room(row):
        limit = None if system is None else system.max_queued
        why = f"max_queued of system {row.system} is {limit}" if limit else f"the queue of {row.system} takes no more"
        step = "let the script wait for its results, or run it again: it submits jobs as others end"
        return Answer("it waits until the queue has room for it", [why], next=step)
    if row.submit_state != "submitting":
        return Answer("it was never submitted, or the queue refused it", next="run the script again to submit it")
    from expyre.owners import owner_alive

    if row.owner and owner_alive(row.owner, row.t_claimed):
        return Answer("it is being submitted now", [f"by {row.owner}"], next="wait")
    step = "run the script again: it looks for the job in the queue before it submits"
    return Answer("the process that was submitting it has died", [f"it was {row.owner}"], next=step)


def _waiting(session: Session, row: JobRow, system: System | None) -> Answer:
    held = row.remote_status == HELD
    state = "it is held in the queue" if held else "it waits in the queue"
    if row.t_submitted is not None:
        state += f", submitted {duration(time.time() - row.t_submitted)} ago"
    step = "let it go on: xpr release {id}" if held else "wait, or ask for less (xpr show {id} says for what it asked)"
    about = f"queue: {row.system}, id there {row.remote_id}, state {row.remote_status}"
    answer = Answer(state, [about, *_queue_says(row, system), *_tries(session, row)], next=step)
    if row.unknown_since is not None:
        answer.details.append(f"the queue has not known it for {duration(time.time() - row.unknown_since)}")
        answer.next = "look again: xpr sync {id}"
    return answer


def _queue_says(row: JobRow, system: System | None) -> list[str]:
    if system is None:
        return [f"system {row.system!r} is not in the configuration: the queue cannot be asked"]
    if not row.remote_id:
        return []
    try:
        reasons = system.scheduler.why_pending([row.remote_id])
    except (ExPyReError, OSError) as exc:
        return [f"the queue could not be asked: {exc}"]
    reason = reasons.get(row.remote_id)
    return [f"the queue says: {reason}"] if reason else ["the queue gives no reason"]


def _failed(session: Session, row: JobRow, system: System | None) -> Answer:
    from expyre import stage

    logs = _last_lines(row, system)
    error = stage.error_text(Path(row.from_dir or ""))
    if row.status == FAILED:
        headline = next(iter(error.strip().splitlines()), "no error text was left").removeprefix("Exception: ")
        step = "mend the function or its inputs and run the script again (a new job is made), or: xpr retry {id}"
        state = f"its function raised an error ({headline})"
        return Answer(state, _tries(session, row), logs=logs | _cut("error", error), next=step)
    state, step = _ENDS.get(row.reason or "", _DIED)
    details = [f"{name}: {value}" for name, value in _death(row) if value not in (None, "")]
    details += _tries(session, row)
    return Answer(state, details, logs=logs | _cut("error", error), next=step)


def _death(row: JobRow) -> Iterator[tuple[str, Any]]:
    yield "the queue says", row.end_detail
    yield "exit code of its script", row.exit_code
    if row.t_started is not None and row.t_ended is not None:
        yield "it ran for", duration(row.t_ended - row.t_started)
    yield "asked for", ", ".join(f"{k}={v}" for k, v in row.resources_dict.items() if v is not None)


def _last_lines(row: JobRow, system: System | None) -> dict[str, str]:
    files = log_files(job_directory(system, row), row.id)
    return {name: text for name, path in files.items() if (text := Tail(path).last(_LINES)).strip()}


def _cut(name: str, text: str) -> dict[str, str]:
    lines = text.rstrip().splitlines()[-_LINES:]
    return {name: "\n".join(lines)} if lines else {}


def _same_call(session: Session, row: JobRow) -> JobRow | None:
    """Return the last earlier job of the same call: its id differs only in the random end."""
    if not row.name or len(row.id) != len(row.name) + 54:
        return None
    alike = list(session.record.query(id=re.escape(row.id[:-8]) + ".{8}"))
    earlier = alike[: [other.id for other in alike].index(row.id)]
    return earlier[-1] if earlier else None


_NOT_USED = {
    FAILED: "a failed job is not used again",
    PROCESSED: "its results were stored elsewhere, so it is not used again",
    CLEANED: "its files were removed, so it is not used again",
}


def _recomputed(session: Session, row: JobRow) -> list[str]:
    """Return why the job was not spared: what became of an earlier one of its call, or what tells the calls apart."""
    before = _same_call(session, row)
    if before is not None:
        reason = _NOT_USED.get(before.status, "both were made at the same time, or on purpose")
        return [f"the same call was made before: {before.id} ({before.status}): {reason}"]
    mine, found = session.record.parts(row.id), session.record.nearest(row.id)
    if mine is None or found is None:
        return []
    from expyre.identity import differences

    earlier, identity = found
    return [f"nearest earlier call: {earlier.id} ({earlier.status})", *differences(identity, mine)]
