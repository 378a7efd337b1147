"""One running job: started or adopted, watched, ended with its whole tree of processes."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from . import processes
from .budget import Demand
from .spool import JOB_VARIABLE, Spool, load_environment

TIMED_OUT, OUT_OF_MEMORY, NODE_FAILED = "TimedOut", "OutOfMemory", "NodeFailed"
CANCELLED, DIED = "Cancelled", "ExPyReJobDiedError"

# Runs the job's script and notes its exit status, whoever is there to see it. $0 is the file for the status; the traps
# make the shell outlive the signals that end the script.
_WRAPPER = """\
trap : TERM HUP INT USR1 USR2 XCPU
if [ -n "$EXPYRE_LOCAL_STACK" ]; then ulimit -S -s "$EXPYRE_LOCAL_STACK" 2>/dev/null; unset EXPYRE_LOCAL_STACK; fi
"$@"
_status=$?
echo "$_status" > "$0"
exit "$_status"
"""


@dataclass
class Ended:
    """How a job ended: exit status of its script, one of the reasons above or empty if all went well, and words."""

    exit_code: int | None
    reason: str = ""
    detail: str = ""


@dataclass
class Running:
    """A job that runs.

    Attributes
    ----------
    deadline
        When its time is up, on the monotonic clock.
    kill, kill_detail
        Why it is being ended, if it is.
    kill_at
        When patience with a job that is being ended is over.
    """

    id: int
    name: str
    demand: Demand
    pid: int
    start: str
    mark: str
    exit_file: str
    gpu_ids: list[str]
    deadline: float | None
    max_time: float | None
    grace: float
    process: subprocess.Popen[bytes] | None = None
    kill: str = ""
    kill_detail: str = ""
    kill_at: float = 0.0
    give_up_at: float = 0.0
    oom_kills: int = field(default_factory=processes.oom_kills)

    def alive(self) -> bool:
        """Return whether the job's session leader still runs."""
        if self.process is not None:
            return self.process.poll() is None
        now = processes.look(self.pid)
        return now is not None and now.start == self.start

    def members(self, known: processes.Processes, table: Mapping[int, processes.Process]) -> list[processes.Process]:
        """Return the live processes of the job."""
        leader = table.get(self.pid)
        # a job taken over may have ended long ago, and its leader's number may be another process's by now
        trusted = self.process is not None or (leader is not None and leader.start == self.start)
        return known.of(self.mark, self.pid if trusted else -1, table)

    def begin_kill(self, reason: str, detail: str, members: list[processes.Process]) -> None:
        """Ask all processes of the job to end."""
        self.kill, self.kill_detail = reason, detail
        self.kill_at = time.monotonic() + self.grace
        self.give_up_at = self.kill_at + 30.0
        processes.signal_all(members, signal.SIGTERM)
        processes.signal_all(members, signal.SIGCONT)

    def ended(self) -> Ended:
        """Return how the job ended, after it has."""
        code = self._exit_code()
        if self.kill:
            return Ended(code, self.kill, self.kill_detail)
        if code == 137 and processes.oom_kills() > self.oom_kills:
            return Ended(code, OUT_OF_MEMORY, "the kernel killed a process while the machine was out of memory")
        if code is None:
            return Ended(None, DIED, "the job's processes vanished without an exit status (killed by hand?)")
        return Ended(code, DIED if code else "", exit_text(code) if code else "")

    def _exit_code(self) -> int | None:
        try:
            with open(self.exit_file) as file:
                text = file.read()
        except OSError:
            text = ""
        if text.endswith("\n"):
            return int(text)
        if self.process is not None and self.process.returncode is not None and self.process.returncode >= 0:
            return self.process.returncode
        return None

    def forget(self) -> None:
        """Remove what was only needed while the job ran."""
        try:
            os.unlink(self.exit_file)
        except OSError:
            pass


def exit_text(code: int) -> str:
    """Return an exit status in words."""
    if code > 128:
        try:
            return f"the job's script ended with status {code} (signal {signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"the job's script ended with status {code}"


def demand_of(row: sqlite3.Row) -> Demand:
    """Return what the job of a row needs."""
    return Demand(row["id"], row["cores"], row["mem"], row["gpus"], row["partition"], row["cap"])


def _of_row(spool: Spool, row: sqlite3.Row, pid: int, start: str, gpu_ids: list[str]) -> Running:
    spent = max(0.0, time.time() - row["t_start"]) if row["t_start"] else 0.0
    return Running(
        id=row["id"],
        name=row["name"],
        demand=demand_of(row),
        pid=pid,
        start=start,
        mark=mark_of(spool, row["id"]),
        exit_file=exit_file_of(spool, row["id"]),
        gpu_ids=gpu_ids,
        deadline=None if row["max_time"] is None else time.monotonic() + row["max_time"] - spent,
        max_time=row["max_time"],
        grace=row["grace"],
    )


def mark_of(spool: Spool, id: int) -> str:
    """Return the entry of the environment that marks a job's processes."""
    return f"{JOB_VARIABLE}={spool.mark}:{id}"


def exit_file_of(spool: Spool, id: int) -> str:
    """Return the file that gets the exit status of a job."""
    return os.fspath(spool.exits / str(id))


def launch(
    spool: Spool, connection: sqlite3.Connection, row: sqlite3.Row, gpu_ids: list[str], gpus_here: bool
) -> Running:
    """Start the job of a row in a session of its own.

    Raises
    ------
    OSError
        Its directory or its shell is not there, or its output files cannot be written.
    """
    stored = load_environment(connection, row["environment"])
    environment = job_environment(spool, row["id"], stored, row["gpus"], gpu_ids, gpus_here)
    exit_file = exit_file_of(spool, row["id"])
    words = ["/bin/sh", "-c", _WRAPPER, exit_file, *shlex.split(row["command"])]
    directory = row["directory"]
    with _output(directory, row["name"], "stdout") as stdout, _output(directory, row["name"], "stderr") as stderr:
        process = subprocess.Popen(
            words,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            umask=stored["umask"],
        )
    now = processes.look(process.pid)
    job = _of_row(spool, row, process.pid, now.start if now else "", gpu_ids)
    job.process = process
    job.deadline = None if job.max_time is None else time.monotonic() + job.max_time
    return job


def job_environment(
    spool: Spool, id: int, stored: Mapping[str, Any], gpus: int, gpu_ids: list[str], gpus_here: bool
) -> dict[str, str]:
    """Return the environment of a job: that of its submitter, the job's mark, and the GPUs it may see.

    On a machine with GPUs a job that asked for none sees none.
    """
    environment: dict[str, str] = {**stored["env"]}
    name, _, value = mark_of(spool, id).partition("=")
    environment[name] = value
    if stored["stack"]:
        environment["EXPYRE_LOCAL_STACK"] = stored["stack"]
    if gpus or gpus_here:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
    return environment


def _output(directory: str, name: str, stream: str) -> BinaryIO:
    return open(os.path.join(directory, f"job.{name}.{stream}"), "wb")


def adopt(
    spool: Spool, row: sqlite3.Row, table: Mapping[int, processes.Process], known: processes.Processes
) -> Running | None:
    """Return the job of a row that an earlier supervisor started, running or ended since; None if it never started."""
    gpu_ids = row["gpu_ids"].split(",") if row["gpu_ids"] else []
    if row["pid"]:
        return _of_row(spool, row, row["pid"], row["pid_start"], gpu_ids)
    members = known.of(mark_of(spool, row["id"]), -1, table)
    leaders = [process for process in members if process.session == process.pid] or members
    if leaders:
        return _of_row(spool, row, leaders[0].pid, leaders[0].start, gpu_ids)
    if os.path.exists(exit_file_of(spool, row["id"])):
        return _of_row(spool, row, -1, "", gpu_ids)
    return None
