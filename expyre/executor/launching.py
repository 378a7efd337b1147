"""How workers are started: forked from the keeper, or by a command of MPI, Slurm or Flux."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from expyre.errors import RequestError
from expyre.executor.channels import PacketChannel, StreamChannel
from expyre.executor.door import Door
from expyre.executor.keeper import Keeper, python_command
from expyre.executor.requests import Request
from expyre.executor.worker import Worker
from expyre.node.serving.rank import VARIABLE

__all__ = ["COMMANDS", "Launcher", "flux_command", "mpi_command", "slurm_command"]

_CODE = "from expyre.node.serving.rank import main; main()"
_PACKETS = sys.platform == "linux"  # elsewhere a worker gets one call at a time, through a stream

Command = Callable[[Request], list[str]]


def mpi_command(request: Request) -> list[str]:
    """Return the command that starts the ranks of a worker on this machine.

    ``EXPYRE_MPIEXEC`` names it, with options; else ``mpiexec`` beside the interpreter or on PATH, or ``mpirun``.

    Raises
    ------
    RequestError
        There is none.
    """
    words = shlex.split(os.environ.get("EXPYRE_MPIEXEC", ""))
    if not words:
        beside = str(Path(sys.executable).parent)
        found = (
            shutil.which("mpiexec", path=beside) or shutil.which("mpiexec") or shutil.which("mpirun")
        )  # fmt: skip
        if found is None:
            raise RequestError(
                f"a call on {request.cores} cores is started with mpiexec, which is not there: install MPI, such as "
                "with `pip install mpich mpi4py`, load its module, or name the command in EXPYRE_MPIEXEC"
            )
        words = [found]
    return [*words, "-n", str(request.cores), *request.command_line_argument_lst]


def slurm_command(request: Request) -> list[str]:
    """Return the command that starts a worker as a step of the job that this script runs in (``srun``)."""
    words = ["srun", "--export=ALL", f"--ntasks={request.cores}", f"--cpus-per-task={request.threads_per_core}"]
    if request.cores == 1:
        words.append("--nodes=1")
    elif (kind := _kind_of_mpi(request)) is not None:
        words.append(f"--mpi={kind}")
    words.append("--overlap" if request.oversubscribe else "--exact")
    if request.gpus:
        words.append(f"--gpus={request.gpus}")
    return [*words, *_directory("--chdir", request), *request.command_line_argument_lst]


def _kind_of_mpi(request: Request) -> str | None:
    """Return how Slurm has to start ranks for the MPI library of mpi4py; None if others know, or nobody does.

    MPICH finds its ranks by PMI 2, which is not what Slurm offers unless told to. Whether mpi4py will load MPICH is
    told by its package here, since to ask the library would be to initialise MPI in the script.
    """
    said = os.environ.get("SLURM_MPI_TYPE") or any(w.startswith("--mpi") for w in request.command_line_argument_lst)
    if said or not _is_installed("mpich"):
        return None
    return "pmi2" if "pmi2" in _kinds_of_slurm() else None


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


def flux_command(request: Request) -> list[str]:
    """Return the command that starts a worker as a job of the Flux instance that this script runs in.

    Options are those of flux-run(1). By default a task sees the GPUs of all tasks of its node.
    """
    words = ["flux", "run", f"--ntasks={request.cores}", f"--cores-per-task={request.threads_per_core}"]
    if request.gpus:
        words += [f"--gpus-per-task={-(-request.gpus // request.cores)}", "--setopt=gpu-affinity=per-task"]
    return [*words, *_directory("--cwd", request), *request.command_line_argument_lst]


def _directory(option: str, request: Request) -> list[str]:
    return [f"{option}={request.cwd}"] if request.cwd else []


COMMANDS: dict[str, Command] = {"mpi": mpi_command, "local": mpi_command, "slurm": slurm_command, "flux": flux_command}


class Launcher:
    """Starts workers.

    Parameters
    ----------
    command
        Makes the command that starts a worker.
    always
        Whether it starts all workers, and gives them cores and GPUs; else only those with several ranks.
    host
        Name of this machine for workers on others; None if there are none.
    """

    def __init__(self, command: Command, *, always: bool, host: str | None = None) -> None:
        self._command = command
        self._always = always
        self._host = host
        self._door: Door | None = None
        self.keeper: Keeper | None = None

    def forks(self, request: Request) -> bool:
        """Return whether a worker for such requests is forked."""
        return request.cores == 1 and not self._always

    def prepare(self, request: Request) -> None:
        """Raise RequestError if there is no command to start such a worker with."""
        if not self.forks(request):
            self._command(request)

    def gives_packets(self, request: Request) -> bool:
        """Return whether what a worker has not taken can be taken back, so that it may be given more than one call."""
        return _PACKETS and self.forks(request)

    def start_keeper(self) -> Keeper:
        """Start the process that starts workers."""
        self.keeper = Keeper()
        return self.keeper

    @property
    def door(self) -> Door:
        """Where workers come in that a command starts; made when the first one is."""
        if self._door is None:
            self._door = Door(self._host)
        return self._door

    @property
    def has_door(self) -> bool:
        """Whether there is a door."""
        return self._door is not None

    def launch(self, worker: Worker, request: Request) -> None:
        """Start a worker; one that a command starts will come to the door."""
        assert self.keeper is not None
        place: dict[str, Any] = {"threads": request.threads_per_core, "cwd": request.cwd, "cores": worker.place.cores}
        if self.forks(request):
            self._fork(self.keeper, worker, {**place, "gpus": worker.place.gpus})
            return
        task = {
            "address": self.door.address,
            "secret": self.door.secret.hex(),
            "worker": worker.number,
            "size": worker.size,
            "place": {**place, "gpus": None if self._always else worker.place.gpus},
            "path": [path or os.getcwd() for path in sys.path],
            "pythonpath": os.environ.get("PYTHONPATH"),
        }
        environ = {**os.environ, VARIABLE: json.dumps(task), "PYTHONPATH": _path_to_package()}
        command = [*self._command(request), *python_command(_CODE)]
        self.keeper.start(worker.number, command, environ, None)

    def _fork(self, keeper: Keeper, worker: Worker, place: dict[str, Any]) -> None:
        kind = socket.SOCK_SEQPACKET if _PACKETS else socket.SOCK_STREAM
        mine, theirs = socket.socketpair(socket.AF_UNIX, kind)
        keeper.fork(worker.number, theirs, place, packets=_PACKETS)
        if _PACKETS:
            worker.channels[0] = PacketChannel(mine, theirs)
        else:
            theirs.close()
            worker.channels[0] = StreamChannel(mine)

    def close(self) -> None:
        """End all workers, and what is there for them."""
        if self._door is not None:
            self._door.close()
        if self.keeper is not None:
            self.keeper.close()


def _path_to_package() -> str:
    """Return PYTHONPATH with which an interpreter finds this package; the rest of the path is told by message."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
