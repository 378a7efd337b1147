"""What an engine is, and which one carries a call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from expyre.errors import WorkerDied

from ..batching import Chunks
from ..task import Chunk, Task

__all__ = ["Done", "Engine", "WorkerDied", "choose_engine", "number_from_env", "number_of_cores"]


@dataclass
class Done:
    """A chunk that has been through the operation: one result per item, or what went wrong."""

    chunk: Chunk
    results: list[Any]
    error: BaseException | None = None


class Engine(Protocol):
    """Runs a task over chunks."""

    def run(self, task: Task, chunks: Chunks) -> Iterator[Done]:
        """Yield the chunks in the order in which they came, reading only a bounded number of them ahead.

        An exception of the operation is raised, and ends the work; a chunk whose worker died is yielded with its
        error, and the work goes on. Closing the iterator stops the workers. If the guard of the chunks gives up what
        runs, all that is finished is yielded, still in order, but not all of the chunks.
        """
        ...


def number_from_env(*names: str) -> int | None:
    """Return the non-negative integer in the first of these environment variables that is set and not empty.

    Raises
    ------
    ValueError
        It is no such number.
    """
    for name in names:
        text = os.environ.get(name, "").strip()
        if text:
            if not text.isdecimal():
                raise ValueError(f"environment variable {name} must be a non-negative integer, not {text!r}")
            return int(text)
    return None


def number_of_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not everywhere
        return os.cpu_count() or 1


def choose_engine(num_python_subprocesses: int | None, executor: Any = None) -> Engine:
    """Return the engine for a number of worker processes (None: from the environment) and an executor (or None).

    An executor given with the call is used whatever the number is. Without any worker asked for, everything runs in
    this process, also under MPI; otherwise the executor of the environment or the ranks of MPI come before the pool.
    """
    from .serial import SerialEngine

    if executor is not None:
        from .executor import ExecutorEngine

        return ExecutorEngine(executor)
    n = num_python_subprocesses
    if n is None and _inside_operation():
        return SerialEngine()
    if n is None:
        n = number_from_env("WFL_NUM_PYTHON_SUBPROCESSES", "WFL_AUTOPARA_NPOOL")
    if _executor_may_be_shared() and not _inside_operation():
        from .executor import ExecutorEngine
        from .shared import shared_executor

        shared = shared_executor(n)
        if shared is not None:
            return ExecutorEngine(shared)
    if not n or n < 0:
        return SerialEngine()
    from .process import ProcessEngine

    return ProcessEngine(n)


def _executor_may_be_shared() -> bool:
    from .. import mpipool_support

    return mpipool_support.wfl_mpipool is not None or bool(os.environ.get("WFL_EXECUTOR", "").strip())


def _inside_operation() -> bool:
    from .here import inside_operation

    return inside_operation.get()
