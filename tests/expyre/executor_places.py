"""What a call finds out about its place."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def threads() -> set[str]:
    return {os.environ[name] for name in THREADS}


def cores() -> set[int]:
    return os.sched_getaffinity(0)


def gpus(seconds: float = 0.0) -> tuple[float, float, set[str]]:
    """Return when the call ran, and its GPUs."""
    names = {os.environ.get("CUDA_VISIBLE_DEVICES", "none"), os.environ.get("ROCR_VISIBLE_DEVICES", "none")}
    assert len(names) == 1
    begin = time.monotonic()
    time.sleep(seconds)
    return begin, time.monotonic(), set(next(iter(names)).split(",")) - {""}


def span(slots: int, seconds: float) -> tuple[int, float, float]:
    begin = time.monotonic()
    time.sleep(seconds)
    return slots, begin, time.monotonic()


def pinned_span(seconds: float) -> tuple[set[int], float, float]:
    begin = time.monotonic()
    time.sleep(seconds)
    return os.sched_getaffinity(0), begin, time.monotonic()


def directory() -> str:
    return os.getcwd()


def note_begin(path: str, name: Any, seconds: float) -> None:
    with open(path, "a") as file:
        file.write(f"{name}\n")
    time.sleep(seconds)


def meet(here: str, there: str) -> None:
    """Return once another call does the same at the same time."""
    Path(here).touch()
    end = time.monotonic() + 30
    while not os.path.exists(there):
        if time.monotonic() > end:
            raise TimeoutError(there)
        time.sleep(0.01)


def most_at_once(spans: Iterable[tuple[int, float, float]]) -> int:
    """Return the largest sum of weights of spans that overlap."""
    spans = list(spans)
    return max(sum(weight for weight, begin, end in spans if begin <= at < end) for _, at, _ in spans)
