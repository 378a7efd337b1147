"""The queue jobs in which workers live: submitted together, looked at together, removed together."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre import gather
from expyre.errors import ExPyReError, ExPyReJobDiedError
from expyre.executor.blocks.settings import Settings
from expyre.func import Call, ExPyRe, create_jobs, submit_jobs
from expyre.jobsdb import JobRow
from expyre.launch import Backlog, waits_for_room
from expyre.node.blocks import spool as names
from expyre.outcome import read_outcome
from expyre.states import DIED, FAILED, HELD, PROCESSED, QUEUED, RUNNING, SUCCEEDED

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["Ended", "WorkerJobs"]

log = logging.getLogger(__name__)

_ENDED = frozenset({SUCCEEDED, FAILED, DIED, PROCESSED})
# exec: what runs in the job is in the spool, whatever is installed there; this finds it
_PROGRAM = f"""\
import os, sys
place = os.path.abspath({{path!r}})
code = os.path.join(place, {names.CODE!r})
sys.path[:0] = [code, os.path.join(code, "cloudpickle.zip")]
from expyre_node.blocks.worker import main
main(place, {{settings!r}})
"""


@dataclass(frozen=True)
class Ended:
    """A worker's job that runs no more.

    Attributes
    ----------
    worker
        Name of the worker.
    error
        How it ended, if that was not as it should; None otherwise.
    for_good
        False if the queue has taken the job back and will start it again.
    """

    worker: str
    error: BaseException | None
    for_good: bool = True


class WorkerJobs:
    """The jobs of the workers of one spool.

    Parameters
    ----------
    project
        Whose jobs they are.
    settings
        What they are to be like.
    name
        Name of the spool.
    path
        The spool directory as it is seen from a job's directory.
    """

    def __init__(self, project: Project, settings: Settings, name: str, path: str) -> None:
        self._project = project
        self._settings = settings
        self._name = name
        self._path = path
        self._numbers = itertools.count(1)
        self._since = time.time()
        self._jobs: dict[str, ExPyRe] = {}
        self._begun: set[str] = set()
        self._leaving: set[str] = set()
        self._cancelled: set[str] = set()
        self._backlog = Backlog()
        self._done: list[ExPyRe] = []

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def workers(self) -> list[str]:
        """Names of the workers whose jobs are on their way."""
        return list(self._jobs)

    @property
    def available(self) -> int:
        """How many workers there are, or will be, that take calls."""
        return sum(worker not in self._leaving for worker in self._jobs)

    def hire(self, count: int) -> None:
        """Submit the jobs of so many new workers together.

        Raises
        ------
        ExPyReError
            The queue refused, or could not be reached.
        """
        new = [f"w{next(self._numbers)}" for _ in range(count)]
        jobs = create_jobs([self._call(worker) for worker in new], self._project, try_restart=False)
        try:
            submit_jobs(jobs, self._settings.launch)
        except BaseException:
            self._remove(jobs)
            raise
        self._jobs.update(zip(new, jobs, strict=True))

    def _call(self, worker: str) -> Call:
        settings = self._settings
        told: dict[str, Any] = {"worker": worker, "idle": settings.idle, "lease": settings.lease}
        told.update(place=dict(settings.place), ranks=None if settings.ranks is None else [*settings.ranks])
        program = _PROGRAM.format(path=self._path, settings=told)
        return Call(f"{settings.job_name}_{self._name}_{worker}", exec, (program, {}), **settings.surroundings)

    def look(self) -> list[Ended]:
        """Ask the queue for all jobs; return those that run no more."""
        self._submit_waiting()
        rows = [job.row for job in self._jobs.values()]
        seen = gather.sync(self._project, rows, since=dict.fromkeys((row.id for row in rows), self._since))
        found: list[Ended] = []
        for worker, job in list(self._jobs.items()):
            job.refresh(seen[job.id])
            if job.status in _ENDED:
                found.append(self._ended(worker))
            elif self._has_gone_back(worker, job.row):
                found.append(Ended(worker, _gone_back(job), for_good=False))
        return found

    def _submit_waiting(self) -> None:
        """Submit those jobs for which the queue had no room before.

        Raises
        ------
        ExPyReError
            The queue refuses them.
        """
        rows = [job.row for job in self._jobs.values() if waits_for_room(job.row)]
        if rows:
            for error in self._backlog.push(self._project, rows, progressed=True).values():
                raise error
            fresh = self._project.record.rows([row.id for row in rows])
            for job in self._jobs.values():
                job.refresh(fresh.get(job.id, job.row))

    def _has_gone_back(self, worker: str, row: JobRow) -> bool:
        if row.remote_status == RUNNING:
            self._begun.add(worker)
        if row.remote_status not in (QUEUED, HELD) or worker not in self._begun:
            return False
        self._begun.discard(worker)
        self._leaving.discard(worker)
        return True

    def _ended(self, worker: str) -> Ended:
        job = self._jobs.pop(worker)
        error = read_outcome(job.row).error
        if error is None or worker in self._cancelled:
            self._done.append(job)
        return Ended(worker, error)

    def begun(self, worker: str) -> None:
        """Take note that a worker has said something: its job runs."""
        if worker in self._jobs:
            self._begun.add(worker)

    def leaves(self, worker: str) -> None:
        """Take note that a worker has said that it ends."""
        self._leaving.add(worker)

    def cancel(self, workers: Iterable[str]) -> None:
        """Have the queue end jobs; never raises for what it says."""
        known = [worker for worker in workers if worker in self._jobs]
        self._cancelled.update(known)
        jobs = [self._jobs[worker] for worker in known]
        ids = [job.remote_id for job in jobs if job.remote_id]
        if not ids:
            return
        try:
            self._project.systems[self._settings.system].scheduler.cancel(ids)
            self._project.record.step([gather.cancelled(job.id, "workers are not needed any more") for job in jobs])
        except ExPyReError as error:
            log.warning("the jobs of workers could not be cancelled: %s", error)

    def waiting(self) -> list[str]:
        """Return the workers whose jobs have not begun, as far as is known."""
        return [worker for worker in self._jobs if worker not in self._begun]

    def tidy(self, *, everything: bool = False) -> None:
        """Remove the files of jobs that ended well, and what the record has of them.

        Those of others stay, since errors refer to them.

        Parameters
        ----------
        everything
            Also those of jobs that may not have ended yet.
        """
        jobs, self._done = self._done, []
        if everything:
            jobs += self._jobs.values()
            self._jobs = {}
        self._remove(jobs)

    def _remove(self, jobs: Sequence[ExPyRe]) -> None:
        if not jobs:
            return
        import shutil

        try:
            self._project.systems[self._settings.system].clean_rundir([job.stage_dir for job in jobs], None)
        except ExPyReError as error:
            log.warning("the directories of workers' jobs could not be removed: %s", error)
            return
        for job in jobs:
            shutil.rmtree(Path(job.stage_dir), ignore_errors=True)
            self._project.record.remove(job.id)


def _gone_back(job: ExPyRe) -> ExPyReJobDiedError:
    from expyre.errors import NodeFailed

    return NodeFailed(
        f"job {job.id} on {job.system_name} (remote id {job.remote_id}) was running and waits again: "
        "its node failed, or somebody has requeued it"
    )
