"""Fixtures of the tests of expyre."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def expyre_dummy_config(tmp_path: Path) -> Path:
    """A project with the configuration in tests/assets/expyre_dummy_config.json; returns its directory."""
    from expyre import config

    (tmp_path / ".expyre").mkdir()
    asset = Path(__file__).resolve().parent.parent / "assets" / "expyre_dummy_config.json"
    shutil.copy(asset, tmp_path / ".expyre" / "config.json")
    config.init(tmp_path / ".expyre")
    return tmp_path


@pytest.fixture
def expyre_config(tmp_path: Path) -> Any:
    """A project with the user's own systems, as far as EXPYRE_PYTEST_SYSTEMS selects them, with its own directories."""
    from expyre import config

    home = Path.home().resolve()
    if home not in tmp_path.resolve().parents:
        pytest.xfail("jobs need a directory below $HOME: use --basetemp $HOME/pytest")
    if not (home / ".expyre" / "config.json").exists():
        pytest.skip("needs systems in $HOME/.expyre/config.json")
    (tmp_path / ".expyre").mkdir()
    shutil.copy(home / ".expyre" / "config.json", tmp_path / ".expyre" / "config.json")
    config.init(tmp_path / ".expyre")
    wanted = re.compile(os.environ.get("EXPYRE_PYTEST_SYSTEMS", ""))
    for name, system in list(config.systems.items()):
        if not wanted.search(name):
            del config.systems[name]
        elif system.remote_rundir is not None:
            system.remote_rundir = f"{system.remote_rundir}/pytest_{tmp_path.name}"
    return config


@pytest.fixture
def ssh_command() -> str:
    """The ssh binary for tests that go through one."""
    command = os.environ.get("EXPYRE_PYTEST_SSH", "/usr/bin/ssh")
    if shutil.which(command) is None:
        pytest.skip(f"needs {command}")
    return command


@pytest.fixture
def local_host() -> str:
    """Name of this machine for ssh, if it answers without a password."""
    host = os.environ.get("EXPYRE_LOCAL_HOST", os.environ.get("HOSTNAME", "localhost"))
    ssh = os.environ.get("EXPYRE_PYTEST_SSH", "/usr/bin/ssh")
    try:
        subprocess.run([ssh, "-oBatchMode=yes", "-oConnectTimeout=2", host, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"ssh {host} does not answer without a password")
    return host
