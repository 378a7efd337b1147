"""A ``concurrent.futures.Executor`` whose calls ask for cores, threads, GPUs and MPI ranks, here or on a queue."""

from __future__ import annotations

from expyre.executor.executor import Executor

__all__ = ["Executor"]
