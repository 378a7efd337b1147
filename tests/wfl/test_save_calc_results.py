from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotPresent
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from wfl.utils.save_calc_results import (
    at_copy_save_calc_results,
    per_atom_properties,
    per_config_properties,
    save_calc_results,
)


class Given(Calculator):
    def __init__(self, results, **attributes):
        super().__init__()
        self.results = results
        vars(self).update(attributes)


def evaluated():
    at = bulk("Cu", cubic=True)
    at.rattle(0.1, seed=1)
    at.calc = EMT()
    at.get_forces()
    at.get_stress()
    return at


def prefixed(at, prefix):
    return {key for key in [*at.info, *at.arrays] if key.startswith(prefix)}


def test_property_lists():
    assert {"energies", "forces", "stresses", "charges", "magmoms"} <= set(per_atom_properties)
    assert {"energy", "free_energy", "stress", "dipole", "magmom"} <= set(per_config_properties)
    assert not set(per_atom_properties) & set(per_config_properties)


def test_to_keys():
    at = evaluated()
    energy, forces = at.get_potential_energy(), at.get_forces()
    save_calc_results(at, prefix="a_", properties=["energy", "forces"])
    assert prefixed(at, "a_") == {"a_energy", "a_forces"}
    assert at.info["a_energy"] == energy
    np.testing.assert_array_equal(at.arrays["a_forces"], forces)
    assert at.calc is None


def test_to_single_point_calculator():
    at = evaluated()
    forces = at.get_forces()
    save_calc_results(at, prefix=None, properties=["forces"])
    assert isinstance(at.calc, SinglePointCalculator)
    assert set(at.calc.results) == {"forces"}
    np.testing.assert_array_equal(at.get_forces(), forces)


def test_all_results_of_emt_are_five():
    at = at_copy_save_calc_results(evaluated(), prefix="emt_")
    assert prefixed(at, "emt_") == {f"emt_{name}" for name in ("energy", "free_energy", "stress", "energies", "forces")}


def test_stale_results_vanish():
    at = evaluated()
    at.info.update({"a_dipole": [1, 2, 3], "a_converged": True, "other": 1})
    at.arrays["a_charges"] = np.zeros(4)
    save_calc_results(at, prefix="a_", properties=["energy"])
    assert prefixed(at, "a_") == {"a_energy"}
    assert at.info["other"] == 1


def test_stored_values_are_copies():
    stress = np.arange(6.0)
    at = bulk("Cu")
    at.calc = Given({"stress": stress})
    save_calc_results(at, prefix="a_", properties=None)
    stress[0] = 99
    assert at.info["a_stress"][0] == 0


@pytest.mark.parametrize(
    ("results", "properties", "error", "text"),
    [({"energy": 1.0}, ["energy", "stress"], PropertyNotPresent, "no stress, only energy"),
     ({"forces": np.zeros((9, 3))}, None, ValueError, "forces")],
)  # fmt: skip
def test_errors(results, properties, error, text):
    at = bulk("Cu")
    at.calc = Given(results)
    with pytest.raises(error, match=text):
        save_calc_results(at, prefix="a_", properties=properties)


def test_empty_prefix():
    with pytest.raises(ValueError, match="empty"):
        save_calc_results(evaluated(), prefix="", properties=None)


def test_unknown_results_are_skipped():
    at = bulk("Cu")
    at.calc = Given({"energy": 1.0, "node_energy": 3.0})
    save_calc_results(at, prefix="a_", properties=None)
    assert at.info == {"a_energy": 1.0}


def test_already_saved():
    at = evaluated()
    at.info["__calculator_results_saved"] = True
    save_calc_results(at, prefix="a_", properties=None)
    assert at.info == {}


def test_extra_results_and_convergence():
    at = molecule("H2O")
    extra = {"config": {"gap": 3.0}, "atoms": {"npa": np.arange(3.0)}, "relaxed_positions": np.ones((3, 3))}
    at.calc = Given({"energy": 1.0}, extra_results=extra, converged=False)
    save_calc_results(at, prefix="a_", properties=None)
    assert at.info == {"a_energy": 1.0, "a_gap": 3.0, "a_converged": False}
    assert list(at.arrays["a_npa"]) == [0, 1, 2]
    assert (at.positions == 1).all()


def test_extra_results_need_a_prefix():
    at = molecule("H2O")
    at.calc = Given({"energy": 1.0}, extra_results={"config": {"gap": 3.0}, "atoms": {}})
    with pytest.raises(ValueError, match="gap"):
        save_calc_results(at, prefix=None, properties=None)


def test_copy_replaces_the_last_operation_only():
    at = evaluated()
    at.set_constraint(FixAtoms([0]))
    at.info.update({"last_op__md_energy": 3.0, "last_op__md_failure": "x", "xtb_energy": 1.0})
    at.arrays["last_op__neb_forces"] = np.zeros((4, 3))
    out = at_copy_save_calc_results(at, prefix="last_op__optimize_", properties=["energy"])
    assert prefixed(out, "last_op__") == {"last_op__optimize_energy"}
    assert out.info["xtb_energy"] == 1.0
    assert out.constraints[0].index.tolist() == [0]
    assert at.info["last_op__md_energy"] == 3.0
    assert isinstance(at.calc, EMT)


def test_copy_with_own_prefix_keeps_the_others():
    at = evaluated()
    at.info["last_op__md_energy"] = 3.0
    assert at_copy_save_calc_results(at, prefix="mine_").info["last_op__md_energy"] == 3.0
