"""What workers in queue jobs are to be like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from expyre.errors import RequestError
from expyre.node.ranks.request import Ranks
from expyre.units import time_to_sec

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.executor.backends import Options
    from expyre.executor.jobs.requests import JobRequest
    from expyre.launch import LaunchOptions
    from expyre.system import System

__all__ = ["Settings", "read_settings"]

IDLE_VARIABLE, LEASE_VARIABLE = "EXPYRE_BLOCK_IDLE", "EXPYRE_BLOCK_LEASE"


@dataclass(frozen=True)
class Settings:
    """What workers in queue jobs are to be like.

    Attributes
    ----------
    launch
        How the job of a worker is submitted.
    max_workers
        Most at a time.
    surroundings
        What their jobs are made with, as keywords of `expyre.calls.Call`.
    job_name
        How the names of their jobs begin.
    restart_limit
        How often a call is tried again whose worker has died.
    refresh_rate
        Least time in s between two rounds.
    idle, lease
        Seconds after which a worker ends that has no calls, or hears nothing of the script.
    place
        What the process that runs calls is given; see `expyre.node.serving.placing`.
    ranks
        MPI ranks that run each call in place of one process; None for none.
    """

    launch: LaunchOptions
    max_workers: int
    surroundings: Mapping[str, Any] = field(default_factory=dict)
    job_name: str = "block"
    restart_limit: int = 0
    refresh_rate: float = 0.05
    idle: float = 600.0
    lease: float = 600.0
    place: Mapping[str, Any] = field(default_factory=dict)
    ranks: Ranks | None = None

    @property
    def system(self) -> str:
        """Name of the system."""
        return self.launch.system_name


def read_settings(options: Options, project: Project) -> Settings:
    """Return the settings that the options of an executor, and the environment, come to.

    Raises
    ------
    RequestError
        The resources or a variable make no sense, or workers cannot be made of them.
    """
    request = cast("JobRequest", options.request)
    _refuse(request)
    system = project.systems[options.backend]
    launch = request.options(options.backend, system)
    return Settings(
        launch=launch,
        max_workers=options.max_workers or _room(system, launch, options.max_cores),
        surroundings={**request.surroundings(), "hash_ignore": (), "ranks": None},
        job_name=request.job_name or "block",
        restart_limit=options.restart_limit,
        refresh_rate=max(0.05, options.refresh_rate),
        idle=_seconds(IDLE_VARIABLE, 600.0),
        lease=_seconds(LEASE_VARIABLE, 600.0),
        place={"cwd": request.cwd},
        ranks=request.ranks,
    )


def _refuse(request: JobRequest) -> None:
    """Raise RequestError about what jobs can have that each are a call, but those of workers cannot."""
    what = []
    if request.output_files:
        what.append("output_files: workers serve many calls, whose files are nobody's in particular")
    if what:
        raise RequestError(f"{'; '.join(what)}; leave out block_allocation, so that each call is a job of its own")


def _room(system: System, launch: LaunchOptions, max_cores: int | None) -> int:
    """Return for how many workers there is room in so many cores; by default those of a node."""
    partition, nodes = system.check(launch.resources, launch.exact_fit, launch.partial_node)
    cores = max_cores or int((system.partitions or {})[partition]["num_cores"])
    return max(1, cores // int(nodes["num_cores"]))


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    if not text:
        return default
    try:
        seconds = float(time_to_sec(text) or 0)
    except ValueError as error:
        raise RequestError(f"{variable}={text}: {error}") from error
    if not seconds > 0:
        raise RequestError(f"{variable}={text}: must be more than 0 s")
    return seconds
