"""Functions that tests call on several MPI ranks; the file goes with the call where it is not there already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def _place():
    from mpi4py import MPI

    return MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def note(path, word):
    handle = os.open(str(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{word}\n".encode())
    os.close(handle)


def ranks(value, ledger=None):
    """Return the value, what all ranks know of each other, and where this one runs."""
    from mpi4py import MPI

    rank, size = _place()
    if ledger is not None:
        note(ledger, f"{value}/{rank}")
    total = MPI.COMM_WORLD.allreduce(rank + 1)
    return value, rank, size, total


def surroundings():
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_NODEID", "EXPYRE_WORKER", "EXPYRE_NUM_NODES")
    print("rank", _place()[0], "speaks", flush=True)
    print("rank", _place()[0], "complains", file=sys.stderr)
    return {name: os.environ.get(name) for name in names}, os.getcwd()


class Refusal(Exception):
    """Raised by one of the ranks."""


def fail(how, who=1):
    """Let one rank end badly while the others wait for it."""
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_rank() == who:
        if how == "raise":
            raise Refusal(f"rank {who} has had enough")
        if how == "leave":
            sys.exit(4)
        if how == "exit":
            os._exit(3)
        os.kill(os.getpid(), getattr(signal, how))
    MPI.COMM_WORLD.Barrier()


def fill(size):
    """Return an array of a size, and what all others have in theirs."""
    import numpy as np
    from mpi4py import MPI

    mine = np.full(size, MPI.COMM_WORLD.Get_rank(), dtype=float)
    every = np.empty((MPI.COMM_WORLD.Get_size(), size))
    MPI.COMM_WORLD.Allgather(mine, every)
    return every


def hang(directory):
    """Say who is there, start something, and wait for ever."""
    other = subprocess.Popen(["sleep", "600"])
    with open(os.path.join(str(directory), f"rank_{_place()[0]}"), "w") as file:
        file.write(f"{os.getpid()} {other.pid}\n")
    time.sleep(600)


def wait_for(path, value, ledger):
    """Note that a rank has begun, and return when a file is there."""
    note(ledger, f"{value}/{_place()[0]}")
    while not os.path.exists(str(path)):
        time.sleep(0.02)
    return value


def eat(size):
    """Take memory on the last rank, and hold it."""
    rank, of = _place()
    data = bytearray(os.urandom(1024)) * (size // 1024) if rank == of - 1 else b""
    time.sleep(60)
    return len(data)
