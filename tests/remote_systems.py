"""Fixtures of the tests that run on the user's own systems, those of ``$HOME/.expyre/config.json``.

    pytest --runremote --basetemp $HOME/pytest

runs them on all systems whose names match the regular expression ``EXPYRE_PYTEST_SYSTEMS``, except names that begin
with ``_``. Each test has a project of its own; its jobs run in a directory of its own and are cancelled at its end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LOCAL = "local"  # is there without being configured


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that take ``sys_name`` once for each of the user's systems."""
    if "sys_name" in metafunc.fixturenames:
        names = selected_names() if metafunc.config.getoption("--runremote") else []
        metafunc.parametrize("sys_name", names or [pytest.param(None, id="none")])


def user_config() -> Path:
    """Return where the user's systems are configured."""
    return Path.home() / ".expyre" / "config.json"


def is_selected(name: str) -> bool:
    """Return whether tests use a system."""
    return not name.startswith("_") and re.search(os.environ.get("EXPYRE_PYTEST_SYSTEMS", ""), name) is not None


def selected_names() -> list[str]:
    """Return the names of the user's systems that tests use."""
    try:
        systems = json.loads(user_config().read_text())["systems"]
    except (OSError, ValueError, KeyError):
        return []  # the fixtures say what is wrong
    names = [name for name, spec in systems.items() if isinstance(spec, dict)]
    return [name for name in [*names, *({LOCAL} - set(systems))] if is_selected(name)]


@pytest.fixture
def user_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module ``expyre.config`` with a new project of those of the user's systems that tests use."""
    from expyre import config

    if Path.home().resolve() not in tmp_path.resolve().parents:
        pytest.xfail("jobs need a directory below $HOME: use --basetemp $HOME/pytest")
    if not user_config().exists():
        pytest.skip(f"needs systems in {user_config()}")
    (tmp_path / ".expyre").mkdir()
    shutil.copy(user_config(), tmp_path / ".expyre" / "config.json")
    monkeypatch.setattr(config, "_current", None)
    config.init(tmp_path / ".expyre")
    for name in [name for name in config.systems if not is_selected(name)]:
        del config.systems[name]
    yield config
    _cancel_jobs(config.project())


def _cancel_jobs(project: Any) -> None:
    """Leave no job of a failed test in the user's queue."""
    from expyre.func import ExPyRe

    for job in ExPyRe.from_jobsdb(list(project.record.jobs(status="ongoing")), project):
        job.cancel()
    project.close()


@pytest.fixture
def expyre_config(user_project: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """The module ``expyre.config`` with the user's systems, their run directories replaced by new ones.

    These are made, except where the test is for one system, on the others.
    """
    own = request.getfixturevalue("sys_name") if "sys_name" in request.fixturenames else None
    for name, system in user_project.systems.items():
        if system.remote_rundir is not None:
            system.remote_rundir = f"{system.remote_rundir}/pytest_{tmp_path.name}"
            if own in (None, name):
                system.initialize_remote_rundir()
    return user_project


@pytest.fixture
def expyre_systems(user_project: Any) -> Any:
    """The user's systems."""
    return user_project.systems


@pytest.fixture
def system(expyre_config: Any, sys_name: str | None) -> Any:
    """The system of this name, with its own run directory."""
    if sys_name is None:
        pytest.skip("EXPYRE_PYTEST_SYSTEMS selects none of the user's systems")
    return expyre_config.systems[sys_name]


@pytest.fixture
def max_num_nodes() -> int:
    """How many nodes a job may ask for."""
    return int(os.environ.get("EXPYRE_PYTEST_MAX_NUM_NODES", "2"))


@pytest.fixture
def queued_job_resources() -> Callable[[str], tuple[dict[str, Any], dict[str, Any] | None]]:
    """A function from a system's name to resources of a small job, and of one so big that it waits in the queue.

    ``EXPYRE_PYTEST_QUEUED_JOB_RESOURCES`` is JSON or a file of JSON, ``{system: [small, big]}``; where it does not name
    a system nothing is known to wait there.
    """
    given = os.environ.get("EXPYRE_PYTEST_QUEUED_JOB_RESOURCES", "{}")
    table = json.loads(given if given.lstrip().startswith("{") else Path(given).read_text())

    def resources(name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        small, big = table.get(name, ({"max_time": "5m", "num_nodes": 1}, None))
        return small, big

    return resources


@pytest.fixture
def remoteinfo_env(repo_root: Path) -> Callable[[dict[str, Any]], None]:
    """A function that adds to a dict of RemoteInfo keywords what WFL_PYTEST_EXPYRE_INFO says, and PYTHONPATH."""

    def add(info: dict[str, Any]) -> None:
        extra = json.loads(os.environ.get("WFL_PYTEST_EXPYRE_INFO", "{}"))
        info.setdefault("resources", {}).update(extra.pop("resources", {}))
        info.update(extra)
        info["env_vars"] = [*info.get("env_vars", []), f"PYTHONPATH={repo_root}:$PYTHONPATH"]

    return add


@pytest.fixture
def ssh_command() -> str:
    """The ssh program for tests that go through one."""
    command = os.environ.get("EXPYRE_PYTEST_SSH", "/usr/bin/ssh")
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"needs {command}")
    return command


@pytest.fixture
def local_host(ssh_command: str) -> str:
    """Name of this machine for ssh, if it answers without a password."""
    host = os.environ.get("EXPYRE_LOCAL_HOST") or os.environ.get("HOSTNAME") or "localhost"
    options = ["-oBatchMode=yes", "-oConnectTimeout=5"]
    done = subprocess.run([*ssh_command.split(), *options, host, "true"], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"ssh {host} does not answer without a password")
    return host
