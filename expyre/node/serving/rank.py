"""A worker, or one of its ranks, that a command has started: ``mpiexec``, ``srun``, ``flux run``.

What it has to know is JSON in the environment variable ``EXPYRE_WORKER``: where the script listens, the secret, which
worker it is, how many ranks it has, its place. Standard library only, Python 3.9; mpi4py where there are several ranks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

from . import handshake, messages, placing, worker

VARIABLE = "EXPYRE_WORKER"
_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "FLUX_TASK_RANK")
_PATIENCE = 60.0  # seconds


def main() -> None:
    """Serve the script that this process was started for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    task = json.loads(os.environ.pop(VARIABLE))
    sys.path[:] = task["path"]
    os.environ.pop("PYTHONPATH", None)
    if task["pythonpath"] is not None:
        os.environ["PYTHONPATH"] = task["pythonpath"]
    end = messages.Stream(_connect(task["address"]))
    rank = _rank_from_environment()
    problem: Exception | None
    try:
        placing.settle(task["place"], rank, task["size"])
        rank, size = _mpi(task["size"]) if task["size"] > 1 else (0, 1)
        problem = None if size == task["size"] else _strangers(task["size"], size)
    except Exception as error:
        size, problem = task["size"], error
    handshake.connect(end.sock, bytes.fromhex(task["secret"]), task["worker"], rank, task["size"])
    end.sock.settimeout(None)
    if problem is not None:
        end.send(messages.pack(messages.NOT_READY, payload=worker.failure(problem)))
        worker.end_process()
    worker.serve(end)
    worker.end_process()


def _connect(address: Any) -> socket.socket:
    """Return a socket to the script: a path for one on this machine, else host and port."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_PATIENCE)
        sock.connect(address)
        return sock
    sock = socket.create_connection((address[0], address[1]), timeout=_PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def _rank_from_environment() -> int:
    """Return the rank that the command says this process has, before MPI is asked, which may use GPUs already."""
    for name in _RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _mpi(wanted: int) -> tuple[int, int]:
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(f"{wanted} cores are {wanted} MPI ranks and need mpi4py: {error}") from error
    return MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def _strangers(wanted: int, size: int) -> RuntimeError:
    return RuntimeError(
        f"{wanted} ranks were started, but MPI puts {size} together: the command that started them does not belong to "
        "the MPI library of mpi4py (see MPI4PY_MPIABI and `python -m mpi4py --mpi-lib-version`), or has to be told of "
        'it, such as srun with command_line_argument_lst=["--mpi=pmi2"] for MPICH'
    )
