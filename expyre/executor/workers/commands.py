"""The commands that start a worker, or its MPI ranks: ``mpiexec``, ``srun``, ``flux run``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from expyre.errors import RequestError
from expyre.executor.requests import Request

__all__ = ["STARTERS", "Flux", "Mpi", "Slurm", "Starter", "allocated_cores", "allocated_gpus", "flux_has_one_node"]

# What a launcher of MPI ranks has told the script itself: no start of further ranks is to believe it.
_OF_OUTER_RANKS = re.compile(r"PMI_|PMI2_|PMIX_|HYDI_|PALS_|PRTE_LAUNCHED|OMPI_COMM_|OMPI_UNIVERSE_|MPI_LOCALN?RANK")
# By these mpiexec finds the nodes of a job, on all of which it would start ranks.
_OF_JOBS = re.compile(r"SLURM|PBS_|LSB_|COBALT_|PE_HOSTFILE$|ARC$")
# Options of the job that srun takes for options of each step.
_OF_STEPS = re.compile(r"SLURM_(GPUS(_PER_.*)?|NTASKS(_PER_.*)?|NPROCS|NNODES|TRES_PER_TASK|CPUS_PER_(TASK|GPU))$")
_COUNTS = ("SLURM_GPUS", "SLURM_GPUS_PER_TASK", "SLURM_NTASKS", "SLURM_GPUS_ON_NODE", "SLURM_JOB_NUM_NODES")
_PATIENCE = 30.0  # seconds for an answer
_LAUNCHERS = re.compile(r"(mpiexec|mpirun|orterun|prterun)\b")


class Starter(Protocol):
    """Knows the command that starts a worker."""

    @property
    def hidden(self) -> list[str]:
        """Variables of the script's environment that must not steer the command."""
        ...

    @property
    def restored(self) -> list[str]:
        """Those of them that the worker is to have nevertheless."""
        ...

    def command(self, request: Request) -> list[str]:
        """Return the words before those of the worker itself.

        Raises
        ------
        RequestError
            There is no such command here.
        """
        ...


def _matching(*patterns: re.Pattern[str]) -> list[str]:
    return [name for name in os.environ if any(pattern.match(name) for pattern in patterns)]


def _needs_mpi4py(request: Request) -> None:
    if request.cores > 1 and find_spec("mpi4py") is None:
        raise RequestError(
            f"a call on {request.cores} cores runs as so many MPI ranks and needs mpi4py, which is not there: install "
            "it (`pip install mpi4py`, or `pip install mpi4py mpich` where there is no MPI), or ask for one core and "
            "for threads (threads_per_core)"
        )


class Mpi:
    """Starts ranks on this machine by ``mpiexec``."""

    def command(self, request: Request) -> list[str]:
        """Return the command; ``EXPYRE_MPIEXEC``, else ``mpiexec`` beside the interpreter or on PATH, or ``mpirun``."""
        _needs_mpi4py(request)
        return [*self._program(request), "-n", str(request.cores), *request.command_line_argument_lst]

    @staticmethod
    def _program(request: Request) -> list[str]:
        if words := shlex.split(os.environ.get("EXPYRE_MPIEXEC", "")):
            if shutil.which(words[0]) is None:
                raise RequestError(f"EXPYRE_MPIEXEC={' '.join(words)!r}: there is no program {words[0]!r}")
            return words
        beside = str(Path(sys.executable).parent)
        found = shutil.which("mpiexec", path=beside) or shutil.which("mpiexec") or shutil.which("mpirun")
        if found is None:
            raise RequestError(
                f"a call on {request.cores} cores is started with mpiexec, which is not there: install MPI, such as "
                "with `pip install mpich mpi4py`, load its module, or name the command in EXPYRE_MPIEXEC"
            )
        return [found]

    @property
    def _is_for_one_machine(self) -> bool:
        """Whether the command is one that would go to other nodes only because it sees that this is a job."""
        words = shlex.split(os.environ.get("EXPYRE_MPIEXEC", ""))
        return not words or _LAUNCHERS.match(os.path.basename(words[0])) is not None

    @property
    def hidden(self) -> list[str]:
        """Variables that tell of ranks and nodes."""
        return [*_matching(_OF_OUTER_RANKS), *self.restored]

    @property
    def restored(self) -> list[str]:
        """Variables that tell of nodes."""
        return _matching(_OF_JOBS) if self._is_for_one_machine else []


class Slurm:
    """Starts workers as steps of the job of Slurm that this script runs in, by ``srun``."""

    restored: list[str] = []  # a step has variables of its own

    @property
    def hidden(self) -> list[str]:
        """Variables that would be taken for options."""
        return _matching(_OF_OUTER_RANKS, _OF_STEPS)

    def command(self, request: Request) -> list[str]:
        """Return the command."""
        if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
            raise RequestError(
                "backend='slurm' runs calls by srun, as steps of the job of Slurm that the script runs in, and it runs "
                "in none: submit the script with sbatch, or start it after salloc; to have each call as a job of its "
                "own, name a system of config.json"
            )
        _needs_mpi4py(request)
        words = ["srun", "--export=ALL", f"--ntasks={request.cores}", f"--cpus-per-task={request.threads_per_core}"]
        words.append("--overlap" if request.oversubscribe else "--exact")
        if request.slots <= max(_cores_by_node(os.environ), default=1):
            words.append("--nodes=1")  # else ranks are dealt out to all nodes of the job, even two of them
        if request.cores > 1:
            words.append("--kill-on-bad-exit=1")  # the others would wait for it
        return [*words, *_memory(request), *_gpus(request), *_kind_of_mpi(request), *request.command_line_argument_lst]


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


class Flux:
    """Starts workers as jobs of the Flux instance that this script runs in, by ``flux run``.

    Options are those of flux-run(1) and flux-shell-options(7).
    """

    restored: list[str] = []

    @property
    def hidden(self) -> list[str]:
        """Variables that tell of ranks."""
        return _matching(_OF_OUTER_RANKS)

    def command(self, request: Request) -> list[str]:
        """Return the command."""
        if shutil.which("flux") is None:
            raise RequestError(
                "backend='flux' runs calls as jobs of a Flux instance, by the command flux, which is not there: load "
                "its module, and start the script with `flux start`"
            )
        _needs_mpi4py(request)
        words = ["flux", "run", f"--ntasks={request.cores}", f"--cores-per-task={request.threads_per_core}"]
        if request.cores > 1:
            words.append("--setopt=exit-on-error")  # the others would wait for it
        if request.gpus:  # by default a task sees the GPUs of all tasks of its node
            words += [f"--gpus-per-task={-(-request.gpus // request.cores)}", "--setopt=gpu-affinity=per-task"]
        return [*words, *request.command_line_argument_lst]


def flux_has_one_node() -> bool:
    """Return whether the Flux instance that this script runs in is on this machine alone (flux-getattr(1))."""
    try:
        told = subprocess.run(
            ["flux", "getattr", "size"], capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.stdout.strip() == "1"


STARTERS: dict[str, type[Starter]] = {"mpi": Mpi, "local": Mpi, "slurm": Slurm, "flux": Flux}


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
