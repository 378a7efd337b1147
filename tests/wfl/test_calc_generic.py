from __future__ import annotations

import functools
import importlib
import inspect
import pickle
import sys
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from wfl.calculators import generic
from wfl.calculators.generic import calculate
from wfl.configset import ConfigSet, OutputSpec

SERIAL = {"num_python_subprocesses": 0}


class NoStress(Calculator):
    """Gives energy and forces only, and counts its calculations."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, shift=0.0, **kwargs):
        super().__init__(**kwargs)
        self.shift, self.n_calls = shift, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n_calls += 1
        self.results = {"energy": self.shift + len(atoms), "forces": np.full((len(atoms), 3), self.shift)}


class Refuses(NoStress):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if "stress" in properties:
            raise PropertyNotImplementedError("no stress here")
        super().calculate(atoms, properties, system_changes)


class Fails(NoStress):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if atoms.info.get("bad"):
            raise RuntimeError("no\nconvergence")
        super().calculate(atoms, properties, system_changes)


class WrongLength(NoStress):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if atoms.info.get("bad"):
            self.results["forces"] = np.zeros((len(atoms) + 1, 3))


class OnePerCall(NoStress):
    wfl_generic_default_autopara_info = {"num_inputs_per_python_subprocess": 1}


class SavesItself(NoStress):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        atoms.info[atoms.info["__calculator_output_prefix"] + "energy"] = 42.0
        atoms.info["__calculator_results_saved"] = True
        self.results = {}


class Sticky(NoStress):
    """Keeps results that it does not calculate again."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.results["energy"] = 1.0
        if atoms.info.get("with_dipole"):
            self.results["dipole"] = np.ones(3)


def broken(**kwargs):
    raise OSError(f"no licence {sorted(kwargs)}")


def water() -> Atoms:
    return molecule("H2O")


def test_one_configuration_and_a_list():
    one = generic._run_autopara_wrappable(water(), LennardJones(), properties=["energy"], output_prefix="dummy_")
    assert isinstance(one, Atoms)
    assert one.info["dummy_energy"] == pytest.approx(1.772068860679255)
    assert not [key for key in one.arrays if key.startswith("dummy_")]
    many = generic._run_autopara_wrappable([water(), water()], LennardJones(), properties=["energy", "forces"])
    assert [at.info["LennardJones_energy"] for at in many] == pytest.approx([1.772068860679255] * 2)
    assert many[0].arrays["LennardJones_forces"].shape == (3, 3)
    assert many[0].calc is None


def test_default_properties_of_a_crystal_and_a_molecule():
    crystal, mol = generic._run_autopara_wrappable([bulk("Cu"), molecule("CH4")], LennardJones())
    assert {"LennardJones_energy", "LennardJones_stress"} <= set(crystal.info)
    assert "LennardJones_stress" not in mol.info
    assert "LennardJones_calculation_missing" not in mol.info


@pytest.mark.parametrize(
    ("recipe", "prefix"),
    [
        (EMT(), "EMT_"),
        ((EMT, None, None), "EMT_"),
        ([EMT, [], {}], "EMT_"),
        ((functools.partial(LennardJones, epsilon=2.0), None, {"rc": 5.0}), "LennardJones_"),
        ((lambda: EMT(), None, None), "lambda_"),
    ],
)
def test_auto_prefix(recipe, prefix):
    out = generic._run_autopara_wrappable(bulk("Cu"), recipe, properties=["energy"])
    assert f"{prefix}energy" in out.info


def test_prefix_none_gives_single_point_calculator():
    (out,) = generic._run_autopara_wrappable([bulk("Cu")], EMT(), output_prefix=None)
    assert isinstance(out.calc, SinglePointCalculator)
    assert set(out.calc.results) == {"energy", "forces", "stress"}
    assert set(out.info) == set()


def test_empty_prefix_is_refused():
    with pytest.raises(ValueError, match="output_prefix"):
        generic._run_autopara_wrappable([bulk("Cu")], EMT(), output_prefix="")


@pytest.mark.parametrize("n_processes", [0, 2])
def test_callers_atoms_stay_as_they_are(n_processes):
    inputs = [bulk("Cu"), bulk("Al")]
    inputs[0].info["EMT_energy"] = "old"
    info = {"num_python_subprocesses": n_processes}
    results = list(calculate(ConfigSet(inputs), OutputSpec(), (EMT, None, None), autopara_info=info))
    assert inputs[0].info["EMT_energy"] == "old"
    assert "EMT_energy" not in inputs[1].info
    assert [key for at in inputs for key in at.arrays if key.startswith("EMT")] == []
    assert results[0].info["EMT_energy"] == pytest.approx(-0.005681511358581304)


def test_per_config_recipe():
    ats = [bulk("Cu") for _ in range(3)]
    ats[1].info["WFL_CALCULATOR_KWARGS"] = {"epsilon": 4.0}
    ats[2].info["WFL_CALCULATOR_INITIALIZER"] = NoStress
    ats[2].info["WFL_CALCULATOR_ARGS"] = [7.0]
    ats[2].info["WFL_CALCULATOR_KWARGS"] = {}
    recipe = [LennardJones, [], {"epsilon": 1.0, "rc": 5.0}]
    first, second, third = generic._run_autopara_wrappable(ats[:2], recipe, ["energy"], "lj_") + (
        generic._run_autopara_wrappable(ats[2:], [LennardJones, None, None], ["energy"], "lj_")
    )
    assert second.info["lj_energy"] == pytest.approx(4.0 * first.info["lj_energy"])
    assert third.info["lj_energy"] == 8.0
    assert second.info["WFL_CALCULATOR_KWARGS"] == {"epsilon": 4.0}
    assert recipe[2] == {"epsilon": 1.0, "rc": 5.0}


def test_default_calculator_is_made_only_if_needed():
    ats = [bulk("Cu"), bulk("Cu")]
    for at in ats:
        at.info["WFL_CALCULATOR_INITIALIZER"] = EMT
    assert "a_energy" in generic._run_autopara_wrappable(ats, (None, None, None), output_prefix="a_")[1].info
    del ats[1].info["WFL_CALCULATOR_INITIALIZER"]
    with pytest.raises(ValueError, match="cannot be called"):
        generic._run_autopara_wrappable(ats, (None, None, None), output_prefix="a_")
    with pytest.raises(ValueError, match="no licence"):
        generic._run_autopara_wrappable([bulk("Cu")], (broken, None, None), output_prefix="a_")


def test_override_needs_a_recipe():
    at = bulk("Cu")
    at.info["WFL_CALCULATOR_KWARGS"] = {"epsilon": 4.0}
    with pytest.raises(TypeError, match="recipe"):
        generic._run_autopara_wrappable([at], LennardJones())


def test_bad_recipe_of_one_configuration_fails_that_one_only():
    good, bad = bulk("Cu"), bulk("Cu")
    bad.info["WFL_CALCULATOR_INITIALIZER"] = broken
    with pytest.warns(RuntimeWarning, match="no licence"):
        first, second = generic._run_autopara_wrappable([bad, good], (EMT, None, None))
    assert first.info["EMT_calculation_failed"] is True
    assert first.info["EMT_calculation_failure"] == "OSError: no licence []"
    assert "EMT_energy" in second.info


@pytest.mark.parametrize(("cls", "reason"), [(Fails, "RuntimeError: no convergence"), (WrongLength, "ValueError: ")])
def test_failure_is_noted_with_its_reason(cls, reason):
    good, bad = water(), water()
    bad.info.update(bad=True, p_energy=5.0)
    with pytest.warns(RuntimeWarning, match="Traceback"):
        first, second = generic._run_autopara_wrappable([bad, good], cls(), ["energy", "forces"], "p_")
    assert first.info["p_calculation_failed"] is True
    assert first.info["p_calculation_failure"].startswith(reason)
    assert first.calc is None
    assert "p_energy" not in first.info
    assert "p_forces" not in first.arrays
    assert second.info["p_energy"] == 3
    del first.info["bad"]
    again = generic._run_autopara_wrappable(first, cls(), ["energy", "forces"], "p_")
    assert not [key for key in again.info if "calculation" in key]


def test_failure_without_prefix():
    bad = water()
    bad.info["bad"] = True
    with pytest.warns(RuntimeWarning, match="no\nconvergence"):
        out = generic._run_autopara_wrappable(bad, Fails(), output_prefix=None)
    assert out.info["calculation_failed"] is True
    assert out.calc is None


def test_exceptions_are_raised_on_request():
    bad = water()
    bad.info["bad"] = True
    with pytest.raises(RuntimeError, match="convergence"):
        generic._run_autopara_wrappable([bad], Fails(), raise_calc_exceptions=True)


@pytest.mark.parametrize("cls", [NoStress, Refuses])
def test_missing_property(cls):
    with pytest.warns(RuntimeWarning, match="gives no stress") as caught:
        out = generic._run_autopara_wrappable([bulk("Cu"), bulk("Al")], cls())
    assert len(caught) == 1
    assert [at.info[f"{cls.__name__}_calculation_missing"] for at in out] == ["stress", "stress"]
    assert f"{cls.__name__}_forces" in out[1].arrays
    assert f"{cls.__name__}_calculation_failed" not in out[1].info


def test_nothing_of_another_configuration_is_stored():
    with_dipole, without = water(), water()
    with_dipole.info["with_dipole"] = True
    with pytest.warns(RuntimeWarning, match="dipole"):
        first, second = generic._run_autopara_wrappable([with_dipole, without], Sticky(), ["energy", "dipole"], "s_")
    assert "s_dipole" in first.info
    assert "s_dipole" not in second.info


def test_each_configuration_is_calculated_once():
    calc = NoStress()
    generic._run_autopara_wrappable([water(), water(), water()], calc, ["energy", "forces"])
    assert calc.n_calls == 3


def test_calculator_that_saves_its_results():
    out = generic._run_autopara_wrappable(water(), SavesItself(), output_prefix="own_")
    assert out.info == {"own_energy": 42.0}


def test_energy_is_the_free_energy():
    at = bulk("Cu")

    class Smeared(NoStress):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            self.results = {"energy": -1.0, "free_energy": -1.5}

    assert generic._run_autopara_wrappable(at, Smeared(), ["energy"], "f_").info == {"f_energy": -1.5}


@pytest.mark.parametrize(
    ("calculator", "info", "expected"),
    [
        (NoStress(), None, 10),
        ((NoStress, None, None), None, 10),
        (OnePerCall(), None, 1),
        ((OnePerCall, None, None), None, 1),
        ((OnePerCall, None, None), {"num_inputs_per_python_subprocess": 3}, 3),
        (NoStress(), {"num_inputs_per_python_subprocess": 5}, 5),
    ],
)
@pytest.mark.parametrize("form", ["positional", "keyword"])
def test_inputs_per_call(calculator, info, expected, form, capfd):
    info = {"num_python_subprocesses": 1, **(info or {})}
    if form == "positional":
        calculate([water()], OutputSpec(), calculator, ["energy"], autopara_info=info)
    else:
        calculate(
            inputs=[water()], outputs=OutputSpec(), calculator=calculator, properties=["energy"], autopara_info=info
        )
    assert f"num_inputs_per_python_subprocess={expected}" in capfd.readouterr().err


def test_keyword_forms_find_the_calculator():
    recipe = (EMT, None, None)
    assert generic._calculator_argument(([], None, recipe), {}) is recipe
    assert generic._calculator_argument(([], recipe), {"outputs": None}) is recipe
    assert generic._calculator_argument((recipe,), {"inputs": [], "outputs": None}) is recipe
    assert generic._calculator_argument((), {"inputs": [], "outputs": None, "calculator": recipe}) is recipe
    assert generic._calculator_argument((), {}) is None


def test_ase_class_in_a_recipe_is_warned_about():
    from ase.calculators.espresso import Espresso

    with pytest.warns(RuntimeWarning, match="wfl.calculators has a Espresso"):
        calculate([], OutputSpec(), (Espresso, [], {}), autopara_info=SERIAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculate([], OutputSpec(), (EMT, [], {}), autopara_info=SERIAL)


def test_results_survive_a_file(tmp_path):
    bad = bulk("Cu")
    bad.info["bad"] = True
    out = OutputSpec("out.xyz", file_root=tmp_path)
    with pytest.warns(RuntimeWarning, match="Traceback"):
        first, second = calculate([bad, bulk("Cu")], out, Fails(), ["energy", "forces"], autopara_info=SERIAL)
    assert first.info["Fails_calculation_failed"]
    assert first.info["Fails_calculation_failure"] == "RuntimeError: no convergence"
    assert second.info["Fails_energy"] == 1


@pytest.mark.parametrize(
    ("module", "name", "key"),
    [
        ("wfl.calculators.generic", "calculate", "calculators/generic.py::calculate"),
        ("wfl.generate.md", "md", "generate/md/__init__.py::md"),
        ("wfl.generate.optimize", "optimize", "generate/optimize.py::optimize"),
        ("wfl.map", "map", "wfl/map.py::map"),
    ],
)
def test_route_keys(module, name, key, monkeypatch):
    """The innermost frame that routes are compared with is the operation's function in its file."""
    from wfl.autoparallelize import base, routing

    class Seen(Exception):
        pass

    def look(*args, **kwargs):
        frames = list(routing.call_frames(sys._getframe(1)))
        raise Seen(routing.match((key,), frames), routing.match(("test_route_keys", key), frames))

    monkeypatch.setattr(base, "get_remote_info", look)
    operation = getattr(importlib.import_module(module), name)
    with pytest.raises(Seen) as caught:
        operation([], OutputSpec(), (EMT, None, None))
    assert caught.value.args == (True, True)
    assert operation.__doc__.count("outputs : OutputSpec or None") == 1
    assert list(inspect.signature(operation).parameters)[:2] == ["inputs", "outputs"]
    assert "_autopara_per_item_info" not in inspect.signature(operation).parameters
    assert pickle.loads(pickle.dumps(operation.op)) is operation.op
