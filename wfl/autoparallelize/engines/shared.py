"""The executor that stands in for worker processes in all calls: the ranks of MPI, or what ``WFL_EXECUTOR`` names."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
from concurrent.futures import Executor

from .executor import abandoned

__all__ = ["shared_executor"]

_from_env: dict[str, Executor] = {}


def shared_executor(n: int | None) -> Executor | None:
    """Return the executor that stands in for a pool of ``n`` workers (None: not said): the ranks of MPI, or that of
    ``WFL_EXECUTOR`` (``module:factory``); None if there is none, or if ``n`` is 0.
    """  # noqa: D205
    from .. import mpipool_support

    if n and mpipool_support.wfl_mpipool is not None:
        mpipool_support.warn_ignored(n)
        return mpipool_support.wfl_mpipool
    spec = os.environ.get("WFL_EXECUTOR", "").strip()
    if not spec or n == 0:
        return None
    if spec not in _from_env:
        _from_env[spec] = _make_executor(spec)
    return _from_env[spec]


def _make_executor(spec: str) -> Executor:
    module, _, name = spec.partition(":")
    if not module or not name:
        raise ValueError(f"environment variable WFL_EXECUTOR must be module:factory, not {spec!r}")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"environment variable WFL_EXECUTOR={spec}: {error}") from error
    executor: Executor = factory()
    if not hasattr(executor, "submit"):
        raise TypeError(f"environment variable WFL_EXECUTOR={spec}: {name}() returned {executor!r}, not an executor")
    atexit.register(_shut_down, executor)
    return executor


def _shut_down(executor: Executor) -> None:
    """Shut an executor down when the script ends, without waiting for what only goes on because nothing can stop it."""
    with contextlib.suppress(Exception):
        executor.shutdown(wait=all(future.done() for future in abandoned))
