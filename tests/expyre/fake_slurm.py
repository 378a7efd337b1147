"""A stand-in for Slurm whose faults can be chosen, and a way to this machine on which scripts can be changed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from expyre.schedulers import Slurm, Submission
from expyre.transports import Completed, LocalTransport

# Takes jobs, and writes down which it has taken. `fault` is run before it does, `after` when it has.
_SBATCH = """#!/bin/sh
state={state}
echo "$*" >>"$state/calls"
[ ! -f "$state/fault" ] || . "$state/fault"
limit=$(cat "$state/limit" 2>/dev/null)
for script; do :; done
[ -r "$script" ] || {{ echo "sbatch: error: Unable to open file $script" >&2; exit 1; }}
range=$(sed -n 's/^#SBATCH --array=\\([0-9]*-[0-9]*\\).*/\\1/p' "$script" | tail -n 1)
size=1
[ -z "$range" ] || size=$((${{range#*-}} - ${{range%-*}} + 1))
if [ -n "$limit" ] && [ $(($(awk '{{n += $2}} END {{print n + 0}}' "$state"/jobs) + size)) -gt "$limit" ]; then
  echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)" >&2
  exit 1
fi
id=1000
while ! (set -C; : >"$state/id.$id") 2>/dev/null; do id=$((id + 1)); done
printf '%s %s %s|%s\\n' "$id" "$size" "$*" "$PWD" | tr '\\n' ' ' >>"$state/jobs"
echo >>"$state/jobs"
[ ! -f "$state/after" ] || . "$state/after"
if [ -f "$state/run" ]; then
  export SLURM_JOB_ID=$id
  if [ -z "$range" ]; then /bin/bash "$script"; else
    export SLURM_ARRAY_JOB_ID=$id
    for i in $(seq "${{range%-*}}" "${{range#*-}}"); do
      SLURM_ARRAY_TASK_ID=$i sh "$script" >"$i.out" 2>"$i.err"
    done
  fi >"$state/out.$id" 2>&1
fi
[ ! -f "$state/ran" ] || . "$state/ran"
echo "Submitted batch job $id"
"""

# Lists the jobs as `squeue --format="%F|%k|%o|%Z"` does.
_SQUEUE = """#!/bin/sh
state={state}
[ ! -f "$state/squeue" ] || . "$state/squeue"
while read -r id size rest; do
  comment=$(printf '%s\\n' "$rest" | sed -n 's/.*--comment=\\([0-9a-f]*\\).*/\\1/p')
  printf '%s|%s|%s|%s\\n' "$id" "${{comment:-(null)}}" "${{rest%|*}}" "${{rest##*|}}"
done <"$state/jobs"
"""

_REFUSE = "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n"
_CONFIG = '#!/bin/sh\nstate={state}\n[ ! -f "$state/config" ] || cat "$state/config"\n'
_PROGRAMS = {"sbatch": _SBATCH, "squeue": _SQUEUE, "scontrol": _CONFIG, "sacct": _REFUSE, "sacctmgr": _REFUSE}


class FakeSlurm:
    """Programs that pretend to be Slurm's, and directories for jobs.

    Parameters
    ----------
    root
        Where it has its files.
    name
        Name of the directory that holds the jobs' directories.
    """

    def __init__(self, root: Path, name: str = "place") -> None:
        self.state = root / "state"
        self.place = root / "jobs" / name
        self.bin = root / "bin"
        for directory in (self.state, self.place, self.bin):
            directory.mkdir(parents=True)
        (self.state / "jobs").touch()
        for program, text in _PROGRAMS.items():
            path = self.bin / program
            path.write_text(text.format(state=self.state))
            path.chmod(0o755)

    def scheduler(self, transport: LocalTransport | None = None, **options: Any) -> Slurm:
        """Return the queue as a new process sees it."""
        scheduler = Slurm(None, transport=transport, options={"env": self.env, **options})
        scheduler.settle_time = 0  # type: ignore[misc]
        return scheduler

    @property
    def env(self) -> dict[str, str]:
        """Variables with which its programs are found."""
        return {"PATH": f"{self.bin}:{os.environ['PATH']}"}

    def fault(self, text: str, when: str = "fault") -> None:
        """Let a program run shell text: `sbatch` before it takes a job, ``after`` it has, ``ran`` last."""
        (self.state / when).write_text(text)

    def mend(self) -> None:
        """Let all faults pass."""
        for name in ("fault", "after", "ran", "squeue", "limit"):
            (self.state / name).unlink(missing_ok=True)

    def submission(self, id: str, token: str = "", **kwargs: Any) -> Submission:
        """Return a job whose directory has its script."""
        directory = self.place / f"run_{id}"
        directory.mkdir()
        values: dict[str, Any] = {"partition": "p", "commands": (":",), "max_time": 60, **kwargs}
        sub = Submission(id=id, directory=str(directory), token=token or f"token-of-{id}", **values)
        (directory / "job.script.slurm").write_text(Slurm(None).script(sub), "utf-8", "surrogateescape")
        return sub

    def submissions(self, count: int, **kwargs: Any) -> list[Submission]:
        """Return jobs ``job0``, ``job1``, …"""
        return [self.submission(f"job{i}", **kwargs) for i in range(count)]

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """The submissions that the queue has taken, as (id, number of members)."""
        lines = (self.state / "jobs").read_text().splitlines()
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    @property
    def calls(self) -> list[str]:
        """The arguments of every `sbatch` so far."""
        path = self.state / "calls"
        return path.read_text().splitlines() if path.exists() else []


class Changed(LocalTransport):
    """The way to this machine on which the first script that has an input is changed.

    Parameters
    ----------
    change
        Makes another script of it.

    Attributes
    ----------
    runs
        How many scripts were run.
    scripts, inputs
        What was asked to be run.
    """

    def __init__(self, change: Callable[[str], str] = str) -> None:
        super().__init__()
        self._change: Callable[[str], str] | None = change
        self.runs = 0
        self.scripts: list[str] = []
        self.inputs: list[bytes] = []

    def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        """Run a shell script."""
        self.runs += 1
        self.scripts.append(script)
        self.inputs.append(stdin)
        if self._change is not None and stdin:
            script, self._change = self._change(script), None
        return super().run(script, stdin, timeout)


def with_death(script: str, line: int) -> str:
    """Return a script that kills its shell before a line."""
    lines = script.split("\n")
    return "\n".join([*lines[:line], "kill -9 $$", *lines[line:]])


def places_to_die(script: str) -> list[int]:
    """Return the numbers of the lines before which a shell can be told to die."""
    return [line for line in range(script.count("\n") + 1) if _is_shell(with_death(script, line))]


def _is_shell(script: str) -> bool:
    return subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).returncode == 0
