"""The ranks of an MPI run as workers: ``mpirun -n 4 python script.py`` with ``WFL_MPIPOOL`` set.

Every rank runs the script up to :func:`init`. There rank 0 goes on; the others serve it until it ends, and end too.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from concurrent.futures import Executor
from typing import Any

__all__ = ["init", "shutdown_and_barrier", "wfl_mpipool"]

_log = logging.getLogger(__name__)
_warned: set[int] = set()

wfl_mpipool: Executor | None = None
"""Executor over the other ranks, on rank 0 after :func:`init`; None without MPI."""


def init(verbose: int = 1) -> None:
    """Make the other MPI ranks the workers of this script, if the environment variable ``WFL_MPIPOOL`` is set.

    To be called once, by all ranks, before anything else is done. On rank 0 it returns and operations that are asked
    to use subprocesses use the other ranks; on the others it does not return until rank 0 has ended, and then ends
    the process (under pytest, it returns).

    Parameters
    ----------
    verbose : int, default 1
        0: say nothing.

    Raises
    ------
    ImportError
        mpi4py is not installed.
    """
    global wfl_mpipool
    if not os.environ.get("WFL_MPIPOOL", "").strip() or wfl_mpipool is not None:
        return
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except ImportError as error:
        raise ImportError("WFL_MPIPOOL needs mpi4py: pip install mpi4py") from error
    comm = MPI.COMM_WORLD
    if comm.Get_size() == 1:
        _log.warning("WFL_MPIPOOL is set but there is only one MPI rank; worker processes are used instead")
        return
    if comm.Get_rank() > 0:
        _serve(comm, MPICommExecutor)
        return
    context: Any = MPICommExecutor(comm, root=0)
    wfl_mpipool = context.__enter__()
    atexit.register(shutdown_and_barrier, context, comm)
    if verbose:
        sys.stderr.write(f"wfl: {comm.Get_size() - 1} MPI ranks serve as workers\n")


def _serve(comm: Any, context_of: Any) -> None:
    """Work for rank 0 until it ends; a fault here ends the whole run, since rank 0 would wait for ever."""
    from .engines.worker import pin_gpu, work_alone

    try:
        gpus = int(os.environ.get("WFL_TORCH_N_GPUS") or 0)
        if gpus:
            pin_gpu((comm.Get_rank() - 1) % gpus)
        work_alone()
        with context_of(comm, root=0):
            pass
        comm.Barrier()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        comm.Abort(1)
    if "pytest" not in sys.modules:
        sys.exit(0)


def shutdown_and_barrier(context: Any, comm: Any) -> None:
    """Let the other ranks end, and wait for them; on rank 0, when the script ends."""
    global wfl_mpipool
    wfl_mpipool = None
    context.__exit__(None, None, None)
    comm.Barrier()


def warn_ignored(n: int) -> None:
    """Say once that a number of subprocesses means nothing here."""
    if n not in _warned:
        _warned.add(n)
        _log.warning("num_python_subprocesses=%d is ignored: all MPI ranks are used", n)
