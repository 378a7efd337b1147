from __future__ import annotations

import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from wfl.configset import ConfigSet, OutputSpec
from wfl.map import map as wfl_map


def label(atoms, text, suffix=""):
    atoms.info["label"] = text + suffix
    return atoms


def drop_aluminium(atoms):
    return None if "Al" in atoms.symbols else atoms


def twice(atoms):
    return [atoms, atoms.copy()]


def energy(atoms):
    atoms.info["e"] = atoms.get_potential_energy()
    return atoms


@pytest.mark.parametrize("n_processes", [0, 2])
def test_arguments_reach_the_function(n_processes):
    inputs = [bulk("Cu"), bulk("Al")]
    info = {"num_python_subprocesses": n_processes}
    out = wfl_map(ConfigSet(inputs), OutputSpec(), label, args=["a"], kwargs={"suffix": "b"}, autopara_info=info)
    assert [at.info["label"] for at in out] == ["ab", "ab"]
    assert "label" not in inputs[0].info


def test_dropping_and_multiplying():
    inputs = [bulk("Al"), bulk("Cu")]
    serial = {"num_python_subprocesses": 0}
    kept = list(wfl_map(inputs, OutputSpec(), drop_aluminium, autopara_info=serial))
    assert [str(at.symbols) for at in kept] == ["Cu"]
    assert [str(at.symbols) for at in wfl_map(inputs, OutputSpec(), twice, autopara_info=serial)] == [
        "Al", "Al", "Cu", "Cu"
    ]  # fmt: skip


def test_results_on_the_input_are_seen():
    at = bulk("Cu")
    at.calc = SinglePointCalculator(at, energy=3.0)
    assert [a.info["e"] for a in wfl_map([at], OutputSpec(), energy, autopara_info={"num_python_subprocesses": 0})] == [
        3
    ]
