"""What workers in queue jobs are to be like."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expyre.errors import RequestError
from expyre.units import time_to_sec

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.executor.backends import Options
    from expyre.resources import Resources
    from expyre.system import System

__all__ = ["Settings", "read_settings"]

IDLE_VARIABLE, LEASE_VARIABLE = "EXPYRE_BLOCK_IDLE", "EXPYRE_BLOCK_LEASE"


@dataclass(frozen=True)
class Settings:
    """What workers in queue jobs are to be like.

    Attributes
    ----------
    system
        Name of the system.
    resources
        What the job of a worker asks for.
    max_workers
        Most at a time.
    restart_limit
        How often a call is tried again whose worker has died.
    refresh_rate
        Least time in s between two rounds.
    idle, lease
        Seconds after which a worker ends that has no calls, or hears nothing of the script.
    place
        What the process that runs calls is given; see `expyre.node.serving.placing`.
    """

    system: str
    resources: Resources
    max_workers: int
    restart_limit: int = 0
    refresh_rate: float = 0.05
    idle: float = 600.0
    lease: float = 600.0
    place: dict[str, Any] = field(default_factory=dict)


def read_settings(options: Options, project: Project) -> Settings:
    """Return the settings that the options of an executor, and the environment, come to.

    Raises
    ------
    RequestError
        The resources or a variable make no sense, or workers cannot be made of them.
    """
    from expyre.resources import Resources

    request = options.request
    if request.cores > 1:
        raise RequestError(
            "block_allocation with several cores (MPI ranks) for each worker is not possible on a system of "
            "config.json; leave out block_allocation, or run the script in a job of its own there"
        )
    resources = Resources(max_time=request.max_time, num_cores=request.slots, num_gpus=request.gpus or None)
    return Settings(
        system=options.backend,
        resources=resources,
        max_workers=options.max_workers or _room(project.systems[options.backend], resources, options.max_cores),
        restart_limit=options.restart_limit,
        refresh_rate=max(0.05, options.refresh_rate),
        idle=_seconds(IDLE_VARIABLE, 600.0),
        lease=_seconds(LEASE_VARIABLE, 600.0),
        place={"threads": request.threads_per_core, "gpus": None, "cores": None, "cwd": request.cwd},
    )


def _room(system: System, resources: Resources, max_cores: int | None) -> int:
    """Return for how many workers there is room in so many cores; by default those of a node."""
    partition, nodes = system.check(resources, partial_node=True)
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
