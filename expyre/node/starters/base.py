"""What every command that starts workers has in common.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import List, Protocol  # noqa: UP035  (Python 3.9)

__all__ = ["OF_OUTER_RANKS", "CannotStart", "Request", "Starter", "matching", "needs_mpi4py", "python_command"]

# What a launcher of MPI ranks has told the script itself: no start of further ranks is to believe it.
OF_OUTER_RANKS = re.compile(r"PMI_|PMI2_|PMIX_|HYDI_|PALS_|PRTE_LAUNCHED|OMPI_COMM_|OMPI_UNIVERSE_|MPI_LOCALN?RANK")


class CannotStart(Exception):
    """Raised when there is no command here that could start a worker; says what to do."""


class Request(Protocol):
    """What a worker is to have; see `expyre.executor.requests.Request`."""

    @property
    def cores(self) -> int:
        """Number of ranks."""
        ...

    @property
    def threads_per_core(self) -> int:
        """Threads of each rank."""
        ...

    @property
    def gpus(self) -> int:
        """GPUs of all ranks."""
        ...

    @property
    def oversubscribe(self) -> bool:
        """Whether cores are shared with others."""
        ...

    @property
    def slots(self) -> int:
        """Cores of all ranks."""
        ...

    @property
    def command_line_argument_lst(self) -> tuple[str, ...]:
        """Further words for the command."""
        ...


class Starter(Protocol):
    """Knows the command that starts a worker."""

    one_machine: bool
    """Whether all that it starts is on this machine."""

    @property
    def hidden(self) -> List[str]:  # noqa: UP006
        """Variables of the environment that must not steer the command."""
        ...

    @property
    def restored(self) -> List[str]:  # noqa: UP006
        """Those of them that the worker is to have nevertheless."""
        ...

    def command(self, request: Request) -> List[str]:  # noqa: UP006
        """Return the words before those of the worker itself.

        Raises
        ------
        CannotStart
            There is no such command here.
        """
        ...


def matching(*patterns: re.Pattern[str]) -> list[str]:
    """Return the names of environment variables that begin like one of some patterns."""
    return [name for name in os.environ if any(pattern.match(name) for pattern in patterns)]


def needs_mpi4py(request: Request) -> None:
    """Raise CannotStart if there are to be several ranks, and there is no mpi4py for them."""
    if request.cores > 1 and find_spec("mpi4py") is None:
        raise CannotStart(
            f"a call on {request.cores} cores runs as so many MPI ranks and needs mpi4py, which is not there: install "
            "it (`pip install mpi4py`, or `pip install mpi4py mpich` where there is no MPI), or ask for one core and "
            "for threads (threads_per_core)"
        )


def python_command(code: str, *args: str) -> list[str]:
    """Return a command that runs code in an interpreter like this one."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable or "python3", *flags, "-c", code, *args]
