"""A system: a host, its queue system and its partitions; sends, submits, looks at and brings back jobs in bulk."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre.errors import ExPyReError, RequestError, StageError, SubmitFailed
from expyre.schedulers import schedulers
from expyre.schedulers.base import Scheduler, Submission
from expyre.steps import step
from expyre.subprocess import subprocess_run
from expyre.system.looking import look
from expyre.system.model import Launch, Look, Submitted
from expyre.system.rundir import RunDir
from expyre.system.turns import Turns
from expyre.transports import Transport, connect
from expyre.units import mem_to_kB, time_to_sec

if TYPE_CHECKING:
    from expyre.resources import Resources

__all__ = ["System"]

log = logging.getLogger(__name__)


class System:
    """A place where jobs run.

    Parameters
    ----------
    host
        ``[user@]host``, or None for this machine.
    scheduler
        Name of the queue system, or a class called as ``scheduler(host)``.
    header
        Header lines of every job script; templates (``{num_nodes}``, ``{partition}``, …).
    no_default_header
        Leave out the header lines that the queue system's class would add.
    script_exec
        What follows ``#!`` in the job script.
    pre_submit_cmds
        Shell words run before submission, in the submitting shell.
    commands
        Lines at the start of every job script.
    rundir
        Directory on the host under which jobs run; None on this machine: jobs run where they are staged.
    rundir_extra
        Project's own part of the run directory.
    remsh_cmd
        Remote shell command.
    partitions, queues
        Name to node specification (``num_cores``, ``max_time``, ``max_mem``, …); one of the two.
    transport
        ``local``, ``paramiko`` or ``openssh``; None chooses.
    max_queued
        Most jobs of this project in the queue at once; None for no limit.
    array
        Whether jobs of equal resources may be submitted as one array.
    retry
        Default policy for jobs that died.
    scheduler_options
        Options of the queue system's class.

    Raises
    ------
    RequestError
        Both ``partitions`` and ``queues`` are given, or the queue system is not known.
    """

    def __init__(
        self,
        host: str | None,
        scheduler: str | type[Scheduler],
        header: Sequence[str] = (),
        no_default_header: bool = False,
        script_exec: str = "/bin/bash",
        pre_submit_cmds: Sequence[str] = (),
        commands: Sequence[str] = (),
        rundir: str | None = None,
        rundir_extra: str | None = None,
        remsh_cmd: str | Sequence[str] | None = None,
        partitions: Mapping[str, Mapping[str, Any]] | None = None,
        queues: Mapping[str, Mapping[str, Any]] | None = None,
        transport: str | None = None,
        max_queued: int | None = None,
        array: bool = True,
        retry: Any = None,
        scheduler_options: Mapping[str, Any] | None = None,
    ) -> None:
        if partitions is not None and queues is not None:
            raise RequestError("a system takes either 'partitions' or 'queues', not both")
        self.host = host
        self.remsh_cmd = remsh_cmd
        self.queuing_sys_header = list(header)
        self.no_default_header = no_default_header
        self.script_exec = script_exec
        self.pre_submit_cmds = list(pre_submit_cmds)
        self.commands = list(commands)
        self.partitions = _in_plain_units(partitions if partitions is not None else queues)
        self.remote_rundir = _remote_rundir(host, rundir, rundir_extra)
        self.max_queued = max_queued
        self.array = array
        self.retry = retry
        self.initialized = False
        self.turns = Turns()
        self._transport_kind = transport
        self._transport: Transport | None = None
        self.scheduler = self._make_scheduler(scheduler, scheduler_options)

    def _make_scheduler(self, scheduler: str | type[Scheduler], options: Mapping[str, Any] | None) -> Scheduler:
        if not isinstance(scheduler, str):
            return scheduler(self.host)
        if scheduler not in schedulers:
            raise RequestError(f"unknown scheduler {scheduler!r}; known are: {', '.join(sorted(schedulers))}")
        given = {"array": self.array, **(options or {})}
        return schedulers[scheduler](self.host, remsh_cmd=self.remsh_cmd, transport=self.transport, options=given)

    @property
    def transport(self) -> Transport:
        """The way to the host, opened at first use and kept."""
        if self._transport is None:
            self._transport = connect(self.host, self._transport_kind, self.remsh_cmd)
        return self._transport

    @property
    def rundir(self) -> RunDir:
        """The run directory on the host.

        Raises
        ------
        RequestError
            Jobs of this system run where they are staged.
        """
        if self.remote_rundir is None:
            raise RequestError("this system has no run directory: its jobs run where they are staged")
        return RunDir(self.transport, self.remote_rundir)

    def __str__(self) -> str:
        names = " ".join(self.partitions or ())
        return (
            f"System: host {self.host} rundir {self.remote_rundir} scheduler {type(self.scheduler).__name__}\n{names}"
        )

    def __repr__(self) -> str:
        return f"<System host={self.host!r} scheduler={type(self.scheduler).__name__}>"

    def job_dir(self, stage_dir: Path) -> str:
        """Return the directory on the host in which the job staged in ``stage_dir`` runs."""
        return str(stage_dir) if self.remote_rundir is None else f"{self.remote_rundir}/{stage_dir.name}"

    def run(
        self, args: Sequence[str], script: str | None = None, shell: str = "bash -c", **options: Any
    ) -> tuple[str, str]:
        """Run a command on the host; see `expyre.subprocess.subprocess_run`. Returns (stdout, stderr)."""
        return subprocess_run(self.host, args, script=script, shell=shell, remsh_cmd=self.remsh_cmd, **options)

    def initialize_remote_rundir(self, verbose: bool = False) -> None:
        """Make the run directory on the host, readable by its owner only; once per object."""
        if not self.initialized and self.remote_rundir is not None:
            self.rundir.make()
            self.initialized = True

    def check(
        self, resources: Resources, exact_fit: bool = True, partial_node: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """Return partition and nodes for a request.

        Raises
        ------
        RequestError
            No partition fits; the message says why for each.
        """
        partial_node = partial_node or self.scheduler.shares_nodes
        partition, found = resources.find_nodes(self.partitions or {}, exact_fit=exact_fit, partial_node=partial_node)
        nodes: dict[str, Any] = dict(found)
        memory = resources.total_mem(found)
        return partition, nodes if memory is None else {**nodes, "max_mem": memory}

    def prepare(self, launch: Launch) -> tuple[str, Submission]:
        """Return the partition's key and the submission that a launch comes to on this system."""
        partition, nodes = self.check(launch.resources, launch.exact_fit, launch.partial_node)
        spec = dict((self.partitions or {})[partition])
        max_time = launch.resources.max_time
        return partition, Submission(
            id=launch.id,
            directory=self.job_dir(launch.stage_dir),
            partition=spec.get("partition", partition),
            commands=(*self.commands, *launch.commands),
            max_time=spec.get("max_time") if max_time is None else max_time,
            header=(*self.queuing_sys_header, *spec.get("header", ()), *launch.header_extra),
            nodes=nodes,
            token=launch.token,
            no_default_header=self.no_default_header,
            script_exec=self.script_exec,
            partition_limit=spec,
        )

    def submit_many(
        self, launches: Sequence[Launch], still_mine: Callable[[Collection[str]], Collection[str]] | None = None
    ) -> dict[str, Submitted | ExPyReError]:
        """Send the files of all jobs, then submit them all.

        A job that the queue has refused keeps nothing on the host. Returns the queue's answer by job id.

        Parameters
        ----------
        launches
            The jobs.
        still_mine
            Asked, after the transfer, which of these jobs are still to be submitted; the others get no answer.
        """
        answers: dict[str, Submitted | ExPyReError] = {}
        prepared: dict[str, tuple[str, Submission]] = {}
        for launch in launches:
            try:
                prepared[launch.id] = self.prepare(launch)
            except ExPyReError as error:
                answers[launch.id] = error
        ready = [launch for launch in launches if launch.id in prepared]
        self._write_scripts(ready, prepared)
        self._send(ready)
        step("submit.2")
        mine = {x.id for x in ready} if still_mine is None else set(still_mine([x.id for x in ready]))
        ready = [x for x in ready if x.id in mine]
        accepted = self.scheduler.submit_many([prepared[x.id][1] for x in ready], self.pre_submit_cmds) if ready else {}
        step("submit.3")
        for launch in ready:
            partition, submission = prepared[launch.id]
            answers[launch.id] = _answer(launch.id, accepted.get(launch.id), partition, submission)
        self._remove([x.stage_dir for x in ready if isinstance(answers[x.id], ExPyReError)])
        return answers

    def _write_scripts(self, launches: Sequence[Launch], prepared: Mapping[str, tuple[str, Submission]]) -> None:
        """Put the scripts into the jobs' directories, for queues that take them from there."""
        if not self.scheduler.script_in_directory:
            return
        for launch in launches:
            script = self.scheduler.script(prepared[launch.id][1])
            path = os.path.join(launch.stage_dir, self.scheduler.script_name)
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(script)

    def _send(self, launches: Sequence[Launch]) -> None:
        if self.remote_rundir is not None and launches:
            self.rundir.send([x.stage_dir for x in launches])
            self.initialized = True

    def _remove(self, stage_dirs: Sequence[Path]) -> None:
        if self.remote_rundir is not None:
            self.rundir.remove([stage_dir.name for stage_dir in stage_dirs])

    def find(self, tokens: Sequence[str], stage_root: Path) -> dict[str, str]:
        """Return the remote ids of the jobs that were submitted with these tokens.

        Parameters
        ----------
        tokens
            What the jobs were submitted with.
        stage_root
            Where they are staged, which is where they run if the system has no run directory.
        """
        return self.scheduler.find(tokens, self.remote_rundir or str(stage_root))

    def submit(
        self,
        id: str,
        stage_dir: Path | str,
        resources: Resources,
        commands: Sequence[str],
        header_extra: Sequence[str] = (),
        exact_fit: bool = True,
        partial_node: bool = False,
        verbose: bool = False,
    ) -> str:
        """Send and submit one job.

        Raises
        ------
        StageError
            The job's directory is on the host already.
        SubmitFailed
            The queue refused the job; its directory on the host was removed.
        """
        stage_dir = Path(stage_dir)
        if self.remote_rundir is not None and self.rundir.holds(stage_dir.name):
            raise StageError(
                f"{self.job_dir(stage_dir)} on {self.host or 'this machine'} exists already; clean it first"
            )
        launch = Launch(id, stage_dir, resources, tuple(commands), "", tuple(header_extra), exact_fit, partial_node)
        answer = self.submit_many([launch])[id]
        if isinstance(answer, ExPyReError):
            raise answer
        return answer.remote_id

    def look(self, jobs: Mapping[str, tuple[str | None, Path]]) -> dict[str, Look]:
        """Look at jobs: the queue first, their files after it, then the reason of ends that left no files.

        Parameters
        ----------
        jobs
            Job id to (remote id, stage directory).
        """
        return look(self.scheduler, None if self.remote_rundir is None else self.rundir, jobs)

    def collect(self, stage_dirs: Sequence[Path]) -> None:
        """Bring the files of jobs back into their stage directories, in one stream."""
        if self.remote_rundir is not None:
            written_here = [self.scheduler.script_name] if self.scheduler.script_in_directory else []
            self.rundir.fetch([stage_dir.name for stage_dir in stage_dirs], stage_dirs[0].parent, written_here)

    def collect_files(self, stage_dir: Path, files: Sequence[str]) -> None:
        """Bring some files of a job back into its stage directory, as they are now; those not there are left out."""
        if self.remote_rundir is not None:
            self.rundir.fetch_files(stage_dir.name, files, stage_dir)

    def get_remotes(
        self,
        local_dir: Path | str,
        subdir_glob: str | Sequence[str] | None = None,
        delete: bool = False,
        verbose: bool = False,
    ) -> None:
        """Bring back the directories of jobs: all, those of a glob, or a list of names.

        With ``delete`` remove what these directories have here but not there.
        """
        if self.remote_rundir is None:
            return
        globs = ["*"] if subdir_glob is None else [subdir_glob] if isinstance(subdir_glob, str) else list(subdir_glob)
        names = self.rundir.glob(globs)
        self.rundir.fetch(names, Path(local_dir))
        if delete and names:
            there = self.rundir.files(names)
            for path in (path for name in names for path in _files_below(Path(local_dir) / name)):
                if str(path.relative_to(local_dir)) not in there:
                    path.unlink()

    def clean_rundir(
        self,
        stage_dir: Path | str | Sequence[Path],
        filenames: Sequence[str] | None,
        dry_run: bool = False,
        verbose: bool = False,
    ) -> None:
        """Overwrite files of jobs on the host with ``CLEANED``, or remove their directories if ``filenames`` is None.

        Parameters
        ----------
        stage_dir
            Stage directory of the job, or of several.
        filenames
            Names of the files.
        dry_run
            Only log what would be done.
        """
        if self.remote_rundir is None:
            return
        directories = [stage_dir] if isinstance(stage_dir, str | Path) else stage_dir
        names = [Path(directory).name for directory in directories]
        if dry_run:
            what = "remove" if filenames is None else f"clean {', '.join(filenames)} of"
            log.info("dry run: would %s %s in %s", what, ", ".join(names), self.place)
        elif filenames is None:
            self.rundir.remove(names)
        else:
            self.rundir.clean(names, filenames)

    @property
    def place(self) -> str:
        """The run directory and its host, for messages."""
        return f"{self.remote_rundir} on {self.host or 'this machine'}"


def _answer(job_id: str, answer: str | ExPyReError | None, partition: str, sub: Submission) -> Submitted | ExPyReError:
    if answer is None:
        return SubmitFailed(f"the queue gave no answer for job {job_id}")
    return answer if isinstance(answer, ExPyReError) else Submitted(answer, partition, dict(sub.nodes))


def _files_below(directory: Path) -> list[Path]:
    """Return what is in a directory and is none; nothing if that is a link to somewhere else."""
    if directory.is_symlink():
        return []
    return [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]


def _in_plain_units(partitions: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
    """Return partitions with times in seconds and memory in kB."""
    if partitions is None:
        return None
    return {
        name: {**spec, "max_time": time_to_sec(spec.get("max_time")), "max_mem": mem_to_kB(spec.get("max_mem"))}
        for name, spec in partitions.items()
    }


def _remote_rundir(host: str | None, rundir: str | None, extra: str | None) -> str | None:
    if rundir is None:
        if host is None:
            return None
        rundir = "run_expyre"
    rundir = rundir.rstrip("/")
    if host is None and not rundir.startswith("/"):
        rundir = str(Path.home() / re.sub(r"^(~|\$HOME|\$\{HOME\})(/|$)", "", rundir))
    return f"{rundir}/{extra}" if extra else rundir
