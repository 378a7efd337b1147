"""`ExPyRe`, the user's handle on a function call that runs as a job."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from expyre import config, gather, plan, stage
from expyre.calls import Call, Prepared, prepare
from expyre.errors import (
    AuthenticationError,
    ExPyReError,
    ExPyReJobDiedError,
    ExPyReTimeoutError,
    RequestError,
    StageError,
)
from expyre.jobsdb import Change, JobRow
from expyre.launch import withdraw
from expyre.outcome import Outcome
from expyre.resources import Resources
from expyre.starting import restart_jobs, start_jobs, submit_jobs
from expyre.states import CLEANED, FAILED, GROUPS, PROCESSED, SUCCEEDED
from expyre.system import System
from expyre.units import time_to_sec

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = [
    "Call",
    "ExPyRe",
    "ExPyReJobDiedError",
    "ExPyReTimeoutError",
    "create_jobs",
    "restart_jobs",
    "start_jobs",
    "submit_jobs",
]

log = logging.getLogger(__name__)


class ExPyRe:
    r"""A function call that runs as a job of its own, and is found again when the script is run again.

    Parameters
    ----------
    name
        Name of the job, part of its id; must not contain any of ``/ [ ] { } * \``.
    input_files
        Files, directories and globs copied into the directory in which the job runs.
    env_vars
        ``NAME=value``, expanded by the job's shell, or ``NAME``, whose value is copied from here.
    pre_run_commands, post_run_commands
        Shell lines run in the job before and after the function.
    output_files
        Globs, relative to the job's directory, copied to the current directory with the results.
    try_restart_from_prev
        Look for a job of the same name and call before making a new one.
    hash_ignore
        Positions (int) and names (str) of arguments that do not tell one call from another.
    function, args, kwargs
        The call.

    Raises
    ------
    InvalidCallError
        A parameter makes no sense; the message lists all of them.
    KeyUnstableError
        An argument has no stable value to recognise it by.
    StageError, RequestError
        An input file is missing, or the job's directory cannot be written.

    Attributes
    ----------
    id : str
        Id of the job, the name of its directory without ``run_``.
    stage_dir : Path
        Directory of the job's files on this machine.
    status, remote_id, system_name
        As in the record of jobs.
    recreated : bool
        Whether the job was there before this object.
    """

    def __init__(
        self,
        name: str,
        *,
        input_files: Sequence[str | Path] | str | Path = (),
        env_vars: Sequence[str] = (),
        pre_run_commands: Sequence[str] = (),
        post_run_commands: Sequence[str] = (),
        output_files: Sequence[str] | str = (),
        try_restart_from_prev: bool = True,
        hash_ignore: Sequence[int | str] = (),
        function: Callable[..., Any] | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        _from_db_info: Mapping[str, Any] | None = None,
    ) -> None:
        project = config.project()
        if _from_db_info is not None:
            self._adopt(project, Prepared(project.record.row(_from_db_info["id"]), recreated=True))
            return
        call = Call(
            name,
            cast("Callable[..., Any]", function),  # None is among the mistakes that the call reports
            args,
            kwargs or {},
            input_files=[input_files] if isinstance(input_files, str | Path) else input_files,
            output_files=[output_files] if isinstance(output_files, str) else output_files,
            env_vars=env_vars,
            pre_run_commands=pre_run_commands,
            post_run_commands=post_run_commands,
            hash_ignore=hash_ignore,
        )
        self._adopt(project, prepare(project, [call], try_restart=try_restart_from_prev, dry_run=plan.active())[0])

    def _adopt(self, project: Project, prepared: Prepared) -> None:
        self.project = project
        self.recreated = prepared.recreated
        self.planned = prepared.planned
        self.refresh(prepared.row)

    @classmethod
    def _from_prepared(cls, project: Project, prepared: Prepared) -> ExPyRe:
        job = cls.__new__(cls)
        job._adopt(project, prepared)
        return job

    def refresh(self, row: JobRow) -> None:
        """Take over what the record says of the job."""
        self.row = row
        self.id = row.id
        self.stage_dir = Path(row.from_dir)
        self.status = row.status
        self.remote_id = row.remote_id
        self.system_name = row.system

    def _reread(self) -> JobRow:
        self.refresh(self.project.record.row(self.id))
        return self.row

    def __str__(self) -> str:
        where = f"system={self.system_name} remote_id={self.remote_id}"
        return f"{self.id} {where} status={self.status} stage_dir={self.stage_dir}"

    def __repr__(self) -> str:
        return f"<ExPyRe {self}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(str(self))}</code>"

    @property
    def system(self) -> System | None:
        """The system that has the job, if it was submitted and is still configured."""
        return self.project.systems.get(self.system_name) if self.system_name else None

    def start(
        self,
        resources: Resources | Mapping[str, Any],
        system_name: str | None = None,
        header_extra: Sequence[str] = (),
        exact_fit: bool = True,
        partial_node: bool = False,
        python_cmd: str = "python3",
        force_rerun: bool = False,
    ) -> None:
        """Submit the job, unless it was submitted before.

        Parameters
        ----------
        resources
            What the job needs, or the keywords of `Resources`.
        system_name
            Name of a configured system; by default the environment variable ``EXPYRE_SYS``.
        header_extra
            Header lines of the job script, after those of the system and the partition.
        exact_fit
            Refuse partitions of which a request for cores would leave cores unused.
        partial_node
            Ask for part of a node.
        python_cmd
            Interpreter of the job; on this machine the running one unless given.
        force_rerun
            Submit again whatever became of the job before; what it left behind is removed.

        Raises
        ------
        KeyError
            No such system.
        RequestError
            No partition fits; the message says why, for each.
        SubmitFailed
            The queue refused the job; it stays as created, so that the next run tries again.
        """
        start_jobs(
            [self],
            resources,
            system_name,
            header_extra=header_extra,
            exact_fit=exact_fit,
            partial_node=partial_node,
            python_cmd=python_cmd,
            force_rerun=force_rerun,
        )

    def get_results(
        self,
        timeout: float | str | None = 3600,
        check_interval: float = 30,
        sync: bool = True,
        sync_all: bool = True,
        force_sync: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> tuple[Any, str, str]:
        """Wait for the job and return what its function returned.

        Parameters
        ----------
        timeout
            Seconds, or a time string; None or negative to wait for ever, 0 to look once.
        check_interval
            Longest time between two looks, in s.
        sync_all
            Look at all jobs that are under way on the same system, so that calls for one after the other cross the
            wire no more often than one for all.
        quiet
            Show neither progress nor the output of a failed job.

        Returns
        -------
        value, stdout, stderr
            The function's value, and what it printed.

        Raises
        ------
        ExPyReTimeoutError
            Not there yet; the job goes on.
        ExPyReJobDiedError
            The job ended without a result; the subclass says why (TimedOut, OutOfMemory, …).
        Exception
            Whatever the function raised, with the remote traceback as its cause.
        """
        if self.planned:
            plan.end(f"the result of {self.id} is needed")
        if self._reread().status in (PROCESSED, CLEANED):
            raise RequestError(f"job {self.id} is {self.status}: its results are stored elsewhere or gone")
        seconds = time_to_sec(timeout) if isinstance(timeout, str) else timeout
        options: dict[str, Any] = {"check_interval": check_interval, "quiet": quiet, "label": self.id}
        outcome = next(gather.as_completed([self], timeout=seconds, others=sync_all, **options))
        return self.finish(outcome, quiet=quiet)

    def finish(self, outcome: Outcome, *, quiet: bool = False) -> tuple[Any, str, str]:
        """Return an outcome as (value, stdout, stderr) with the output files copied here, or raise its error."""
        if isinstance(outcome.error, AuthenticationError) and self.status == SUCCEEDED:
            self._condemn(str(outcome.error))
        if outcome.error is not None:
            if not quiet and not isinstance(outcome.error, ExPyReError | ExPyReTimeoutError):
                _show_failure(self, outcome)
            raise outcome.error
        for missing in stage.copy_outputs(self.stage_dir, Path.cwd()):
            log.warning("job %s: output file %r was not written; its result is returned all the same", self.id, missing)
        return outcome.value, outcome.stdout, outcome.stderr

    def _condemn(self, why: str) -> None:
        """Record that a result cannot be used, so that the next run computes it anew."""
        self.project.record.step([Change(self.id, status=FAILED, note=why)], force=True)
        self._reread()

    def sync_remote_results_status(
        self, sync_all: bool = True, force_sync: bool = False, verbose: bool = False
    ) -> None:
        """Look once at this job, or at all ongoing jobs of its system, and record what was found."""
        rows = [self._reread()]
        if sync_all and self.system_name is not None:
            status = None if force_sync else list(GROUPS["ongoing"])
            rows = [row for row in self.project.record.query(status=status) if row.system == self.system_name]
        gather.sync(self.project, rows)
        self._reread()

    def mark_processed(self) -> None:
        """Record that the results are stored elsewhere: the job is not used again and may be cleaned."""
        self.project.record.step([Change(self.id, status=PROCESSED)], force=True)
        self._reread()

    def clean(
        self, wipe: bool = False, dry_run: bool = False, remote_only: bool = False, verbose: bool = False
    ) -> None:
        """Remove the large files of the job, or with ``wipe`` all of them.

        Parameters
        ----------
        wipe
            Remove the job's directories.
        dry_run
            Only log what would be done.
        remote_only
            With ``wipe``: leave the directory on this machine.
        """
        system = self.system
        if system is not None:
            system.clean_rundir(self.stage_dir, None if wipe else list(stage.LARGE_FILES), dry_run=dry_run)
        if dry_run:
            log.info("dry run: would %s %s", "remove" if wipe else "clean", self.stage_dir)
            return
        if not wipe:
            stage.clean(self.stage_dir)
        elif not remote_only:
            _remove_tree(self.stage_dir)
        self.project.record.step([Change(self.id, status=CLEANED)], force=True)
        self._reread()

    def cancel(self, verbose: bool = False) -> None:
        """Ask the queue to end the job, if it is on its way; never raises for what the queue says.

        A job that waits for room in the queue is not submitted any more.
        """
        if not self.remote_id and withdraw(self.project, [self._reread()], "cancelled"):
            self._reread()
        if self.remote_id and self.system is not None and self.status in GROUPS["ongoing"]:
            try:
                self.system.scheduler.cancel([self.remote_id])
                self.project.record.step([gather.cancelled(self.id, "cancelled")])
            except ExPyReError as error:
                log.warning("job %s could not be cancelled: %s", self.id, error)

    @staticmethod
    def from_jobsdb(
        db_jobs: Mapping[str, Any] | JobRow | Iterable[Mapping[str, Any] | JobRow], project: Project | None = None
    ) -> list[ExPyRe]:
        """Return handles on recorded jobs, given one row or the rows that `JobsDB.jobs` or `JobsDB.query` yield.

        Raises
        ------
        JobNotFoundError
            The record of the project (the default one unless given) has no such job.
        """
        project = project or config.project()
        jobs = [db_jobs] if isinstance(db_jobs, Mapping | JobRow) else list(db_jobs)
        ids = [job["id"] if isinstance(job, Mapping) else job.id for job in jobs]
        rows = project.record.rows(ids)
        return [
            ExPyRe._from_prepared(project, Prepared(rows.get(i) or project.record.row(i), recreated=True)) for i in ids
        ]

    _copy = staticmethod(stage.copy_glob)


def create_jobs(calls: Sequence[Call], project: Project | None = None, *, try_restart: bool = True) -> list[ExPyRe]:
    """Return the job of each call, in order, finding known ones and staging the rest in bulk.

    Raises
    ------
    InvalidCallError, KeyUnstableError, StageError
        See `expyre.calls.prepare`.
    """
    project = project or config.project()
    found = prepare(project, calls, try_restart=try_restart, dry_run=plan.active())
    return [ExPyRe._from_prepared(project, one) for one in found]


def _remove_tree(directory: Path) -> None:
    if not directory.name.startswith("run_"):
        raise StageError(f"refusing to remove {directory}: it is no job's directory")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def _show_failure(job: ExPyRe, outcome: Outcome) -> None:
    streams = stage.streams(job.stage_dir, job.id)
    parts = {
        "stdout": streams.stdout,
        "stderr": streams.stderr,
        "job stdout": streams.job_stdout,
        "job stderr": streams.job_stderr,
    }
    text = "".join(f"--- {name}\n{value.rstrip()}\n" for name, value in parts.items() if value.strip())
    sys.stderr.write(f"job {job.id} raised {type(outcome.error).__name__}: {outcome.error}\n{text}")
