"""Workers as jobs of a Flux instance, started by ``flux run``.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import shutil
import subprocess

from .base import OF_OUTER_RANKS, CannotStart, Request, matching, needs_mpi4py

__all__ = ["Flux", "flux_has_one_node"]

_PATIENCE = 30.0  # seconds for an answer


class Flux:
    """Starts workers as jobs of the Flux instance that this script runs in, by ``flux run``.

    Options are those of flux-run(1) and flux-shell-options(7).
    """

    one_machine = False
    restored: list[str] = []

    @property
    def hidden(self) -> list[str]:
        """Variables that tell of ranks."""
        return matching(OF_OUTER_RANKS)

    def command(self, request: Request) -> list[str]:
        """Return the command."""
        if shutil.which("flux") is None:
            raise CannotStart(
                "backend='flux' runs calls as jobs of a Flux instance, by the command flux, which is not there: load "
                "its module, and start the script with `flux start`"
            )
        needs_mpi4py(request)
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
