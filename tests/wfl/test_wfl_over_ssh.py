"""The same script serially and as jobs on a real Slurm behind a real sshd: the same results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from wfl.calculators import generic
from wfl.configset import ConfigSet, OutputSpec
from wfl.generate import optimize

rng = np.random.default_rng(5)
cells = []
for i in range(7):
    at = bulk("Cu", cubic=True)
    at.rattle(0.1, rng=rng)
    at.info["i"] = i
    cells.append(at)
evaluated = generic.calculate(ConfigSet(cells), OutputSpec("evaluated.xyz"), EMT(), output_prefix="EMT_")
relaxed = optimize.optimize(evaluated, OutputSpec("relaxed.xyz"), EMT(), fmax=0.5)
"""
ROUTE = {
    "sys_name": "slurm",
    "job_name": "job",
    "resources": {"num_cores": 1, "max_time": "5m", "partitions": "normal"},
    "partial_node": True,
    "num_inputs_per_queued_job": 3,
    "check_interval": 2,
}


def run(directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    (directory / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    environment = {**os.environ, **env}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=280)


def results(directory: Path) -> list[dict[str, object]]:
    from ase.io import read

    found = []
    for name in ("evaluated.xyz", "relaxed.xyz"):
        for at in read(directory / name, ":"):
            # EMT's neighbour list depends a little on what was calculated before in the same process
            energies = {key: round(value, 6) for key, value in at.info.items() if isinstance(value, float)}
            found.append({"positions": at.positions.round(5).tolist(), "type": at.info.get("config_type"), **energies})
    return found


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_a_workflow_killed_and_run_again_gives_what_it_gives_serially(slurm_over_ssh, transport, tmp_path):
    (tmp_path / "serial").mkdir()
    done = run(tmp_path / "serial", WFL_NUM_PYTHON_SUBPROCESSES="0")
    assert done.returncode == 0, done.stderr
    slurm_over_ssh(transport).close()
    routes = json.dumps({"generic.py::calculate": ROUTE, "optimize.py::optimize": {**ROUTE, "job_name": "relax"}})
    env = {"WFL_EXPYRE_INFO": routes, "EXPYRE_ROOT": str(tmp_path / ".expyre")}
    for step in ("submit.3", "gather.2", "store.2"):
        killed = run(tmp_path, EXPYRE_KILL_AT=step, **env)
        assert killed.returncode == -signal.SIGKILL, (step, killed.stderr)
    done = run(tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(tmp_path / "serial")


SLOW_SCRIPT = """
import time
from ase import Atoms
from wfl.autoparallelize import autoparallelized
from wfl.configset import ConfigSet, OutputSpec

@autoparallelized(num_inputs_per_python_subprocess=1)
def slow(atoms, ledger):
    for at in atoms:
        with open(ledger, "a") as file:
            file.write(f"{at.info['i']}\\n")
        time.sleep(14)
        at.info["done"] = True
    return atoms

items = [Atoms("H", info={"i": i}) for i in range(6)]
out = slow(ConfigSet(items), OutputSpec("out.xyz"), "LEDGER")
print([int(at.info["i"]) for at in out])
"""


@pytest.mark.slow  # Slurm counts time limits in whole minutes
@pytest.mark.timeout(400)
def test_what_a_job_has_no_time_for_goes_on_in_jobs_of_its_own(slurm_over_ssh, tmp_path):
    slurm_over_ssh().close()
    ledger = tmp_path / "ledger"
    (tmp_path / "script.py").write_text(SLOW_SCRIPT.replace("LEDGER", str(ledger)))
    route = {**ROUTE, "resources": {**ROUTE["resources"], "max_time": "1m"}, "num_inputs_per_queued_job": 6}
    route["env_vars"] = ["WFL_NUM_PYTHON_SUBPROCESSES=0"]
    env = {**os.environ, "WFL_EXPYRE_INFO": json.dumps({"slow": route}), "EXPYRE_ROOT": str(tmp_path / ".expyre")}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=380)
    assert done.stdout.splitlines()[-1:] == ["[0, 1, 2, 3, 4, 5]"], done.stderr
    began = [int(line) for line in ledger.read_text().split()]
    assert set(began) == set(range(6))
    assert len(began) <= 8, "at most the item under way is begun again by each job"
