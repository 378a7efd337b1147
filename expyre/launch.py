"""From recorded jobs to the queue, exactly once: the intent is recorded before the queue hears of a job.

A crash at any point leaves an intent with a token. Whoever comes next asks the queue for the token, adopts the job if
it is there, and only then submits.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from expyre import stage
from expyre.errors import ExPyReError, GatherError, SubmitFailed
from expyre.jobsdb import Change, JobRow
from expyre.owners import owner_token
from expyre.states import CREATED, SUBMITTED
from expyre.steps import step
from expyre.system import Launch, Submitted, System

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.resources import Resources

__all__ = ["LaunchOptions", "launch"]

_BATCH = 1000
# How long another live process may take over the submission of a job that this one wants too.
_PATIENCE = 300.0


@dataclass(frozen=True)
class LaunchOptions:
    """How jobs are to be submitted, the same for all jobs of one launch."""

    system_name: str
    resources: Resources
    header_extra: tuple[str, ...] = ()
    exact_fit: bool = True
    partial_node: bool = False
    python_cmd: str = "python3"

    def to_details(self) -> dict[str, str]:
        """Return the options as the record keeps them with a job."""
        return {"resources": json.dumps(self.resources.to_dict()), "options": json.dumps(self._shape())}

    def _shape(self) -> dict[str, Any]:
        names = ("header_extra", "exact_fit", "partial_node", "python_cmd")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, row: JobRow) -> LaunchOptions | None:
        """Return the options with which a job was submitted last; None if it never was."""
        from expyre.resources import Resources

        if not row.resources or not row.system:
            return None
        shape = json.loads(row.options) if row.options else {}
        shape["header_extra"] = tuple(shape.get("header_extra", ()))
        return cls(row.system, Resources(**row.resources_dict), **shape)


def launch(project: Project, job_ids: Sequence[str], options: LaunchOptions) -> None:
    """Submit jobs that are recorded and staged; returns when the queue has all of them.

    Raises
    ------
    SubmitFailed, RequestError
        A job could not be submitted; it stays as created and is tried again by the next run.
    GatherError
        Several jobs could not be submitted, for different reasons.
    """
    system = project.systems[options.system_name]
    pending = iter(job_ids)
    failures: list[tuple[str, BaseException]] = []
    while batch := list(islice(pending, _BATCH)):
        failures.extend(_launch_batch(project, system, batch, options))
    _raise_failures(failures)


def _raise_failures(failures: list[tuple[str, BaseException]]) -> None:
    if not failures:
        return
    messages = list(dict.fromkeys(str(error) for _, error in failures))
    if len(failures) == 1 or len(messages) == 1:
        raise failures[0][1]
    raise GatherError(f"{len(failures)} jobs could not be submitted:\n  " + "\n  ".join(messages[:20]), failures)


def _launch_batch(
    project: Project, system: System, job_ids: list[str], options: LaunchOptions
) -> Iterator[tuple[str, BaseException]]:
    tokens = {job_id: token_hex(8) for job_id in job_ids}
    deadline = time.monotonic() + _PATIENCE
    while tokens:
        claims = project.record.claim_submission(list(tokens), tokens, owner_token())
        step("submit.1")
        stale = _adopt(project, system, [i for i, claim in claims.items() if claim == "stale"], options)
        mine = [i for i, claim in claims.items() if claim == "claimed" or i in stale]
        yield from _submit(project, system, {i: stale.get(i, tokens[i]) for i in mine}, options)
        tokens = {i: tokens[i] for i, claim in claims.items() if claim == "taken"}
        if tokens and time.monotonic() > deadline:
            yield from _given_up(list(tokens))
            return
        if tokens:
            time.sleep(0.05)


def _given_up(job_ids: list[str]) -> Iterator[tuple[str, BaseException]]:
    for job_id in job_ids:
        yield (
            job_id,
            SubmitFailed(f"another process has been submitting job {job_id} for {_PATIENCE:.0f} s; rerun later"),
        )


def _adopt(project: Project, system: System, job_ids: list[str], options: LaunchOptions) -> dict[str, str]:
    """Record the jobs that reached the queue before a crash; return the tokens of the others, to be used again."""
    if not job_ids:
        return {}
    token_of = {job_id: row.token or "" for job_id, row in project.record.rows(job_ids).items()}
    found = system.scheduler.find([token for token in token_of.values() if token])
    changes = [_submitted(i, found[token], options, {}) for i, token in token_of.items() if token in found]
    project.record.step(changes)
    return {i: token for i, token in token_of.items() if token not in found}


def _submit(
    project: Project, system: System, token_of: Mapping[str, str], options: LaunchOptions
) -> Iterator[tuple[str, BaseException]]:
    if not token_of:
        return
    rows = project.record.rows(list(token_of))
    try:
        answers = system.submit_many([_as_launch(rows[i], token, system, options) for i, token in token_of.items()])
    except BaseException:
        # the queue may have heard of some: whoever comes next asks it for their tokens first
        project.record.release_submission(list(token_of), in_doubt=True)
        raise
    changes = [
        _submitted(i, x.remote_id, options, _details(x, options))
        for i, x in answers.items()
        if isinstance(x, Submitted)
    ]
    project.record.step(changes)
    step("submit.4")
    refused = {i: answer for i, answer in answers.items() if isinstance(answer, ExPyReError)}
    project.record.release_submission(list(refused))
    yield from refused.items()


def _submitted(job_id: str, remote_id: str, options: LaunchOptions, details: dict[str, Any]) -> Change:
    return Change(
        job_id,
        status=SUBMITTED,
        expect=(CREATED,),
        remote_id=remote_id,
        system=options.system_name,
        details={"submit_state": "submitted", "t_submitted": time.time(), **options.to_details(), **details},
        note=f"submitted to {options.system_name} as {remote_id}",
    )


def _details(answer: Submitted, options: LaunchOptions) -> dict[str, Any]:
    return {"partition": answer.partition, "num_cores": answer.nodes.get("num_cores")}


def _as_launch(row: JobRow, token: str, system: System, options: LaunchOptions) -> Launch:
    directory = Path(row.from_dir)
    commands = stage.job_commands(directory, _python(system, options.python_cmd))
    if system.host is None:
        commands = [*_here_importable(), *commands]
    return Launch(
        row.id,
        directory,
        options.resources,
        tuple(commands),
        token,
        options.header_extra,
        options.exact_fit,
        options.partial_node,
    )


def _python(system: System, python_cmd: str) -> str:
    """Return the interpreter of a job; on this machine, and unless commands prepare another, the one that runs now."""
    here = system.host is None and not system.commands
    return shlex.quote(sys.executable) if python_cmd == "python3" and here and sys.executable else python_cmd


def _here_importable() -> list[str]:
    """Return the shell lines that let a job on this machine import what this process can import."""
    roots = tuple({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)})
    paths = [os.path.abspath(p or os.curdir) for p in sys.path]
    own = [p for p in dict.fromkeys(paths) if os.path.isdir(p) and not _is_installed(os.path.realpath(p), roots)]
    return ["export PYTHONPATH=" + shlex.quote(os.pathsep.join(own)) + "${PYTHONPATH:+:$PYTHONPATH}"] if own else []


def _is_installed(path: str, roots: tuple[str, ...]) -> bool:
    parts = path.split(os.sep)
    inside = any(path == root or path.startswith(root + os.sep) for root in roots)
    return (
        "site-packages" in parts or "dist-packages" in parts or (inside and any(p.startswith("python3") for p in parts))
    )
