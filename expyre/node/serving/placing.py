"""What a worker is given of a machine: cores, threads, GPUs, a directory.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence  # noqa: UP035  (Python 3.9)

# Read by OpenMP, OpenBLAS, MKL, Apple's Accelerate and numexpr when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def share(things: Sequence[Any], rank: int, size: int) -> Sequence[Any]:
    """Return what one of ``size`` ranks gets if all get equally many; all of it if there is not enough to divide."""
    each = len(things) // size
    return things[rank * each : (rank + 1) * each] if each else things


def variables(place: Mapping[str, Any], rank: int, size: int) -> dict[str, str]:
    """Return the environment variables that say what a rank of a worker is given.

    Parameters
    ----------
    place
        ``threads``: threads of each rank, or None; ``gpus``: ids of the worker's GPUs, or None if somebody else
        assigns them.
    rank, size
        Of the worker's processes.
    """
    found: dict[str, str] = {}
    if place.get("threads"):
        found.update(dict.fromkeys(THREAD_VARIABLES, str(place["threads"])))
    if place.get("gpus") is not None:
        found.update(dict.fromkeys(GPU_VARIABLES, ",".join(share(place["gpus"], rank, size))))
    return found


def settle(place: Mapping[str, Any], rank: int, size: int) -> None:
    """Move this process to its place: its cores (as far as the system allows), its variables, its directory."""
    if place.get("cores") and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, share(place["cores"], rank, size))
        except OSError:
            pass  # not allowed here: cores are shared as the system likes
    os.environ.update(variables(place, rank, size))
    if place.get("cwd"):
        os.makedirs(place["cwd"], exist_ok=True)
        os.chdir(place["cwd"])
