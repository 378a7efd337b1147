"""What a call asks for that becomes a job of a system, and what that comes to there."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from expyre.calls import Call
from expyre.errors import RequestError
from expyre.executor.requests import Mistakes, Request, natural, positive, truth
from expyre.node.ranks.request import Ranks
from expyre.node.serving.placing import THREAD_VARIABLES
from expyre.resources import Resources
from expyre.stage.task import StageRequest, check_request
from expyre.units import mem_to_kB

if TYPE_CHECKING:
    from typing_extensions import Self

    from expyre.launch import LaunchOptions
    from expyre.system import System

__all__ = ["JobRequest"]


def texts(value: Any) -> tuple[str, ...]:
    """Return a text, or a list of them, as a tuple."""
    items = [value] if isinstance(value, str | os.PathLike) else list(value)
    if not all(isinstance(item, str | os.PathLike) for item in items):
        raise TypeError("must be a text or a list of texts")
    return tuple(os.fspath(item) for item in items)


def text(value: Any) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise TypeError("must be a text")
    return value


def memory(value: Any) -> int | None:
    """Return a size of memory in kB."""
    return mem_to_kB(value)


def job_name(value: Any) -> str:
    """Return a name that a job may have."""
    Call(value, len).check()
    return str(value)


def arguments(value: Any) -> tuple[int | str, ...]:
    """Return positions and names of arguments."""
    items = (value,) if isinstance(value, int | str) else tuple(value)
    return tuple(item if isinstance(item, str) else natural(item) for item in items)


@dataclass(frozen=True)
class JobRequest(Request):
    """What one call asks for that becomes a job.

    Attributes
    ----------
    max_mem_tot, max_mem_per_core
        Memory in kB, of the job or of each core; None for no request.
    partitions
        Regular expressions, one of which must match the whole name of the partition; None for any.
    num_nodes
        Whole nodes instead of cores; None for cores.
    exact_fit, partial_node
        As in `ExPyRe.start`; None for a part of a node where the cores are fewer than those of a node.
    env_vars, input_files, output_files, pre_cmds, post_cmds, hash_ignore
        As in `ExPyRe`.
    header_extra, python_cmd
        As in `ExPyRe.start`.
    job_name
        Name of the job; that of the function unless given.
    """

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        **Request.readers,
        "max_mem_tot": memory,
        "max_mem_per_core": memory,
        "partitions": texts,
        "num_nodes": positive,
        "exact_fit": truth,
        "partial_node": truth,
        "env_vars": texts,
        "input_files": texts,
        "output_files": texts,
        "pre_cmds": texts,
        "post_cmds": texts,
        "header_extra": texts,
        "job_name": job_name,
        "python_cmd": text,
        "hash_ignore": arguments,
    }
    synonyms: ClassVar[Mapping[str, str]] = {
        **Request.synonyms,
        "queues": "partitions",
        "pre_run_commands": "pre_cmds",
        "post_run_commands": "post_cmds",
    }

    max_mem_tot: int | None = None
    max_mem_per_core: int | None = None
    partitions: tuple[str, ...] | None = None
    num_nodes: int | None = None
    exact_fit: bool | None = None
    partial_node: bool | None = None
    env_vars: tuple[str, ...] = ()
    input_files: tuple[str, ...] = ()
    output_files: tuple[str, ...] = ()
    pre_cmds: tuple[str, ...] = ()
    post_cmds: tuple[str, ...] = ()
    header_extra: tuple[str, ...] = ()
    job_name: str | None = None
    python_cmd: str = "python3"
    hash_ignore: tuple[int | str, ...] = ()

    @classmethod
    def read(cls, given: Mapping[str, Any], mistakes: Mistakes, default: Self | None = None) -> Self:
        """Return the request in a mapping, what it leaves out from another request; mistakes are noted."""
        request = super().read(given, mistakes, default)
        for complaint in request._complaints():
            mistakes.add(complaint)
        return request

    def _complaints(self) -> list[str]:
        found = []
        try:
            check_request(StageRequest("job", len, **self._files()))
        except RequestError as error:
            found.append(str(error))
        try:
            self._resources(0)
        except RequestError as error:
            found.append(" ".join(str(error).split()))
        if self.oversubscribe:
            found.append("oversubscribe=True: jobs of a system share nothing that its queue does not let them share")
        return found

    def _files(self) -> dict[str, Any]:
        return {
            "env_vars": self.env_vars,
            "input_files": self.input_files,
            "output_files": self.output_files,
            "pre_run_commands": self.pre_cmds,
            "post_run_commands": self.post_cmds,
        }

    def surroundings(self) -> dict[str, Any]:
        """Return what the job of a call is made with besides the call, as keywords of `expyre.calls.Call`."""
        threads = () if self.num_nodes and self.threads_per_core == 1 else THREAD_VARIABLES
        variables = [f"{name}={self.threads_per_core}" for name in threads]
        others = {"hash_ignore": self.hash_ignore, "ranks": self.ranks}
        return {**self._files(), "env_vars": (*variables, *self.env_vars), **others}

    @property
    def ranks(self) -> Ranks | None:
        """MPI ranks that each make the call; None for none."""
        if self.cores == 1:
            return None
        return Ranks(self.cores, self.threads_per_core, self.gpus, self.command_line_argument_lst)

    def _resources(self, num_gpus: int) -> Resources:
        return Resources(
            max_time=None if self.max_time is None else math.ceil(self.max_time),
            num_nodes=self.num_nodes,
            num_cores=None if self.num_nodes else self.slots,
            max_mem_tot=self.max_mem_tot,
            max_mem_per_core=self.max_mem_per_core,
            partitions=self.partitions,
            num_gpus=num_gpus or None,
        )

    def options(self, system_name: str, system: System) -> LaunchOptions:
        """Return how the job is submitted to a system.

        Raises
        ------
        RequestError
            No partition fits.
        """
        from expyre.launch import LaunchOptions

        problems: list[RequestError] = []
        for partial, exact in self._shapes():
            for nodes in self._numbers_of_nodes(system, partial):
                options = LaunchOptions(
                    system_name,
                    self._resources(self.gpus // nodes),
                    self.header_extra,
                    exact_fit=exact,
                    partial_node=partial,
                    python_cmd=self.python_cmd,
                )
                try:
                    _, found = system.check(options.resources, exact, partial)
                except RequestError as error:
                    problems.append(error)
                    continue
                if not self.gpus or found["num_nodes"] == nodes:
                    return options
        raise problems[0] if problems else RequestError(
            f"{self.gpus} GPUs cannot be divided evenly among the nodes of any partition; ask for num_nodes"
        )

    def _shapes(self) -> list[tuple[bool, bool]]:
        """Return the ways of fitting into nodes that are tried: part of a node or not, exactly or not."""
        if self.partial_node is None and self.exact_fit is None:
            return [(False, True)] if self.num_nodes else [(True, False), (False, True)]
        return [(bool(self.partial_node), self.exact_fit is not False)]

    def _numbers_of_nodes(self, system: System, partial: bool) -> list[int]:
        """Return among how many nodes the GPUs may have to be divided."""
        if not self.gpus:
            return [1]
        sizes = {node["num_cores"] for node in (system.partitions or {}).values()}
        numbers = {self.num_nodes or (1 if partial else math.ceil(self.slots / size)) for size in sizes}
        return [number for number in sorted(numbers) if self.gpus % number == 0]
