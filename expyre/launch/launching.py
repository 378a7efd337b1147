"""From recorded jobs to the queue, exactly once: the intent is recorded before the queue hears of a job.

A crash at any point leaves an intent with a token. Whoever comes next asks the queue for the token, adopts the job if
it is there, and only then submits. A connection that breaks off while the queue is told is such a crash, mended by the
same process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from expyre import stage
from expyre.checkup import forget, handshake
from expyre.errors import (
    ExPyReError,
    GatherError,
    QueueFull,
    SchedulerError,
    SubmitFailed,
    TransportError,
)
from expyre.jobsdb import Change, JobRow
from expyre.launch.claim import Claim
from expyre.launch.commands import Commands
from expyre.launch.options import LaunchOptions, launched_alike
from expyre.owners import owner_token
from expyre.patience import tries_and_pause
from expyre.states import CREATED, STARTED, SUBMITTED
from expyre.steps import step
from expyre.system import Launch, Submitted, System

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["WAITING", "launch", "room", "try_launch"]

log = logging.getLogger(__name__)

WAITING = "waiting"
"""Submit state of a job that is to be submitted when the queue has room for it."""

_BATCH = 1000
# How long another live process may take over the submission of a job that this one wants too.
_PATIENCE = 300.0
Failures = dict[str, BaseException]


def launch(project: Project, job_ids: Sequence[str], options: LaunchOptions) -> None:
    """Submit jobs that are recorded and staged; returns when the queue has all of them, or all it takes for now.

    The others wait: whoever waits for their results submits them as there comes room.

    Raises
    ------
    SubmitFailed, RequestError
        A job could not be submitted; it stays as created and is tried again by the next run.
    GatherError
        Several jobs could not be submitted, for different reasons.
    """
    _raise_failures(list(try_launch(project, job_ids, options).items()))


def try_launch(project: Project, job_ids: Sequence[str], options: LaunchOptions) -> Failures:
    """Do as `launch` does, but return the errors by job id."""
    system = project.systems[options.system_name]
    failures: Failures = {}
    pending = list(job_ids)
    while pending:
        count = room(project, options.system_name)
        batch = pending[: _BATCH if count is None else min(_BATCH, count)]
        pending = pending[len(batch) :]
        refused = _Batch(project, system, options).launch(batch) if batch else {}
        full = [job_id for job_id, error in refused.items() if isinstance(error, QueueFull)]
        failures.update((job_id, error) for job_id, error in refused.items() if job_id not in full)
        if full or not batch:
            _postpone(project, [*full, *pending], options)
            break
    return failures


def room(project: Project, system_name: str) -> int | None:
    """Return how many more jobs of the project a system may have in its queue; None for no limit."""
    limit = project.systems[system_name].max_queued
    if limit is None:
        return None
    counts = project.record.counts()
    return max(0, limit - sum(counts.get((system_name, status), 0) for status in (SUBMITTED, STARTED)))


def _postpone(project: Project, job_ids: Sequence[str], options: LaunchOptions) -> None:
    if job_ids:
        log.info("%d jobs wait until the queue of %s has room for them", len(job_ids), options.system_name)
    details = {**options.to_details(), "submit_state": WAITING}
    changes = [Change(i, expect=(CREATED,), system=options.system_name, details=details) for i in job_ids]
    project.record.step(changes)


def _raise_failures(failures: list[tuple[str, BaseException]]) -> None:
    if not failures:
        return
    messages = list(dict.fromkeys(str(error) for _, error in failures))
    if len(failures) == 1 or len(messages) == 1:
        raise failures[0][1]
    raise GatherError(f"{len(failures)} jobs could not be submitted:\n  " + "\n  ".join(messages[:20]), failures)


class _Batch:
    """The submission of jobs that go to the queue together."""

    def __init__(self, project: Project, system: System, options: LaunchOptions) -> None:
        self.project, self.system, self.options = project, system, options
        self.commands = Commands(system, options.python_cmd)
        self.details = options.to_details()
        self.tries, self.pause = tries_and_pause()

    def launch(self, job_ids: Sequence[str]) -> Failures:
        """Submit the jobs; return the queue's refusals."""
        failures: Failures = {}
        left = list(job_ids)
        deadline = time.monotonic() + _PATIENCE
        while left:
            try:
                self._make_sure_of_host(left)
                left = self._round(left, failures)
            except (TransportError, SchedulerError) as error:
                self._wait_after(error)
                continue
            if left and time.monotonic() > deadline:
                return failures | {job_id: _given_up(job_id) for job_id in left}
            if left:
                time.sleep(0.05)
        return failures

    def _make_sure_of_host(self, job_ids: Sequence[str]) -> None:
        """Refuse at once what is bound to fail on the host; looked at once a day."""
        directory = Path(self.project.record.row(job_ids[0]).from_dir)  # the jobs of one launch are much alike
        env_vars = stage.read_list(directory, stage.names.ENV_VARS)
        prepared = (directory / stage.names.PRE_RUN).exists() or any(item.startswith("PATH=") for item in env_vars)
        name, root = self.options.system_name, self.project.stage_root
        handshake(name, self.system, root, self.commands.python, prepared)

    def _wait_after(self, error: TransportError | SchedulerError) -> None:
        """Wait before the next try, or raise the error if there is to be none."""
        forget(self.project.stage_root)  # that all was in order there
        hopeless = isinstance(error, SubmitFailed) or not getattr(error, "transient", True)
        self.tries -= 1
        if hopeless or self.tries < 1:
            raise error
        log.warning("%s; trying again in %g s", error, self.pause)
        time.sleep(self.pause)
        self.pause *= 2

    def _round(self, job_ids: list[str], failures: Failures) -> list[str]:
        """Claim and submit what can be claimed; return the jobs that another process is at, or has taken over."""
        tokens = {job_id: token_hex(8) for job_id in job_ids}
        claims = self.project.record.claim_submission(job_ids, tokens, owner_token())
        step("submit.1")
        stale = [i for i, claim in claims.items() if claim == "stale"]
        mine = [i for i, claim in claims.items() if claim in ("claimed", "stale")]
        with Claim(self.project.record, mine) as claim:
            token_of = {i: tokens[i] for i in mine if i not in stale} | self._adopt(stale)
            lost = self._submit(token_of, claim, failures)
        return [*(i for i, claim in claims.items() if claim == "taken"), *lost]

    def _adopt(self, job_ids: list[str]) -> dict[str, str]:
        """Record the jobs that reached the queue before a crash; return the tokens of the others, to be used again."""
        if not job_ids:
            return {}
        token_of = {job_id: row.token or "" for job_id, row in self.project.record.rows(job_ids).items()}
        found = self.system.find([token for token in token_of.values() if token], self.project.stage_dir)
        adopted = [self._submitted(i, found[token], {}) for i, token in token_of.items() if token in found]
        self.project.record.step(adopted)
        return {i: token for i, token in token_of.items() if token not in found}

    def _submit(self, token_of: Mapping[str, str], claim: Claim, failures: Failures) -> list[str]:
        """Submit claimed jobs; return those that somebody else has claimed since."""
        if not token_of:
            return []
        rows = self.project.record.rows(list(token_of))
        launches = [self._as_launch(rows[i], token) for i, token in token_of.items()]
        answers = self.system.submit_many(launches, claim.still_mine)
        self._record_submitted(answers)
        step("submit.4")
        refused = {i: answer for i, answer in answers.items() if isinstance(answer, ExPyReError)}
        self.project.record.release_submission(list(refused))
        failures.update(refused)
        return [i for i in token_of if i not in answers]

    def _record_submitted(self, answers: Mapping[str, Submitted | ExPyReError]) -> None:
        accepted = {i: answer for i, answer in answers.items() if isinstance(answer, Submitted)}
        self.project.record.step([self._submitted(i, x.remote_id, _details(x)) for i, x in accepted.items()])

    def _submitted(self, job_id: str, remote_id: str, details: dict[str, Any]) -> Change:
        name = self.options.system_name
        return Change(
            job_id,
            status=SUBMITTED,
            expect=(CREATED,),
            remote_id=remote_id,
            system=name,
            details={"submit_state": "submitted", "t_submitted": time.time(), **self.details, **details},
            note=f"submitted to {name} as {remote_id}",
        )

    def _as_launch(self, row: JobRow, token: str) -> Launch:
        directory, options = Path(row.from_dir), self.options
        shape = (options.header_extra, options.exact_fit, options.partial_node)
        return Launch(row.id, directory, options.resources, self.commands.of(directory), token, *shape)


def _given_up(job_id: str) -> SubmitFailed:
    return SubmitFailed(f"another process has been submitting job {job_id} for {_PATIENCE:.0f} s; rerun later")


def _details(answer: Submitted) -> dict[str, Any]:
    return {"partition": answer.partition, "num_cores": answer.nodes.get("num_cores")}


def ids_by_options(rows: Iterable[JobRow]) -> list[tuple[LaunchOptions, list[str]]]:
    """Return the jobs that can be submitted together, with how."""
    known = [(LaunchOptions.of(members[0]), [row.id for row in members]) for members in launched_alike(rows)]
    return [(options, ids) for options, ids in known if options is not None]
