"""What carries the calls of an executor, by name."""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from expyre.executor.calls import Backend
from expyre.executor.requests import Request
from expyre.executor.workers.claims import Claims
from expyre.executor.workers.gpus import Gpus
from expyre.executor.workers.launching import Launcher
from expyre.executor.workers.places import Machine, free_cores
from expyre.node import machine
from expyre.node.starters.choice import STARTERS
from expyre.node.starters.flux import flux_has_one_node
from expyre.node.starters.slurm import allocated_cores, allocated_gpus

__all__ = ["BACKENDS", "Options", "is_flux", "make_workers", "recognise"]

logger = logging.getLogger(__name__)
_SPECIAL_STEPS = 2**31
BACKENDS = ("local", "mpi", "slurm", "flux")


@dataclass(frozen=True)
class Options:
    """What an executor was asked for, checked.

    Attributes
    ----------
    backend
        One of `BACKENDS`, or the name of a system.
    on_system
        Whether it is the name of a system.
    request
        What each worker, or call, asks for.
    max_workers, max_cores
        Limits for all together; None if not given.
    block_allocation, init_function, restart_limit, hostname_localhost
        As in `Executor`.
    refresh_rate
        Seconds between two looks where nothing else tells of results.
    executor
        Runs the calls instead of the backend; None for none.
    cache, cache_directory
        Whether results are kept, and where; None for the usual place.
    graph, graph_file
        Whether it is noted which call needs which, and the file that this is written to at the end; None for none.
    """

    backend: str
    request: Request
    on_system: bool = False
    max_workers: int | None = None
    max_cores: int | None = None
    block_allocation: bool = False
    init_function: Callable[[], dict[str, Any]] | None = None
    restart_limit: int = 0
    hostname_localhost: bool | None = None
    refresh_rate: float = 0.01
    executor: Executor | None = None
    cache: bool = False
    cache_directory: str | None = None
    graph: bool = False
    graph_file: str | None = None


def recognise() -> str:
    """Return the backend for where this script runs: in a Flux instance, in a job of Slurm, or anywhere else."""
    if os.environ.get("FLUX_URI") and shutil.which("flux"):
        return "flux"
    if os.environ.get("SLURM_JOB_ID") and shutil.which("srun"):
        return "slurm"
    return "local"


def is_flux(executor: object) -> bool:
    """Return whether an executor is Flux's own, which runs commands, not functions: it stands for its instance."""
    return any(
        kind.__name__ == "FluxExecutor" and kind.__module__.startswith("flux.job") for kind in type(executor).__mro__
    )


def make_workers(options: Options) -> Backend:
    """Return a backend whose workers are connected by sockets."""
    from expyre.executor.pickles.pickling import setup_payload
    from expyre.executor.workers.backend import Workers
    from expyre.executor.workers.settings import Settings

    away = options.backend in ("slurm", "flux")
    if options.backend == "slurm" and _is_a_step() and not options.request.oversubscribe:
        logger.warning(
            "This script was itself started by srun: steps for calls wait for the cores and GPUs that it holds. Start "
            "it in the job without srun, or let calls share with it (oversubscribe=True)"
        )
    slots = _slots(options, away)
    claims = Claims("cores")
    cores = [] if away or options.request.oversubscribe else free_cores(slots, claims)
    gpus = Gpus(_gpus(options, away), None if away else Claims("gpus"))
    launcher = Launcher(STARTERS[options.backend](), always=away, host=_host(options) if away else None)
    settings = Settings(
        request=options.request,
        max_workers=options.max_workers or max(1, slots // options.request.slots),
        machine=Machine(slots, cores, gpus, claims),
        launcher=launcher,
        block=options.block_allocation,
        init_payload=setup_payload(options.init_function),
        restart_limit=options.restart_limit,
    )
    return Workers(settings)


def _slots(options: Options, away: bool) -> int:
    if options.max_cores is not None:
        return options.max_cores
    if options.max_workers is not None:
        return options.max_workers * options.request.slots
    return (allocated_cores() if away else None) or machine.cores()


def _gpus(options: Options, away: bool) -> list[str]:
    """Return the ids of the GPUs that there are; where the queue assigns them, as many names as it may have."""
    if not away:
        return machine.gpus()
    count = allocated_gpus() if options.backend == "slurm" else None
    most = (options.max_workers or 1000) * max(1, options.request.gpus)
    return [str(i) for i in range(most if count is None else count)]


def _host(options: Options) -> str | None:
    """Return the name by which workers reach this machine; None if all are on it."""
    if options.hostname_localhost:
        return "localhost"
    if options.backend == "slurm" and os.environ.get("SLURM_JOB_NUM_NODES") == "1" and _script_is_on_node():
        return None
    if options.backend == "flux" and flux_has_one_node():
        return None
    return socket.gethostname()


def _script_is_on_node() -> bool:
    """Return whether this script itself runs on the node of the job, not where ``salloc`` was called."""
    return "SLURMD_NODENAME" in os.environ


def _is_a_step() -> bool:
    """Return whether this script was started by srun; steps for scripts and terminals have numbers like -5."""
    number = os.environ.get("SLURM_STEP_ID", "")
    return number.isdigit() and int(number) < _SPECIAL_STEPS
