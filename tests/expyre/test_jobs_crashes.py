"""kill -9 at every step of create, submit and gather: no job is lost, none runs twice."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import expyre
from expyre.config import Project

SCRIPT = """
import sys
from expyre.func import Call, create_jobs, start_jobs
from expyre.gather import as_completed

def work(path, i):
    with open(path, "a") as out:
        out.write(f"{i}\\n")
    return i * i

jobs = create_jobs([Call(f"work_{i}", work, (sys.argv[1], i), scope="work") for i in range(3)])
start_jobs(jobs, {"max_time": 60, "num_cores": 1}, "local")
outcomes = list(as_completed(jobs, timeout=200, quiet=True))
print(sorted(outcome.result() for outcome in outcomes))
for outcome in outcomes:
    outcome.job.mark_processed()
"""
PACKAGE = Path(expyre.__file__).parent
STEPS = sorted(
    {name for path in PACKAGE.rglob("*.py") for name in re.findall(r'\bstep\("([\w.]+)"\)', path.read_text())}
)


def test_there_are_steps_in_every_phase():
    assert {name.split(".")[0] for name in STEPS} >= {"create", "submit", "gather"}


@pytest.mark.parametrize("name", STEPS)
def test_killed_at(name, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "_expyre").mkdir()
    runs = tmp_path / "runs"
    command = [sys.executable, str(script), str(runs)]
    env = {**os.environ, "EXPYRE_LOCAL_DIR": str(tmp_path / "queue"), "EXPYRE_LOCAL_CORES": "4", "HOME": str(tmp_path)}
    killed = subprocess.run(
        command,
        cwd=tmp_path,
        env={**env, "EXPYRE_KILL_AT": name},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=250, check=False)
    assert done.stdout == "[0, 1, 4]\n", done.stderr
    assert sorted(runs.read_text().split()) == ["0", "1", "2"]
    project = Project.discover(tmp_path / "_expyre")
    assert [row.status for row in project.record.query()] == ["processed"] * 3
    project.close()
