"""Fixtures of the tests of wfl."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
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


@pytest.fixture
def expyre_systems(tmp_path: Path) -> Any:
    """The systems of the user's configuration that EXPYRE_PYTEST_SYSTEMS selects, with a record of their own."""
    from expyre import config

    home = Path.home().resolve()
    if home not in tmp_path.resolve().parents:
        pytest.xfail("jobs need a directory below $HOME: use --basetemp $HOME/pytest")
    if not (home / ".expyre" / "config.json").exists():
        pytest.skip("needs systems in $HOME/.expyre/config.json")
    (tmp_path / ".expyre").mkdir()
    shutil.copy(home / ".expyre" / "config.json", tmp_path / ".expyre" / "config.json")
    config.init(tmp_path)
    wanted = re.compile(os.environ.get("EXPYRE_PYTEST_SYSTEMS", ""))
    for name in [name for name in config.systems if not wanted.search(name)]:
        del config.systems[name]
    return config.systems


@pytest.fixture
def remoteinfo_env(repo_root: Path) -> Callable[[dict[str, Any]], None]:
    """A function that adds to a dict of RemoteInfo keywords what WFL_PYTEST_EXPYRE_INFO says, and PYTHONPATH."""

    def add(info: dict[str, Any]) -> None:
        extra = json.loads(os.environ.get("WFL_PYTEST_EXPYRE_INFO", "{}"))
        info.setdefault("resources", {}).update(extra.pop("resources", {}))
        info.update(extra)
        info["env_vars"] = [*info.get("env_vars", []), f"PYTHONPATH={repo_root}:$PYTHONPATH"]

    return add
