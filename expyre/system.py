"""A system: a host, its queue system and its partitions; stages, submits, looks at and brings back jobs in bulk."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre import stage
from expyre.errors import ExPyReError, RequestError, StageError, SubmitFailed
from expyre.rundir import RunDir
from expyre.schedulers import schedulers
from expyre.schedulers.base import Listing, Scheduler, Submission
from expyre.states import ALIVE, UNKNOWN, End, Evidence
from expyre.steps import step
from expyre.subprocess import subprocess_run
from expyre.transports import Transport, connect
from expyre.units import mem_to_kB, time_to_sec

if TYPE_CHECKING:
    from expyre.resources import Resources

__all__ = ["Launch", "Look", "Submitted", "System"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """A staged job on its way to the queue."""

    id: str
    stage_dir: Path
    resources: Resources
    commands: tuple[str, ...]
    token: str = ""
    header_extra: tuple[str, ...] = ()
    exact_fit: bool = True
    partial_node: bool = False


@dataclass(frozen=True)
class Submitted:
    """The queue's answer to a launch."""

    remote_id: str
    partition: str
    nodes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What one look found of one job.

    Attributes
    ----------
    queue
        The queue's word.
    markers
        Which files the job has left.
    end
        How the job ended, if the queue says so.
    reason
        The queue's reason for its word.
    told
        Whether the queue could be asked at all.
    """

    queue: str
    markers: stage.Markers
    end: End | None = None
    reason: str = ""
    told: bool = True

    def evidence(self, unknown_for: float) -> Evidence:
        """Return the look as evidence about a job that the queue has not known for ``unknown_for`` seconds."""
        m = self.markers
        return Evidence(m.succeeded, m.failed, m.started, self.queue, self.end, unknown_for)


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
        self._transport_kind = transport
        self._transport: Transport | None = None
        self.scheduler = self._make_scheduler(scheduler, scheduler_options)

    def _make_scheduler(self, scheduler: str | type[Scheduler], options: Mapping[str, Any] | None) -> Scheduler:
        if not isinstance(scheduler, str):
            return scheduler(self.host)
        if scheduler not in schedulers:
            raise RequestError(f"unknown scheduler {scheduler!r}; known are: {', '.join(sorted(schedulers))}")
        return schedulers[scheduler](self.host, remsh_cmd=self.remsh_cmd, transport=self.transport, options=options)

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

    def submit_many(self, launches: Sequence[Launch]) -> dict[str, Submitted | ExPyReError]:
        """Send the files of all jobs, then submit them all.

        A job that the queue has refused keeps nothing on the host. Returns the queue's answer by job id.
        """
        answers: dict[str, Submitted | ExPyReError] = {}
        prepared: dict[str, tuple[str, Submission]] = {}
        for launch in launches:
            try:
                prepared[launch.id] = self.prepare(launch)
            except ExPyReError as error:
                answers[launch.id] = error
        ready = [launch for launch in launches if launch.id in prepared]
        self._send(ready)
        step("submit.2")
        accepted = self.scheduler.submit_many([prepared[x.id][1] for x in ready], self.pre_submit_cmds) if ready else {}
        step("submit.3")
        for launch in ready:
            partition, submission = prepared[launch.id]
            answers[launch.id] = _answer(launch.id, accepted.get(launch.id), partition, submission)
        refused = [x.stage_dir.name for x in ready if isinstance(answers[x.id], ExPyReError)]
        if refused and self.remote_rundir is not None:
            self.rundir.remove(refused)
        return answers

    def _send(self, launches: Sequence[Launch]) -> None:
        if self.remote_rundir is None or not launches:
            return
        self.initialize_remote_rundir()
        self.rundir.send([x.stage_dir for x in launches])

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

        The order matters: a job that ends in between has its files seen.

        Parameters
        ----------
        jobs
            Job id to (remote id, stage directory).
        """
        listings, told = self._listings([remote_id for remote_id, _ in jobs.values() if remote_id])
        step("gather.1")
        stage_dirs = [stage_dir for _, stage_dir in jobs.values()]
        if self.remote_rundir is None:
            markers = [stage.markers(stage_dir) for stage_dir in stage_dirs]
        else:
            markers = self.rundir.markers([stage_dir.name for stage_dir in stage_dirs])
        ended = [
            remote_id
            for (remote_id, _), mark in zip(jobs.values(), markers, strict=True)
            if remote_id and told and not mark.ended and listings.get(remote_id, _UNLISTED).state not in ALIVE
        ]
        ends = self._ends(ended)
        return {
            job_id: Look(listing.state, mark, ends.get(remote_id or ""), listing.reason, told)
            for (job_id, (remote_id, _)), mark in zip(jobs.items(), markers, strict=True)
            for listing in [listings.get(remote_id or "", _UNLISTED)]
        }

    def _listings(self, remote_ids: Sequence[str]) -> tuple[dict[str, Listing], bool]:
        if not remote_ids:
            return {}, False
        try:
            return self.scheduler.listing(remote_ids), True
        except ExPyReError as error:
            # not to be able to ask says nothing about any job
            log.warning("the queue of %s could not be asked: %s", self.host or "this machine", error)
            return {}, False

    def _ends(self, remote_ids: Sequence[str]) -> dict[str, End]:
        if not remote_ids:
            return {}
        try:
            return self.scheduler.explain(remote_ids)
        except ExPyReError as error:
            log.warning("the queue of %s does not say how jobs ended: %s", self.host or "this machine", error)
            return {}

    def collect(self, stage_dirs: Sequence[Path]) -> None:
        """Bring the files of jobs back into their stage directories, in one stream."""
        if self.remote_rundir is not None:
            self.rundir.fetch([stage_dir.name for stage_dir in stage_dirs], stage_dirs[0].parent)

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
            for path in (path for name in names for path in (Path(local_dir) / name).rglob("*") if not path.is_dir()):
                if str(path.relative_to(local_dir)) not in there:
                    path.unlink()

    def clean_rundir(
        self,
        stage_dir: Path | str,
        filenames: Sequence[str] | None,
        dry_run: bool = False,
        verbose: bool = False,
    ) -> None:
        """Overwrite files of a job on the host with ``CLEANED``, or remove its directory if ``filenames`` is None."""
        if self.remote_rundir is None:
            return
        name = Path(stage_dir).name
        if dry_run:
            what = "remove" if filenames is None else f"clean {', '.join(filenames)} of"
            log.info("dry run: would %s %s/%s on %s", what, self.remote_rundir, name, self.host or "this machine")
        elif filenames is None:
            self.rundir.remove([name])
        else:
            self.rundir.clean(name, filenames)


_UNLISTED = Listing(UNKNOWN)


def _answer(job_id: str, answer: str | ExPyReError | None, partition: str, sub: Submission) -> Submitted | ExPyReError:
    if answer is None:
        return SubmitFailed(f"the queue gave no answer for job {job_id}")
    return answer if isinstance(answer, ExPyReError) else Submitted(answer, partition, dict(sub.nodes))


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
        rundir = str(Path.home() / rundir)
    return f"{rundir}/{extra}" if extra else rundir
