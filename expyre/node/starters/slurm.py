"""Workers as steps of a job of Slurm, started by ``srun``.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from typing import Mapping  # noqa: UP035  (Python 3.9)

from .base import OF_OUTER_RANKS, CannotStart, Request, matching, needs_mpi4py

__all__ = ["Slurm", "SlurmOfJob", "allocated_cores", "allocated_gpus"]

# Options of the job that srun takes for options of each step.
_OF_STEPS = re.compile(r"SLURM_(GPUS(_PER_.*)?|NTASKS(_PER_.*)?|NPROCS|NNODES|TRES_PER_TASK|CPUS_PER_(TASK|GPU))$")
_COUNTS = ("SLURM_GPUS", "SLURM_GPUS_PER_TASK", "SLURM_NTASKS", "SLURM_GPUS_ON_NODE", "SLURM_JOB_NUM_NODES")


class Slurm:
    """Starts workers as steps of the job of Slurm that this script runs in, by ``srun``."""

    one_machine = False
    restored: list[str] = []  # a step has variables of its own
    alone = False  # whether all of the job is for one worker

    @property
    def hidden(self) -> list[str]:
        """Variables that would be taken for options."""
        return matching(OF_OUTER_RANKS, _OF_STEPS)

    def command(self, request: Request) -> list[str]:
        """Return the command."""
        if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
            raise CannotStart(
                "backend='slurm' runs calls by srun, as steps of the job of Slurm that the script runs in, and it runs "
                "in none: submit the script with sbatch, or start it after salloc; to have each call as a job of its "
                "own, name a system of config.json"
            )
        needs_mpi4py(request)
        words = ["srun", "--export=ALL", f"--ntasks={request.cores}", f"--cpus-per-task={request.threads_per_core}"]
        words.append("--overlap" if request.oversubscribe else "--exact")
        if not self.alone and request.slots <= max(_cores_by_node(os.environ), default=1):
            words.append("--nodes=1")  # else ranks are dealt out to all nodes of the job, even two of them
        if request.cores > 1:
            words.append("--kill-on-bad-exit=1")  # the others would wait for it
        if not self.alone or request.gpus:
            words += _gpus(request)
        return [*words, *_memory(request), *_kind_of_mpi(request), *request.command_line_argument_lst]


class SlurmOfJob(Slurm):
    """Starts a worker on all of the nodes and GPUs of the job of Slurm that this process is."""

    alone = True


def _said(request: Request, *options: str) -> bool:
    return any(word.split("=")[0] in options for word in request.command_line_argument_lst)


def _memory(request: Request) -> list[str]:
    """Return how much memory a step has: without a word it would be all of the job's, and the next step would wait."""
    by_core = any(os.environ.get(name) for name in ("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"))
    if by_core or _said(request, "--mem", "--mem-per-cpu", "--mem-per-gpu"):
        return []
    return ["--mem=0"]


def _gpus(request: Request) -> list[str]:
    """Return which GPUs a step has: without a word it would be all of the job's."""
    if request.gpus == 0:
        own = _said(request, "--gres", "--gpus", "-G", "--gpus-per-task", "--gpus-per-node", "--gpus-per-socket")
        return [] if own else ["--gres=none"]
    if request.cores > 1 and request.gpus % request.cores == 0:
        return [f"--gpus-per-task={request.gpus // request.cores}"]  # with --gpus each rank sees all of them
    return [f"--gpus={request.gpus}"]


def _kind_of_mpi(request: Request) -> list[str]:
    """Return how Slurm has to start ranks for the MPI library of mpi4py; nothing if others know, or nobody does.

    MPICH finds its ranks by PMI 2, which is not what Slurm offers unless told to. Whether mpi4py will load MPICH is
    told by its package here, since to ask the library would be to initialise MPI in the script.
    """
    if request.cores == 1 or os.environ.get("SLURM_MPI_TYPE") or _said(request, "--mpi") or not _is_installed("mpich"):
        return []
    return ["--mpi=pmi2"] if "pmi2" in _kinds_of_slurm() else []


@cache
def _kinds_of_slurm() -> frozenset[str]:
    offered = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, check=False)
    return frozenset((offered.stdout + offered.stderr).split())


@cache
def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _cores_by_node(environ: Mapping[str, str]) -> list[int]:
    """Return how many cores the job of Slurm that this script runs in has on each of its nodes; [] if not known."""
    found: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_JOB_CPUS_PER_NODE", "")):  # "8(x2),4"
        found += [int(count)] * int(times or 1)
    return found


def allocated_cores() -> int | None:
    """Return how many cores the job of Slurm that this script runs in has; None if not known."""
    return sum(_cores_by_node(os.environ)) or None


def allocated_gpus() -> int | None:
    """Return how many GPUs the job of Slurm that this script runs in has, if nodes are alike; None if not known."""
    number = {name: int(value) for name, value in os.environ.items() if name in _COUNTS and value.isdigit()}
    if "SLURM_GPUS" in number:
        return number["SLURM_GPUS"]
    if {"SLURM_GPUS_PER_TASK", "SLURM_NTASKS"} <= number.keys():
        return number["SLURM_GPUS_PER_TASK"] * number["SLURM_NTASKS"]
    if {"SLURM_GPUS_ON_NODE", "SLURM_JOB_NUM_NODES"} <= number.keys():
        return number["SLURM_GPUS_ON_NODE"] * number["SLURM_JOB_NUM_NODES"]
    return None
