from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from scipy.optimize import brentq

from wfl.configset import OutputSpec
from wfl.generate import optimize as optimize_module
from wfl.generate.cell_filter import RememberingCellFilter
from wfl.generate.optimize import optimize, subselect_from_traj

EMT_RECIPE = (EMT, None, None)
PRESSURE = -1.1215


class FailsLater(EMT):
    n_calls = 0

    def calculate(self, *args, **kwargs):
        self.n_calls += 1
        if self.n_calls > 4:
            raise ArithmeticError("model is lost")
        super().calculate(*args, **kwargs)


def never(*args, **kwargs):
    raise ArithmeticError("no model at all")


def strained() -> Atoms:
    at = bulk("Cu", "fcc", a=3.63, cubic=True)
    at.set_cell(at.cell * [1.0, 1.01, 0.99], scale_atoms=True)
    at.rattle(0.02, seed=3)
    return at


def relax(at, calc=EMT_RECIPE, seed=5, skip_failures=False, **kwargs):
    info = [{"item_i": 0, "rng": np.random.default_rng(seed)}]
    (out,) = optimize.op([at], calc, skip_failures=skip_failures, _autopara_per_item_info=info, **kwargs)
    return out


def labels(frames):
    return [frame.info["optimize_config_type"].removeprefix("optimize_") for frame in frames]


def lattice_constant_at(pressure):
    def excess(a):
        at = bulk("Cu", a=a)
        at.calc = EMT()
        return -at.get_stress()[:3].mean() / units.GPa - pressure

    return brentq(excess, 3.5, 3.7, xtol=1e-8)


def test_cell_and_positions_at_pressure():
    at = strained()
    frames = relax(at, pressure=PRESSURE, precon=None, keep_symmetry=False)
    last = frames[-1]
    a = lattice_constant_at(PRESSURE)
    np.testing.assert_allclose(last.cell.lengths(), a, atol=3e-3)
    ideal = bulk("Cu", cubic=True).get_scaled_positions()
    shift = last.get_scaled_positions(wrap=False) - ideal
    np.testing.assert_allclose((shift - shift.mean(axis=0)) * a, 0, atol=3e-3)
    assert labels(frames) == ["initial", *["mid"] * (len(frames) - 2), "last_converged"]
    assert last.info["optimize_pressure_GPa"] == PRESSURE
    assert last.info["config_type"] == "optimize_last_converged"
    assert last.info["optimize_n_steps"] >= len(frames) - 1
    assert "optimize_n_steps" not in frames[0].info
    stress = last.info["last_op__optimize_stress"]
    np.testing.assert_allclose(stress[:3] / units.GPa, -PRESSURE, atol=0.2)
    assert at == strained()
    assert at.info == {}


def test_fixed_cell():
    at = strained()
    frames = relax(at, fmax=0.01, precon=None)
    np.testing.assert_array_equal(frames[-1].cell, frames[0].cell)
    assert np.linalg.norm(frames[-1].arrays["last_op__optimize_forces"], axis=1).max() < 0.01
    energies = [frame.info["last_op__optimize_energy"] for frame in frames]
    assert energies[-1] < energies[0]


def test_results_belong_to_their_frame():
    for frame in relax(strained(), pressure=0.0, steps=3):
        again = frame.copy()
        again.calc = EMT()
        assert frame.info["last_op__optimize_energy"] == pytest.approx(again.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(frame.info["last_op__optimize_stress"], again.get_stress(), atol=1e-10)


def test_number_of_frames():
    assert labels(relax(strained(), steps=2)) == ["initial", "mid", "last_unconverged"]
    assert labels(relax(bulk("Cu"), steps=2)) == ["last_converged"]
    assert labels(relax(strained(), steps=5, traj_step_interval=3, fmax=1e-8)) == ["initial", "mid", "last_unconverged"]


@pytest.mark.parametrize(("select", "steps", "expected"), [
    ("last", 2, "last_unconverged"), ("last", 50, "last_converged"), ("last_converged", 50, "last_converged"),
    ("last_converged", 2, None),
])  # fmt: skip
def test_subselection(select, steps, expected):
    out = relax(strained(), steps=steps, fmax=0.01, traj_subselect=select)
    if expected is None:
        assert out is None
    else:
        assert out.info["optimize_config_type"] == f"optimize_{expected}"


def test_subselection_of_a_trajectory():
    frames = relax(strained(), steps=2)
    assert subselect_from_traj(frames) is frames
    assert subselect_from_traj(frames, "last") is frames[-1]
    assert subselect_from_traj(frames, "last_converged") is None
    for call in (lambda: subselect_from_traj(frames, "first"), lambda: relax(strained(), traj_subselect="first")):
        with pytest.raises(RuntimeError, match="'first'"):
            call()


def test_constraints_are_kept_as_they_were():
    at = strained()
    at.set_constraint(FixAtoms([0]))
    for frame in relax(at, steps=2, keep_symmetry=True):
        assert [type(c).__name__ for c in frame.constraints] == ["FixAtoms"]
        np.testing.assert_allclose(frame.positions[0], at.positions[0], atol=1e-12)
    assert [type(c).__name__ for c in at.constraints] == ["FixAtoms"]


def test_symmetry_is_kept():
    at = bulk("Cu", "fcc", a=3.7, cubic=True)
    at.set_cell(at.cell * [1, 1, 1.02], scale_atoms=True)
    kept = relax(at, pressure=0.0, precon=None, steps=4)[-1]
    a, b, _ = kept.cell.lengths()
    assert a == pytest.approx(b, abs=1e-8)


def test_stress_mask():
    at = strained()
    mask = [False, False, True, False, False, False]
    last = relax(at, pressure=0.0, stress_mask=mask, keep_symmetry=False, steps=6)[-1]
    np.testing.assert_allclose(last.cell[:2], at.cell[:2], atol=1e-10)
    assert last.cell[2, 2] != pytest.approx(at.cell[2, 2], abs=1e-3)


def test_molecule_without_cell():
    at = molecule("CH4")
    at.rattle(0.05, seed=1)
    assert labels(relax(at, fmax=0.05))[-1] == "last_converged"


def test_random_pressure():
    info = ("uniform", 1.0, 2.0)
    first, again, other = (relax(bulk("Cu"), pressure=info, steps=0, seed=seed)[0] for seed in (1, 1, 2))
    assert 1 <= first.info["optimize_pressure_GPa"] <= 2
    assert first.info["optimize_pressure_GPa"] == again.info["optimize_pressure_GPa"]
    assert first.info["optimize_pressure_GPa"] != other.info["optimize_pressure_GPa"]


def test_smallest_volume_ends_the_run():
    at = bulk("Cu", a=3.8)
    at.info["RSS_min_vol_per_atom"] = 13.0
    last = relax(at, pressure=0.0, skip_failures=True)[-1]
    assert last.info["optimize_config_type"] == "optimize_last_exception"
    assert "RSS_min_vol_per_atom" in last.info["last_op__optimize_failure"]
    assert last.get_volume() >= 13.0
    with pytest.raises(RuntimeError, match="RSS_min_vol_per_atom"):
        relax(at, pressure=0.0)


def test_failure_keeps_what_is_there():
    frames = relax(strained(), FailsLater(), fmax=1e-9, skip_failures=True)
    assert labels(frames)[-1] == "last_exception"
    assert frames[-1].info["last_op__optimize_failure"] == "ArithmeticError: model is lost"
    assert all("last_op__optimize_energy" in frame.info for frame in frames)
    with pytest.raises(ArithmeticError, match="lost"):
        relax(strained(), FailsLater(), fmax=1e-9)


def test_failure_at_once_leaves_the_marked_input():
    calc = EMT()
    calc.calculate = never
    at = bulk("Cu")
    at.info["last_op__md_energy"] = 1.0
    (frame,) = relax(at, calc, skip_failures=True)
    assert frame.info["optimize_config_type"] == "optimize_last_exception"
    assert frame.info["optimize_n_steps"] == 0
    assert "last_op__md_energy" not in frame.info


def test_log(tmp_path, capsys):
    relax(bulk("Cu"))
    assert capsys.readouterr().out == ""
    at = bulk("Cu")
    at.info["buildcell_config_i"] = 7
    relax(at, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("7 ") for line in lines)
    assert "225" in lines[0]
    assert "PreconLBFGS:" in lines[1]
    assert "225" in lines[-1]
    relax(at, logfile=str(tmp_path / "log"))
    assert (tmp_path / "log").read_text().startswith("7 PreconLBFGS:")
    assert capsys.readouterr().out == ""


def test_optimizer_arguments():
    with pytest.raises(ValueError, match="maximum step size"):
        relax(strained(), maxstep=5.0)


@pytest.mark.parametrize("n_processes", [0, 2])
def test_as_operation(n_processes):
    inputs = [strained(), bulk("Cu")]
    info = {"num_python_subprocesses": n_processes}
    results = optimize(
        inputs, OutputSpec(), EMT_RECIPE, steps=2, traj_subselect="last", rng=np.random.default_rng(1),
        pressure=("uniform", 0, 1), autopara_info=info,
    )  # fmt: skip
    assert len(list(results)) == 2
    assert inputs[0].info == {}


def test_remembering_filter_does_the_same():
    from ase.filters import FrechetCellFilter
    from ase.optimize.precon import PreconLBFGS

    def relaxed(cls):
        at = strained()
        at.calc = EMT()
        optimizer = PreconLBFGS(cls(at, scalar_pressure=5.0 * units.GPa), precon=None, logfile=None)
        converged = optimizer.run(fmax=0.01, steps=4)
        return at, optimizer.nsteps, converged

    first, second = relaxed(FrechetCellFilter), relaxed(RememberingCellFilter)
    np.testing.assert_array_equal(first[0].positions, second[0].positions)
    np.testing.assert_array_equal(first[0].cell, second[0].cell)
    assert first[1:] == second[1:]


def test_names():
    assert optimize_module._run_autopara_wrappable is optimize.op
