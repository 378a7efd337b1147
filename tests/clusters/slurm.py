"""Slurm on this machine: two nodes with pretended cores and GPUs, of whoever runs the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clusters.places import Place, free_ports

SCRIPT = Path(__file__).with_name("slurm.sh")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "flock")
_DBD_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def until(condition: Callable[[], Any], what: str = "it", seconds: float = 90.0) -> Any:
    """Wait until something is true and return it."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds:.0f} s"
        time.sleep(0.05)
    return value


class SlurmCluster:
    """A Slurm of its own.

    Parameters
    ----------
    accounting
        Whether ``sacct`` works and memory limits end jobs.
    nodes, cpus
        How many nodes, and pretended cores per node; each node has two GPUs and 16 GB.
    settings
        Settings of ``slurm.conf`` other than usual, ``{"MinJobAge": 2}``.

    Attributes
    ----------
    directory
        Configuration, state and logs.
    port
        Of the controller.
    restarts
        Why it had to be started again from nothing.
    """

    def __init__(
        self, accounting: bool = False, nodes: int = 2, cpus: int = 8, settings: Mapping[str, object] | None = None
    ) -> None:
        self.accounting = accounting
        self.nodes = [f"node{i + 1}" for i in range(nodes)]
        self.port = 0
        self.cpus = cpus
        self._settings = dict(settings or {})
        self._place: Place | None = None
        self.restarts: list[str] = []
        self._lost = ""
        self._end: float | None = None  # of the patience of `repair`

    @staticmethod
    def missing(accounting: bool = False) -> str:
        """Say which programs are missing for one; nothing if it can be started."""
        programs = _PROGRAMS + (_DBD_PROGRAMS if accounting else ())
        missing = [program for program in programs if shutil.which(program, path=_PATH) is None]
        return f"needs Slurm: not installed are {', '.join(missing)}" if missing else ""

    @property
    def directory(self) -> Path:
        assert self._place is not None, "the cluster has not been started"
        return self._place.path

    @property
    def conf(self) -> Path:
        """The configuration file."""
        return self.directory / "slurm.conf"

    def start(self) -> None:
        """Start it from nothing."""
        for tries_left in (2, 1, 0):
            place = Place("slurm", [str(SCRIPT), "stop"])
            with free_ports(4 + len(self.nodes), place) as port:
                done = _run([str(SCRIPT), "start", str(place.path)], self._variables(port), seconds=120)
            if done.returncode == 0:
                self._place, self.port = place, port
                return
            logs = "".join(f"\n{path}:\n{path.read_text()[-2000:]}" for path in (place.path / "log").glob("*"))
            place.close()
            assert tries_left, f"Slurm does not start: {done.stdout}{done.stderr}{logs}"

    def _variables(self, port: int) -> dict[str, str]:
        return {
            "SLURM_PORT": str(port),
            "SLURM_NODES": str(len(self.nodes)),
            "SLURM_CPUS": str(self.cpus),
            "SLURM_DBD": str(int(self.accounting)),
            "SLURM_SETTINGS": " ".join(f"{name}={value}" for name, value in self._settings.items()),
        }

    def stop(self) -> None:
        """Stop everything and forget it."""
        if self._place is not None:
            self._place.close()
            self._place = None

    # -- use -----------------------------------------------------------------------------------------------------

    def env(self) -> dict[str, str]:
        """Return the environment variables by which its commands find it."""
        return {"SLURM_CONF": str(self.conf)}

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """Run one of its commands and return what it writes."""
        done = _run(list(command), self.env(), stdin, self._left())
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """Submit a script and return the job's id."""
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}\n"
        return self.run("sbatch", "--parsable", *options, stdin=text).split(";")[0].strip()

    def state(self, job_id: str) -> str:
        """Return the state of a job, nothing if it is not known any more."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%T", "--jobs", job_id, check=False).strip()

    def wait(self, job_id: str, *states: str) -> str:
        """Wait until a job is in one of some states, or has left the queue."""
        return until(lambda: (s := self.state(job_id)) in states and s, f"{'/'.join(states)} of {job_id}")

    def jobs(self) -> list[str]:
        """Return the ids of all jobs that wait or run."""
        return self.run("squeue", "--noheader", "--array", "--format=%i").split()

    def scancel_all(self) -> None:
        """Cancel all jobs and wait until they are gone."""

        def tried() -> bool:
            # again and again: a job that is being put back into the queue cannot be cancelled before it is there
            for state in ("PENDING", "RUNNING", "SUSPENDED"):
                self.run("scancel", f"--state={state}", f"--user={_user()}", check=False)
            return not self.jobs()

        until(tried, "the end of all jobs", self._left())

    # -- faults --------------------------------------------------------------------------------------------------

    def node_state(self, name: str) -> str:
        return self.run("sinfo", "--noheader", f"--nodes={name}", "--partition=normal", "--format=%t").strip()

    def set_node_down(self, name: str) -> None:
        """Let a node fail: its jobs are requeued, those with ``--no-requeue`` have failed with their node."""
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def set_node_up(self, name: str) -> None:
        """Let a node do its work again."""

        def tried() -> bool:
            state = self.node_state(name)  # with a "*" it has not answered yet
            if state.rstrip("-") in ("idle", "mix", "alloc", "comp", "plnd"):
                return True
            if state.startswith(("down", "drain", "drng", "unk", "fail")):
                self.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
            return False

        until(tried, f"the return of {name}", self._left())

    def stop_controller(self) -> None:
        """Stop slurmctld: jobs run on, commands fail."""
        pid = self.daemon("slurmctld")
        os.kill(pid, signal.SIGTERM)
        until(lambda: not _alive(pid), "the end of slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld again, with the jobs that it knew."""
        self.run("slurmctld")
        until(lambda: "UP" in self.run("scontrol", "ping", check=False), "the start of slurmctld", self._left())

    def daemon(self, name: str) -> int:
        """Return the process id of ``slurmctld``, ``slurmd.node1``, ``munged``, …; 0 if it never was."""
        path = self.directory / ("munge/pid" if name == "munged" else f"run/{name}.pid")
        return int(path.read_text()) if path.exists() else 0

    def repair(self, seconds: float = 15.0) -> None:
        """Undo all that tests may have done to it: it is whole and has no jobs.

        What cannot be undone in some seconds is undone by starting it again from nothing, at the same place.

        Raises
        ------
        AssertionError
            That has failed, now or before.
        """
        assert not self._lost, self._lost
        self._end = time.monotonic() + seconds
        try:
            self._undo()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.restart(str(error))
        finally:
            self._end = None

    def restart(self, why: str) -> None:
        """Kill everything that belongs to it, and start it from nothing at the same place."""
        self.restarts.append(why)
        try:
            done = _run([str(SCRIPT), "reset", str(self.directory)], self._variables(self.port), seconds=100)
            failed = "" if done.returncode == 0 else done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            failed = str(error)
        if failed:
            self._lost = f"the Slurm in {self.directory} was broken ({why}) and does not start again: {failed}"
        assert not failed, self._lost

    def _undo(self) -> None:
        faults = [fault for name in self._daemons() if (fault := _fault(name, self.daemon(name)))]
        assert not faults, ", ".join(faults)
        if not _alive(self.daemon("slurmctld")):
            self.start_controller()
        for name in self.nodes:
            self.set_node_up(name)
        self.scancel_all()
        if self.accounting:
            self.run("sacctmgr", "--noheader", "show", "cluster")
        # whether every daemon does its work can only be seen from a job
        self.run("srun", f"--nodes={len(self.nodes)}", "--chdir=/", "--output=none", "true")
        until(lambda: not self.jobs(), "the end of a trial", self._left())

    def _left(self) -> float:
        """Return how many seconds one may wait for something."""
        return 90.0 if self._end is None else max(1.0, self._end - time.monotonic())

    def _daemons(self) -> list[str]:
        accounting = ["slurmdbd", "mariadb"] if self.accounting else []
        return ["munged", *(f"slurmd.{name}" for name in self.nodes), *accounting]


@contextmanager
def running_slurm(**options: Any) -> Iterator[SlurmCluster]:
    """Give a started `SlurmCluster`, stopped when the block ends."""
    cluster = SlurmCluster(**options)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z")


def _state(pid: int) -> str:
    """Return the letter of a process' state, nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _fault(name: str, pid: int) -> str:
    state = _state(pid)
    return f"{name} has ended" if state in ("", "Z") else f"{name} is stopped" if state in ("T", "t") else ""


def _run(
    command: list[str], variables: Mapping[str, str], stdin: str = "", seconds: float = 90.0
) -> subprocess.CompletedProcess[str]:
    # what a job sets for its own commands would steer these
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))}
    env |= {"PATH": _PATH, **variables}
    return subprocess.run(command, input=stdin, env=env, capture_output=True, text=True, check=False, timeout=seconds)
