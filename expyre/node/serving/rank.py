"""A worker, or one of its ranks, that a command has started: ``mpiexec``, ``srun``, ``flux run``.

What it has to know is JSON in the environment variable ``EXPYRE_WORKER``: where the script listens, the secret, which
worker it is, how many ranks it has, its place. Standard library only, Python 3.9; mpi4py where there are several ranks.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import Any, Iterator, Tuple  # noqa: UP035  (Python 3.9)

from ..family import end_tree
from . import handshake, messages, placing, streams, worker

VARIABLE = "EXPYRE_WORKER"
_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "FLUX_TASK_RANK")
_PATIENCE = 60.0  # seconds to reach the script
_PAUSE = 0.2  # seconds between two tries to reach it
_HUNG_UP = getattr(select, "POLLRDHUP", 0)  # Linux
_OF_SRUN = "SLURM_LAUNCH_NODE_IPADDR"  # where srun runs, as this node reaches it


def main() -> None:
    """Serve the script that this process was started for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    task = json.loads(os.environ.pop(VARIABLE))
    sys.path[:] = task["path"]
    os.environ.pop("PYTHONPATH", None)
    if task["pythonpath"] is not None:
        os.environ["PYTHONPATH"] = task["pythonpath"]
    rank, problem = _begin(task)
    end = streams.Stream(_reach(task, rank))
    _end_with_script(end.sock)
    who = f"rank {rank} of {task['size']} on {socket.gethostname()}" if task["size"] > 1 else ""
    if problem is not None:
        end.send(messages.pack(messages.NOT_READY, payload=worker.failure(problem, who)))
    else:
        worker.serve(end, who)
    worker.end_process()


def _begin(task: dict[str, Any]) -> Tuple[int, Exception | None]:  # noqa: UP006  (Python 3.9)
    """Take this process' place, among the other ranks too; return its rank, and what has failed."""
    rank, size = _rank_from_environment(), task["size"]
    try:
        placing.settle(task["place"], rank, size)
        if size > 1:
            rank, size = _mpi(size, task["patience"])
        for name, value in task["restored"].items():
            os.environ.setdefault(name, value)
    except Exception as error:
        return rank, error
    return rank, None if size == task["size"] else _strangers(task["size"], size)


def _reach(task: dict[str, Any], rank: int) -> socket.socket:
    """Return a socket to the script, which knows this process now.

    Where all workers start at a time, or strangers knock as well, it may take more than one try.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        for address in _addresses(task["address"]):
            try:
                sock = _connect(address)
                handshake.connect(sock, bytes.fromhex(task["secret"]), task["worker"], rank, task["size"])
            except (OSError, handshake.NotTrusted) as error:
                last = f"{address}: {error}"
            else:
                sock.settimeout(None)
                return sock
        if time.monotonic() > deadline or isinstance(task["address"], str):
            sys.exit(f"a worker on {socket.gethostname()} cannot reach the script that it was started for at {last}")
        time.sleep(_PAUSE)


def _addresses(given: Any) -> Iterator[Any]:
    """Yield where the script may be reached: as told by it and, where that is a name, as told by srun."""
    if not isinstance(given, str) and os.environ.get(_OF_SRUN) and given[0] != "localhost":
        yield [os.environ[_OF_SRUN], given[1]]
    yield given


def _connect(address: Any) -> socket.socket:
    """Return a socket to the script: a path for one on this machine, else host and port."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_PATIENCE)
        sock.connect(address)
        return sock
    sock = socket.create_connection((address[0], address[1]), timeout=_PATIENCE / 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def _end_with_script(sock: socket.socket) -> None:
    """See to it that this process ends when the script has gone, though a call runs and nobody kills it."""
    if not _HUNG_UP:
        return
    watched = select.poll()
    watched.register(sock.fileno(), _HUNG_UP)

    def wait() -> None:
        watched.poll()
        end_tree(os.getpid(), itself=False)
        os._exit(1)

    threading.Thread(target=wait, name="expyre-watch", daemon=True).start()


def _rank_from_environment() -> int:
    """Return the rank that the command says this process has, before MPI is asked, which may use GPUs already."""
    for name in _RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _mpi(wanted: int, patience: float) -> Tuple[int, int]:  # noqa: UP006  (Python 3.9)
    """Return rank and number of ranks; end this process if MPI does not find the others within some seconds."""
    faulthandler.dump_traceback_later(patience, exit=True)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no library of MPI is found
        raise ImportError(
            f"{wanted} cores are {wanted} MPI ranks and need mpi4py and the library of MPI that it was made for "
            f"(`pip install mpi4py mpich` brings both): {error}"
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    return MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def _strangers(wanted: int, size: int) -> RuntimeError:
    return RuntimeError(
        f"{wanted} ranks were started, but MPI puts {size} together: the command that started them does not belong to "
        "the MPI library of mpi4py (see MPI4PY_MPIABI and `python -m mpi4py --mpi-lib-version`), or has to be told of "
        'it, such as srun with command_line_argument_lst=["--mpi=pmi2"] for MPICH'
    )
