"""Fixtures of the tests of wfl."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def env_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run operations in two workers unless the environment says otherwise."""
    if "WFL_NUM_PYTHON_SUBPROCESSES" not in os.environ:
        monkeypatch.setenv("WFL_NUM_PYTHON_SUBPROCESSES", "2")


@pytest.fixture(autouse=True, scope="session")
def init_mpipool() -> Iterator[None]:
    """Let all MPI ranks but the first serve it, if the tests run under mpirun."""
    if os.environ.get("WFL_MPIPOOL"):
        from mpi4py import MPI

        from wfl.autoparallelize import mpipool_support

        mpipool_support.init()
        if MPI.COMM_WORLD.Get_rank() > 0:
            pytest.exit("this rank has served rank 0", returncode=0)
    yield
    from wfl.autoparallelize.engines.workers import close_idle_pools

    close_idle_pools()


@pytest.fixture
def quippy() -> Any:
    """The quippy module."""
    return pytest.importorskip("quippy")
