"""Grid Engine on this machine: one host with pretended slots and GPUs. Root only."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from clusters.places import Place
from clusters.reports import note_repairs
from clusters.slurm import until

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
        self.restarts: list[str] = []  # why it had to be started again
        self._lost = ""

    @staticmethod
    def missing() -> str:
        """Say why there can be none; nothing if it can be started."""
        missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
        if missing:
            return f"needs Grid Engine: not installed are {', '.join(missing)}"
        return "" if os.getuid() == 0 else "needs Grid Engine, which only root can start"

    def run(self, *command: str, check: bool = True, stdin: str = "", seconds: float = 90.0) -> str:
        """Run one of its commands and return what it writes."""
        env = {**os.environ, **self.env}
        done = subprocess.run(
            list(command), input=stdin, env=env, capture_output=True, text=True, check=False, timeout=seconds
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def repair(self, seconds: float = 15.0) -> None:
        """Undo all that tests may have done to it: it is whole and has no jobs; if need be it is started again.

        Raises
        ------
        AssertionError
            That has failed, now or before.
        """
        assert not self._lost, self._lost
        try:
            self._undo(time.monotonic() + seconds)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self._restart(str(error))

    def _undo(self, end: float) -> None:
        def left() -> float:
            return max(1.0, end - time.monotonic())

        for order in (("qdel", "-u", "*"), ("qmod", "-cq", "*"), ("qmod", "-e", "*")):
            self.run(*order, check=False, seconds=left())
        until(lambda: not self.run("qstat", "-u", "*", seconds=left()), "the end of all jobs", left())
        # whether every daemon does its work can only be seen from a job
        nowhere = ("-o", "/dev/null", "-e", "/dev/null")
        self.run("qsub", "-sync", "y", "-b", "y", "-wd", "/", *nowhere, "true", seconds=left())

    def _restart(self, why: str) -> None:
        self.restarts.append(why)
        words = ["timeout", "120", str(SCRIPT), "reset"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self._lost = f"Grid Engine was broken ({why}) and does not start again: {done.stdout}{done.stderr}"
        assert not self._lost, self._lost


@contextmanager
def running_sge() -> Iterator[GridEngine]:
    """Give a started Grid Engine; it is stopped after its last user if it was not running before."""
    _USERS.parent.mkdir(exist_ok=True)
    place = Place("sge", [str(SCRIPT), "stop"])
    try:
        with _USERS.open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            done = subprocess.run([str(SCRIPT), "start"], capture_output=True, text=True, check=False, timeout=140)
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
def sge_env(sge: GridEngine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[GridEngine]:
    """Grid Engine for commands of this process, and of no other test meanwhile; whole and without jobs."""
    for name, value in sge.env.items():
        monkeypatch.setenv(name, value)
    known = len(sge.restarts)
    with _USERS.with_name("test").open("w") as file:
        until(lambda: _locked(file), "the end of another test with Grid Engine")
        try:
            sge.repair()
            yield sge
        finally:
            note_repairs(request.node, sge.restarts[known:])


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
