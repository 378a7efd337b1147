"""What every queue system has in common: the job script, its header, and what a queue can be asked."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from expyre.errors import ExPyReError
from expyre.schedulers.text import format_header, header_extra_from_environment
from expyre.states import DONE, UNKNOWN, End
from expyre.transports import Transport, connect, quoted_directory
from expyre.units import time_to_HMS

IGNORE_ENV_VARIABLE: Final = "WFL_SCHEDULER_IGNORE_ENV"


@dataclass(frozen=True)
class Submission:
    """One job for the queue.

    Attributes
    ----------
    id
        Id of the job, unique, any text without ``/``.
    directory
        Where it runs; if not absolute, below the home on the host.
    partition
        What the queue system calls the partition.
    commands
        Lines of the script: the system's, then the job's.
    max_time
        Time limit in s, None for none.
    header
        Header lines; templates, see `format_header`.
    nodes
        ``num_nodes``, ``num_cores``, ``num_cores_per_node``, and where asked for ``num_gpus`` (per node) and
        ``max_mem`` (kB, total).
    token
        What the job can be found by in the queue before its remote id is known; the same token is never submitted
        twice.
    no_default_header
        Leave out the header lines that every job gets.
    script_exec
        What follows ``#!``.
    partition_limit
        The specification of the partition (``num_cores``, ``max_mem``, …).
    """

    id: str
    directory: str
    partition: str
    commands: tuple[str, ...]
    max_time: int | None = None
    header: tuple[str, ...] = ()
    nodes: Mapping[str, Any] = field(default_factory=dict)
    token: str = ""
    no_default_header: bool = False
    script_exec: str = "/bin/bash"
    partition_limit: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Listing:
    """What the queue says of a job: a word of `expyre.states`, its reason, the queue's own words."""

    state: str
    reason: str = ""
    raw: str = ""


class Scheduler(ABC):
    """A queue system on a host.

    Parameters
    ----------
    host
        ``[user@]host``, None for this machine.
    remsh_cmd
        Remote shell command.
    transport
        Way to the host; None opens one when it is needed.
    options
        Options of the queue system from the configuration.
    """

    name: ClassVar[str]
    """Name in the configuration, and end of the name of the job script."""
    default_header: ClassVar[tuple[str, ...]] = ()
    """Header lines of every job, templates; those with ``{max_time}`` are left out for jobs without a limit."""
    hold_command: ClassVar[list[str]] = []
    release_command: ClassVar[list[str]] = []
    cancel_command: ClassVar[list[str]] = []
    cores_per_node_command: ClassVar[str] = ""
    """Shell expression for the cores per node that the queue has granted; empty: those asked for."""
    shares_nodes: ClassVar[bool] = False
    """Whether a request for cores always gets just these cores, as with ``partial_node=True``."""
    option_kinds: ClassVar[Mapping[str, str]] = {}
    """The options there are, and of what kind each is: boolean, count, seconds, text, text or null, mapping, or the
    words that it may be, separated by bars."""
    script_in_directory: ClassVar[bool] = False
    """Whether the job script has to be in the job's directory when the job is submitted."""
    poll_range: ClassVar[tuple[float, float]] = (1.0, 30.0)
    """Shortest and longest sensible time in s between two listings."""

    def __init__(
        self,
        host: str | None,
        remsh_cmd: str | Sequence[str] | None = None,
        transport: Transport | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.host = host
        self.remsh_cmd = remsh_cmd
        self.options = dict(options or {})
        self._transport = transport

    @property
    def transport(self) -> Transport:
        """The way to the host."""
        if self._transport is None:
            self._transport = connect(self.host, None, self.remsh_cmd)
        return self._transport

    # -- the script ----------------------------------------------------------------------------------------------

    @property
    def script_name(self) -> str:
        """Name of the job script in the job's directory."""
        return f"job.script.{self.name}"

    def script(self, sub: Submission) -> str:
        """Return the text of the job script.

        Raises
        ------
        RequestError
            A header line has an unknown key.
        """
        lines = [f"#!{sub.script_exec}", *self.header(sub), *self.node_dict_env_var_commands(sub.nodes)]
        lines += time_limit_commands(sub.max_time)
        lines += [f"cd {quoted_directory(sub.directory)} || exit 1", *sub.commands]
        return "\n".join(lines) + "\n"

    def header(self, sub: Submission) -> list[str]:
        """Return the header lines: the request's, the defaults, those of the environment."""
        default = () if sub.no_default_header else self.default_header
        if sub.max_time is None:
            default = tuple(line for line in default if "{max_time" not in line)
        return format_header([*sub.header, *default, *header_extra_from_environment()], self.header_values(sub))

    def header_values(self, sub: Submission) -> dict[str, Any]:
        """Return the keys that header lines may use."""
        nodes = {"num_nodes": None, "num_cores": None, "num_cores_per_node": None, **sub.nodes}
        max_time = "UNLIMITED" if sub.max_time is None else time_to_HMS(sub.max_time)
        return {
            **nodes,
            "id": self.job_name(sub.id),
            "max_time": max_time,
            "max_time_HMS": max_time,
            "partition": sub.partition,
            "queue": sub.partition,
            "nnodes": nodes["num_nodes"],
            "ppn": nodes["num_cores_per_node"],
            "num_gpus": nodes.get("num_gpus") or 0,
            "max_mem_kB": nodes.get("max_mem") or 0,
        }

    def job_name(self, id: str) -> str:
        """Return what the queue is told as the name of the job."""
        return id

    @classmethod
    def node_dict_env_var_commands(cls, node_dict: Mapping[str, Any]) -> list[str]:
        """Return the shell lines that tell a job how many nodes and cores it has.

        What is missing in ``node_dict`` is derived from the rest when the job runs.
        """
        nodes, cores = node_dict.get("num_nodes"), node_dict.get("num_cores")
        per_node = cls.cores_per_node_command or node_dict.get("num_cores_per_node")
        if per_node is None:
            per_node = -(-int(cores) // int(nodes)) if cores and nodes else 1
        have = "$EXPYRE_NUM_CORES_PER_NODE"
        if nodes is None:
            nodes = 1 if cores is None else f"$(( ({cores} + {have} - 1) / {have} ))"
        if cores is None:
            cores = f"$(( {nodes} * {have} ))" if isinstance(nodes, int) else have
        return [
            f"export EXPYRE_NUM_CORES_PER_NODE={per_node}",
            f"export EXPYRE_NCORES_PER_NODE={have}",
            f"export EXPYRE_NUM_NODES={nodes}",
            f"export EXPYRE_NUM_CORES={cores}",
        ]

    @staticmethod
    def unset_scheduler_env_vars(prefix: str) -> list[str]:
        """Return the shell lines that make the submitting shell forget the job it may itself be in.

        Empty unless ``WFL_SCHEDULER_IGNORE_ENV`` is set.

        Parameters
        ----------
        prefix
            How the variables begin: ``SLURM``, ``PBS``, ``SGE``.
        """
        if IGNORE_ENV_VARIABLE not in os.environ:
            return []
        start = prefix.rstrip("_") + "_"
        return [f"unset {name}" for name in sorted(os.environ) if name.startswith(start) and _is_name(name)]

    # -- the queue -----------------------------------------------------------------------------------------------

    @abstractmethod
    def submit_many(
        self, subs: Sequence[Submission], pre_submit_cmds: Sequence[str] = ()
    ) -> dict[str, str | ExPyReError]:
        """Submit jobs; return the remote id, or why the queue refused, by id of the job.

        A token that the queue knows already is not submitted again: its job's remote id is returned.

        Raises
        ------
        TransportError, SchedulerError
            It is not known what became of the submission; ask `find` for the tokens before trying again.
        """

    @abstractmethod
    def find(self, tokens: Sequence[str], place: str = "") -> dict[str, str]:
        """Return the remote ids of the jobs submitted with these tokens, as far as the queue has got such jobs.

        A submission of which only a part has happened is finished or made impossible first: what is not among the
        answers may be submitted again.

        Parameters
        ----------
        tokens
            What the jobs were submitted with.
        place
            The directory on the host in which the jobs' directories lie.
        """

    def listing_script(self, remote_ids: Sequence[str]) -> str | None:
        """Return the shell script whose output `parse_listing` reads; None where only `listing` can ask the queue."""
        return None

    def parse_listing(self, text: str, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the output of the script of `listing_script` says of jobs; see `listing`.

        Raises
        ------
        SchedulerError
            The queue could not be asked, or its answer is damaged.
        """
        raise NotImplementedError

    @abstractmethod
    def listing(self, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the queue says of jobs; those it does not know are left out.

        Raises
        ------
        SchedulerError, TransportError
            The queue could not be asked.
        """

    def explain(self, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that have ended and of which the queue remembers it.

        The reason is `expyre.states.END_COMPLETED` for those that ended by themselves with exit code 0.
        """
        return {}

    def why_pending(self, remote_ids: Sequence[str]) -> dict[str, str]:
        """Return why waiting jobs do not run yet, in words."""
        return {id: listing.reason for id, listing in self.listing(remote_ids).items() if listing.reason}

    @abstractmethod
    def hold(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """Keep waiting jobs from starting."""

    @abstractmethod
    def release(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """Let held jobs start again."""

    @abstractmethod
    def cancel(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """End jobs, waiting or running; those that are gone already are no error."""

    def submit(
        self,
        id: str,
        remote_dir: str | os.PathLike[str],
        partition: str,
        commands: Sequence[str],
        max_time: int | None,
        header: Sequence[str],
        node_dict: Mapping[str, Any],
        no_default_header: bool = False,
        script_exec: str = "/bin/bash",
        pre_submit_cmds: Sequence[str] = (),
        verbose: bool = False,
    ) -> str:
        """Write the script of one job into its directory, submit it and return its remote id.

        Raises
        ------
        SubmitFailed
            The queue refused it.
        """
        sub = Submission(
            id=id,
            directory=os.fspath(remote_dir),
            partition=partition,
            commands=tuple(commands),
            max_time=max_time,
            header=tuple(header),
            nodes=dict(node_dict),
            no_default_header=no_default_header,
            script_exec=script_exec,
        )
        answer = self.submit_with_script(sub, pre_submit_cmds)
        if isinstance(answer, ExPyReError):
            raise answer
        return answer

    def submit_with_script(self, sub: Submission, pre_submit_cmds: Sequence[str]) -> str | ExPyReError:
        """Submit a job whose script is not in its directory yet; return the queue's answer."""
        return self.submit_many([sub], pre_submit_cmds)[sub.id]

    def status(self, remote_ids: str | Sequence[str], verbose: bool = False) -> dict[str, str]:
        """Return a status word for every id; ``done`` for those that the queue does not list.

        Use `listing` to tell a job that is done from one that the queue has never heard of.
        """
        ids = as_list(remote_ids)
        listings = self.listing(ids)
        return {id: listings[id].state if id in listings else DONE for id in ids}


def time_limit_commands(max_time: int | None) -> list[str]:
    """Return the shell lines that tell a job its time limit in s and when it started, in s since the epoch."""
    if max_time is None:
        return ["unset EXPYRE_MAX_TIME EXPYRE_JOB_STARTED"]  # of a job that has submitted this one
    return [f"export EXPYRE_MAX_TIME={max_time}", 'export EXPYRE_JOB_STARTED="$(date +%s)"']


def as_list(remote_ids: str | Sequence[str]) -> list[str]:
    """Return one id or several as a list of strings."""
    return [remote_ids] if isinstance(remote_ids, str) else [str(id) for id in remote_ids]


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None


UNLISTED: Final = Listing(UNKNOWN)
"""What is known of a job that the queue does not list."""
