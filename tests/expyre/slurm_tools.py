"""A script over SSH to Slurm for tests, its ledger of what ran, and queue commands that misbehave when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from expyre import gather

ONE_CORE = {"max_time": "5m", "num_cores": 1, "partitions": "normal"}

SCRIPT = """
import sys, time
from expyre.func import Call, create_jobs, start_jobs
from expyre.gather import as_completed

def work(ledger, number, seconds):
    import os, time
    handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{number}\\n".encode())
    os.close(handle)
    time.sleep(seconds)
    return number * number

ledger, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
jobs = create_jobs([Call(f"work_{i}", work, (ledger, i, seconds), scope="work") for i in range(count)])
start_jobs(jobs, {"max_time": "5m", "num_cores": 1, "partitions": "normal"}, "slurm", partial_node=True)
outcomes = list(as_completed(jobs, timeout=250, quiet=True, check_interval=2))
print(sorted(outcome.result() for outcome in outcomes))
"""


def turn(ledger, number, data):
    """Run as a job: note the number in a ledger, return the data backwards."""
    with open(ledger, "a") as file:
        file.write(f"{number}\n")
    return data[::-1]


class Script:
    """The script of a user: ``count`` jobs of some seconds, each of which writes its number into a ledger."""

    def __init__(self, directory: Path, count: int, seconds: float = 0.0) -> None:
        self.directory, self.count = directory, count
        self.path, self.ledger = directory / "script.py", directory / "ledger"
        self.path.write_text(SCRIPT)
        self.words = [sys.executable, str(self.path), str(self.ledger), str(count), str(seconds)]

    def start(self, **env: str) -> subprocess.Popen[str]:
        """Start the script."""
        env = {**os.environ, "EXPYRE_ROOT": str(self.directory / ".expyre"), **env}
        return subprocess.Popen(
            self.words, cwd=self.directory, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, **env: str) -> tuple[int, str, str]:
        """Run the script; return exit status, stdout and stderr."""
        process = self.start(**env)
        stdout, stderr = process.communicate(timeout=280)
        return process.returncode, stdout, stderr

    def run_until_killed_at(self, step: str) -> None:
        """Run the script until it kills itself at a step."""
        status, stdout, stderr = self.run(EXPYRE_KILL_AT=step)
        assert status == -signal.SIGKILL, (step, status, stdout, stderr)

    def ran(self) -> list[int]:
        """Return the numbers of the jobs that have run, as often as they have."""
        return sorted(int(line) for line in self.ledger.read_text().split()) if self.ledger.exists() else []

    def finish(self) -> None:
        """Run the script to its end; everything is right, and ran once."""
        status, stdout, stderr = self.run()
        assert stdout == f"{sorted(i * i for i in range(self.count))}\n", stderr
        assert status == 0
        assert self.ran() == list(range(self.count))


class Faults:
    """Commands of the queue that do as usual until told otherwise; the system's option ``env`` puts them on PATH."""

    def __init__(self, directory: Path, *commands: str) -> None:
        self.directory = directory / "faulty"
        self.directory.mkdir()
        for name in commands:
            script = self.directory / name
            script.write_text(_FAULTY.format(place=self.directory, name=name))
            script.chmod(0o755)

    @property
    def options(self) -> dict[str, object]:
        """``scheduler_options`` of the system."""
        return {"env": {"PATH": f"{self.directory}:/usr/bin:/bin:/usr/sbin:/sbin"}}

    def set(self, command: str, shell: str) -> None:
        """Let a command do something else first: shell text, which may end it."""
        new = self.directory / f"{command}.new"
        new.write_text(shell + "\n")
        new.rename(self.directory / f"{command}.fault")

    def heal(self, command: str) -> None:
        """Let a command do as usual again."""
        (self.directory / f"{command}.fault").unlink(missing_ok=True)


_FAULTY = """#!/bin/sh
[ -f {place}/{name}.fault ] && . {place}/{name}.fault
exec /usr/bin/{name} "$@"
"""


def outcomes_of(jobs, **options):
    """Wait for jobs; return their outcomes in the order of the jobs."""
    found = {o.job.id: o for o in gather.as_completed(jobs, **{"timeout": 200, "quiet": True, **options})}
    return [found[job.id] for job in jobs]
