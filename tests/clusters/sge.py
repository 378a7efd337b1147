"""Grid Engine on this machine: one host with pretended slots and GPUs. Root only."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusters.places import Place

SCRIPT = Path(__file__).with_name("sge.sh")
_PROGRAMS = ("sge_qmaster", "sge_execd", "qsub", "qconf", "flock")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
# the commands on the ordinary PATH go through a shell script that costs more than they do
_COMMANDS = Path("/usr/lib/gridengine")
_USERS = Path("/run/wfl-sge/users")


class GridEngine:
    """The one Grid Engine of this machine."""

    def __init__(self) -> None:
        self.env = {"SGE_ROOT": "/var/lib/gridengine", "SGE_CELL": "default"}
        if _COMMANDS.is_dir():
            self.env["PATH"] = f"{_COMMANDS}{os.pathsep}{_PATH}"

    @staticmethod
    def missing() -> str:
        """Say why there can be none; nothing if it can be started."""
        missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
        if missing:
            return f"needs Grid Engine: not installed are {', '.join(missing)}"
        return "" if os.getuid() == 0 else "needs Grid Engine, which only root can start"

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """Run one of its commands and return what it writes."""
        env = {**os.environ, **self.env}
        done = subprocess.run(
            list(command), input=stdin, env=env, capture_output=True, text=True, check=False, timeout=120
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def running_sge() -> Iterator[GridEngine]:
    """Give a started Grid Engine; it is stopped after its last user if it was not running before."""
    _USERS.parent.mkdir(exist_ok=True)
    place = Place("sge", [str(SCRIPT), "stop"])
    try:
        with _USERS.open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            done = subprocess.run([str(SCRIPT), "start"], capture_output=True, text=True, check=False, timeout=180)
            assert done.returncode == 0, f"Grid Engine does not start: {done.stdout}{done.stderr}"
            yield GridEngine()
    finally:
        place.close()


@pytest.fixture(scope="session")
def sge() -> Iterator[GridEngine]:
    """Grid Engine."""
    if reason := GridEngine.missing():
        pytest.skip(reason)
    with running_sge() as engine:
        yield engine


@pytest.fixture
def sge_env(sge: GridEngine, monkeypatch: pytest.MonkeyPatch) -> GridEngine:
    """Grid Engine for commands of this process."""
    for name, value in sge.env.items():
        monkeypatch.setenv(name, value)
    return sge
