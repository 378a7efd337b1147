"""kill -9 of a workflow script at every step from creating jobs to storing results: no job lost, none run twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import expyre
import wfl
from expyre.config import Project

SCRIPT = """
import sys
from pathlib import Path

from ase.build import molecule
from wfl.autoparallelize import autoparallelized
from wfl.configset import ConfigSet, OutputSpec

LOG = str(Path("computed").resolve())

@autoparallelized()
def work(atoms, log):
    for at in atoms:
        with open(log, "a") as out:
            out.write(f"{at.info['i']}\\n")
        at.info["done"] = True
    return atoms

def inputs():
    for i in range(6):
        at = molecule("H2O")
        at.info["i"] = i
        yield at

results = work(ConfigSet(list(inputs())), OutputSpec("out.xyz"), LOG)
print([int(at.info["i"]) for at in results])
"""
ROUTES = {
    "work": {
        "sys_name": "local",
        "job_name": "work",
        "resources": {"num_cores": 1, "max_time": "5m"},
        "num_inputs_per_queued_job": 2,
        "env_vars": ["WFL_NUM_PYTHON_SUBPROCESSES=0"],
    }
}
SOURCES = [*Path(expyre.__file__).parent.rglob("*.py"), *Path(wfl.__file__).parent.rglob("*.py")]
STEPS = sorted({name for path in SOURCES for name in re.findall(r'\bstep\("(\w+\.\d)"\)', path.read_text())})


def test_there_are_steps_in_every_phase() -> None:
    assert {name.split(".")[0] for name in STEPS} == {"create", "submit", "gather", "store"}


@pytest.mark.parametrize("name", STEPS)
def test_killed_at(name: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "_expyre").mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("WFL_", "EXPYRE_"))}
    env.update(
        HOME=str(tmp_path),
        EXPYRE_LOCAL_DIR=str(tmp_path / "queue"),
        EXPYRE_LOCAL_CORES="4",
        WFL_EXPYRE_INFO=json.dumps(ROUTES),
    )

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env={**env, **more},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    killed = run(EXPYRE_KILL_AT=name)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run()
    assert done.stdout == "[0, 1, 2, 3, 4, 5]\n", done.stderr
    assert sorted((tmp_path / "computed").read_text().split()) == list("012345")
    project = Project.discover(tmp_path / "_expyre")
    statuses = [row.status for row in project.record.query()]
    project.close()
    assert len(statuses) == 3
    # where the script died between closing the output and saying so, the output is reused and the jobs stay as they are
    assert set(statuses) <= ({"processed", "succeeded"} if name == "store.3" else {"processed"})
