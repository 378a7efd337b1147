"""Ranks started by ``mpiexec``.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from .base import OF_OUTER_RANKS, CannotStart, Request, matching, needs_mpi4py

__all__ = ["MPIEXEC", "Mpi", "MpiOfJob"]

MPIEXEC = "EXPYRE_MPIEXEC"
# By these mpiexec finds the nodes of a job, on all of which it would start ranks.
_OF_JOBS = re.compile(r"SLURM|PBS_|LSB_|COBALT_|PE_HOSTFILE$|ARC$")
_LAUNCHERS = re.compile(r"(mpiexec|mpirun|orterun|prterun)\b")


class Mpi:
    """Starts ranks on this machine by ``mpiexec``."""

    one_machine = True

    def command(self, request: Request) -> list[str]:
        """Return the command; ``EXPYRE_MPIEXEC``, else ``mpiexec`` beside the interpreter or on PATH, or ``mpirun``."""
        needs_mpi4py(request)
        return [*self._program(request), "-n", str(request.cores), *request.command_line_argument_lst]

    @staticmethod
    def _program(request: Request) -> list[str]:
        if words := shlex.split(os.environ.get("EXPYRE_MPIEXEC", "")):
            if shutil.which(words[0]) is None:
                raise CannotStart(f"EXPYRE_MPIEXEC={' '.join(words)!r}: there is no program {words[0]!r}")
            return words
        beside = str(Path(sys.executable).parent)
        found = shutil.which("mpiexec", path=beside) or shutil.which("mpiexec") or shutil.which("mpirun")
        if found is None:
            raise CannotStart(
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
        return [*matching(OF_OUTER_RANKS), *self.restored]

    @property
    def restored(self) -> list[str]:
        """Variables that tell of nodes."""
        return matching(_OF_JOBS) if self._is_for_one_machine else []


class MpiOfJob(Mpi):
    """Starts ranks on the nodes of the queue job that this process is."""

    @property
    def hidden(self) -> list[str]:
        """Variables that tell of other ranks; those of the job tell ``mpiexec`` where to start them."""
        return matching(OF_OUTER_RANKS)

    one_machine = False
    restored: list[str] = []
