"""Operations as jobs on the user's own systems, which must have this package (or its directory on a shared disk)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from wfl.calculators.generic import calculate
from wfl.configset import ConfigSet, OutputSpec

# queues of real systems may be long
WAIT = float(os.environ.get("EXPYRE_PYTEST_WAIT", "7200"))
pytestmark = [pytest.mark.remote, pytest.mark.timeout(WAIT + 60)]

Info = dict[str, Any]


@pytest.fixture
def remote_info(
    expyre_systems: Any, sys_name: str | None, remoteinfo_env: Callable[[Info], None], change_test_dir: Path
) -> Info:
    """Keywords of RemoteInfo for small jobs on a system."""
    if sys_name is None:
        pytest.skip("EXPYRE_PYTEST_SYSTEMS selects none of the user's systems")
    info = {
        "sys_name": sys_name,
        "job_name": "pytest+calc",
        "resources": {"max_time": "5m", "num_nodes": 1},
        "num_inputs_per_queued_job": 4,
        "check_interval": 5,
        "timeout": int(WAIT),
    }
    remoteinfo_env(info)
    return info


def crystals(count: int) -> list[Atoms]:
    rng = np.random.default_rng(5)
    atoms = [bulk("Cu", cubic=True) for _ in range(count)]
    for at in atoms:
        at.rattle(0.05, rng=rng)
    return atoms


def energies(configs: ConfigSet) -> list[float]:
    return [at.info["EMT_energy"] for at in configs]


def run(inputs: ConfigSet, outputs: OutputSpec, **autopara_info: Any) -> ConfigSet:
    calculator = (EMT, [], {})
    return calculate(inputs, outputs, calculator, output_prefix="EMT_", autopara_info=autopara_info)


def test_calculate_gives_what_it_gives_here(remote_info: Info) -> None:
    here = run(ConfigSet(crystals(10)), OutputSpec(), num_python_subprocesses=0)
    there = run(ConfigSet(crystals(10)), OutputSpec("there.xyz"), remote_info=remote_info)
    assert energies(there) == pytest.approx(energies(here))


def test_each_input_file_has_its_output_file(remote_info: Info) -> None:
    configs = crystals(6)
    ase.io.write("in_a.xyz", configs[:2])
    ase.io.write("in_b.xyz", configs[2:])
    inputs = ConfigSet(["in_a.xyz", "in_b.xyz"])
    run(inputs, OutputSpec(["out_a.xyz", "out_b.xyz"]), remote_info=remote_info)
    assert [len(ase.io.read(name, ":")) for name in ("out_a.xyz", "out_b.xyz")] == [2, 4]


def test_failed_jobs_leave_their_configurations(remote_info: Info) -> None:
    remote_info |= {"pre_cmds": ["exit 1"], "ignore_failed_jobs": True}
    outputs = run(ConfigSet(crystals(5)), OutputSpec("failed.xyz"), remote_info=remote_info)
    marks = [at.info.get("EXPYRE_REMOTE_JOB_FAILED") for at in outputs]
    assert marks == [True] * 5
