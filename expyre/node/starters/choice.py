"""Which command starts workers where.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import shutil

from .base import Starter
from .flux import Flux
from .mpi import MPIEXEC, Mpi, MpiOfJob
from .slurm import Slurm, SlurmOfJob

__all__ = ["STARTERS", "starter_of_job"]

STARTERS: dict[str, type[Starter]] = {"mpi": Mpi, "local": Mpi, "slurm": Slurm, "flux": Flux}
_OF_LOCAL_QUEUE = "EXPYRE_LOCAL_JOB"


def starter_of_job() -> Starter:
    """Return what starts the ranks of the queue job that this process is: what ``EXPYRE_MPIEXEC`` says comes first."""
    if os.environ.get(_OF_LOCAL_QUEUE):
        return Mpi()  # its jobs are of this machine, whatever job the queue itself was started in
    if not os.environ.get(MPIEXEC) and os.environ.get("SLURM_JOB_ID") and shutil.which("srun"):
        return SlurmOfJob()
    return MpiOfJob()
