from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from wfl.configset import ConfigSet, OutputSpec
from wfl.generate.md import md
from wfl.generate.md.integrators import estimate_compressibility
from wfl.generate.md.temperature import Stage, stages
from wfl.utils.misc import MissingRngError

EMT_RECIPE = (EMT, None, None)


class Springs(Calculator):
    """Every atom on a spring to where the first configuration had it: exact, and fast."""

    implemented_properties = ["energy", "free_energy", "forces"]
    k = 5.0

    def __init__(self, sites, fail_after=None):
        super().__init__()
        self.sites, self.fail_after, self.n_calls = sites, fail_after, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n_calls += 1
        if self.fail_after is not None and self.n_calls > self.fail_after:
            raise ArithmeticError("model is lost")
        d = atoms.positions - self.sites
        energy = 0.5 * self.k * (d**2).sum()
        self.results = {"energy": energy, "free_energy": energy, "forces": -self.k * d}


def copper(n=1) -> Atoms:
    return bulk("Cu", cubic=True) * (n, n, n)


def springs(at, **kwargs):
    return Springs(at.get_positions(), **kwargs)


def per_item(n, seed=5):
    children = np.random.default_rng(seed).spawn(n)
    return [{"item_i": i, "rng": child} for i, child in enumerate(children)]


def run(at, calc=None, *, steps=300, dt=1.0, skip_failures=False, seed=5, **kwargs):
    calc = springs(at) if calc is None else calc
    (frames,) = md.op(
        [at], calc, steps, dt, skip_failures=skip_failures, _autopara_per_item_info=per_item(1, seed), **kwargs
    )
    return frames


def info_of(frames, key):
    return [frame.info.get(key) for frame in frames]


def every_tenth(at):
    return at.info["MD_step"] % 10 == 0


def only_tenths(frames):
    return [frame for frame in frames if frame.info["MD_step"] % 10 == 0]


class TestFrames:
    def test_every_step(self):
        frames = run(copper(), temperature=500.0)
        assert len(frames) == 301
        assert info_of(frames, "MD_step") == list(range(301))
        assert info_of(frames, "MD_time_fs") == pytest.approx(list(range(301)))
        assert {frame.info["config_type"] for frame in frames} == {"MD"}
        assert frames[0].info["MD_current_temperature"] == pytest.approx(500.0)
        assert "MD_temperature_K" not in frames[0].info
        assert all(frame.has("momenta") for frame in frames)
        assert frames[-1].calc is None

    def test_results_belong_to_their_frame(self):
        at = copper()
        for frame in run(at, EMT(), steps=5, temperature=500.0):
            again = frame.copy()
            again.calc = EMT()
            assert frame.info["last_op__md_energy"] == pytest.approx(again.get_potential_energy(), abs=1e-10)
            np.testing.assert_allclose(frame.arrays["last_op__md_forces"], again.get_forces(), atol=1e-10)

    def test_prefix_none(self):
        (frame,) = run(copper(), steps=0, temperature=500.0, results_prefix=None)
        assert frame.get_forces().shape == (4, 3)

    @pytest.mark.parametrize(("steps", "interval", "expected"), [
        (20, 10, [0, 10, 20]), (25, 10, [0, 10, 20, 25]), (5, 10, [0, 5]), (0, 1, [0]),
    ])  # fmt: skip
    def test_interval_and_last_state(self, steps, interval, expected):
        frames = run(copper(), steps=steps, dt=2.0, temperature=500.0, traj_step_interval=interval)
        assert info_of(frames, "MD_step") == expected
        assert info_of(frames, "MD_time_fs") == [2.0 * step for step in expected]

    @pytest.mark.parametrize("steps", [300, 301])
    @pytest.mark.parametrize("how", ["traj_select_during_func", "traj_select_after_func"])
    def test_selection(self, steps, how):
        function = every_tenth if how == "traj_select_during_func" else only_tenths
        frames = run(copper(), steps=steps, temperature=500.0, **{how: function})
        assert info_of(frames, "MD_step") == list(range(0, 301, 10))

    def test_selection_of_nothing(self):
        assert run(copper(), steps=3, temperature=500.0, traj_select_after_func=lambda frames: []) == []

    def test_stale_results_of_the_input_are_gone_and_the_input_is_not_touched(self):
        at = copper()
        at.info.update({"last_op__optimize_energy": 3.0, "config_type": "bulk"})
        frames = run(at, steps=2, temperature=500.0)
        assert "last_op__optimize_energy" not in frames[-1].info
        assert frames[-1].info["config_type"] == "bulk:MD"
        assert at.info == {"last_op__optimize_energy": 3.0, "config_type": "bulk"}
        assert at == copper()
        assert not at.has("momenta")

    def test_frames_share_nothing(self):
        first, second = run(copper(), steps=1, temperature=500.0)
        assert first.positions is not second.positions
        assert first.info is not second.info

    @pytest.mark.parametrize(("update", "expected"), [("overwrite", "MD"), (False, "bulk")])
    def test_config_type(self, update, expected):
        at = copper()
        at.info["config_type"] = "bulk"
        assert run(at, steps=0, temperature=1.0, update_config_type=update)[0].info["config_type"] == expected

    def test_constraints_hold(self):
        at = copper()
        at.set_constraint(FixAtoms([0]))
        frames = run(at, steps=5, temperature=500.0)
        np.testing.assert_array_equal(frames[-1].positions[0], at.positions[0])
        assert frames[-1].constraints[0].index.tolist() == [0]


class TestTemperature:
    def test_ramp(self):
        frames = run(copper(), temperature=(500.0, 100.0), temperature_tau=30.0)
        assert len(frames) == 301
        targets = info_of(frames, "MD_temperature_K")
        assert targets[:31] == [500.0] * 31
        np.testing.assert_allclose(targets[1:], np.repeat(np.linspace(500, 100, 10), 30))
        assert info_of(frames, "MD_step") == list(range(301))

    def test_pieces(self):
        pieces = [
            {"T_i": 100.0, "T_f": 500.0, "traj_frac": 0.5, "n_stages": 10},
            {"T_i": 500.0, "T_f": 500.0, "traj_frac": 0.25},
            {"T_i": 500.0, "T_f": 300.0, "traj_frac": 0.25},
        ]
        before = json.dumps(pieces)
        frames = run(copper(), temperature=pieces, temperature_tau=30.0)
        assert len(frames) == 306
        targets = np.array(info_of(frames, "MD_temperature_K"))
        expected = [*np.repeat(np.linspace(100, 500, 10), 15), *[500.0] * 75, *np.repeat(np.linspace(500, 300, 10), 8)]
        np.testing.assert_allclose(targets[1:], expected)
        assert json.dumps(pieces) == before

    def test_stages(self):
        assert stages(None, 7) == [Stage(None, 7)]
        assert stages(300, 7) == stages(np.int64(300), 7) == stages((300, 300), 7) == [Stage(300.0, 7)]
        assert stages((100, 200, 2), 10) == stages(np.array([100, 200, 2]), 10) == [Stage(100, 5), Stage(200, 5)]
        assert stages({"T_i": 100, "T_f": 200, "n_stages": 2}, 10) == [Stage(100, 5), Stage(200, 5)]

    @pytest.mark.parametrize("temperature", [
        "hot", (), (1,), (1, 2, 3, 4), [{"T_i": 1}], [{"T_i": 1, "T_f": 2}],
        [{"T_i": 1, "T_f": 2, "traj_frac": 1, "n": 3}], (100, 200, 0), (-1, 100), [(1, 2), (2, 3)],
    ])  # fmt: skip
    def test_bad_forms(self, temperature):
        with pytest.raises(ValueError, match="temperature"):
            stages(temperature, 10)

    def test_velocities_of_the_input_are_kept(self):
        at = copper()
        at.set_momenta(np.arange(12.0).reshape(4, 3))
        np.testing.assert_array_equal(run(at, steps=1)[0].get_momenta(), at.get_momenta())

    def test_initial_velocities(self):
        frame = run(copper(2), steps=0, temperature=321.0)[0]
        assert frame.get_temperature() == pytest.approx(321.0)
        np.testing.assert_allclose(frame.get_momenta().sum(axis=0), 0, atol=1e-10)

    def test_zero_temperature_and_one_atom(self):
        assert run(copper(), steps=1, temperature=0.0)[0].get_temperature() == 0.0
        assert run(Atoms("Cu"), steps=1, temperature=100.0)[0].get_temperature() == pytest.approx(100.0)


class TestArguments:
    @pytest.mark.parametrize(
        ("kwargs", "error", "text"),
        [
            ({"integrator": "Nose"}, ValueError, "'Nose' is not one of Berendsen, Langevin, LangevinBAOAB"),
            ({"integrator": "Langevin", "pressure": 0.0, "temperature_tau": 10.0}, ValueError, "no barostat"),
            ({"pressure": 0.0, "hydrostatic": False, "temperature_tau": 10.0}, ValueError, "hydrostatic"),
            ({"pressure": 0.0}, ValueError, "temperature_tau"),
            ({"temperature": (1, 2)}, RuntimeError, "temperature_tau"),
            ({"temperature": None, "temperature_tau": 10.0}, ValueError, "needs temperature"),
            ({"traj_step_interval": 0}, ValueError, "traj_step_interval"),
            ({"temperature_tau": -1.0}, ValueError, "temperature_tau is a time in fs above 0"),
            ({"temperature_tau": 1.0, "pressure_tau": 0}, ValueError, "pressure_tau"),
        ],
    )
    def test_contradictions(self, kwargs, error, text):
        with pytest.raises(error, match=text):
            run(copper(), **{"temperature": 300.0, "steps": 1, "skip_failures": True, **kwargs})

    def test_generator_is_needed(self):
        for error in (MissingRngError, ValueError, AssertionError):
            with pytest.raises(error, match="default_rng"):
                md.op([copper()], EMT_RECIPE, 1, 1.0, temperature=300.0)

    def test_missing_integrator_of_old_ase(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "ase.md.langevinbaoab", None)
        with pytest.raises(ImportError, match=r"ASE 3\.27 or newer"):
            run(copper(), temperature=300.0, integrator="LangevinBAOAB", skip_failures=True)

    def test_mistakes_are_found_before_anything_runs(self):
        at, bad = copper(), copper()
        bad.info["WFL_MD_KWARGS"] = '{"integrator": "Nose"}'
        calc = springs(at)
        with pytest.raises(ValueError, match="'Nose'"):
            md.op([at, bad], calc, 3, 1.0)
        assert calc.n_calls == 0


class TestOverrides:
    def test_text(self):
        at, other = copper(), copper()
        at.info["WFL_MD_KWARGS"] = json.dumps({"temperature": [100, 200, 2], "traj_step_interval": 5})
        first, second = md.op(
            [at, other], springs(at), 10, 1.0, temperature=300.0, temperature_tau=10.0,
            _autopara_per_item_info=per_item(2),
        )  # fmt: skip
        assert info_of(first, "MD_temperature_K") == [100, 100, 200]
        assert info_of(second, "MD_temperature_K") == [300] * 11

    @pytest.mark.parametrize(("text", "error", "match"), [
        ('{"steps": 3}', KeyError, "steps"), ('{"logger_interval": 3}', KeyError, "logger_interval"),
        ("{", ValueError, "not JSON"), ("3", ValueError, "dict of options"),
    ])  # fmt: skip
    def test_mistakes(self, text, error, match):
        at = copper()
        at.info["WFL_MD_KWARGS"] = text
        with pytest.raises(error, match=match):
            run(at, skip_failures=True, temperature=300.0)


class TestFailures:
    def test_reason_is_on_the_last_frame(self, caplog):
        at = copper()
        frames = run(at, springs(at, fail_after=4), steps=10, temperature=300.0, skip_failures=True)
        assert info_of(frames, "MD_step") == [0, 1, 2, 3]
        assert frames[-1].info["last_op__md_failure"] == "ArithmeticError: model is lost"
        assert "last_op__md_failure" not in frames[-2].info
        assert all("last_op__md_energy" in frame.info for frame in frames)
        assert "model is lost" in caplog.text

    def test_others_go_on(self):
        at = copper()
        bad = copper()
        bad.info["WFL_MD_KWARGS"] = {"pressure": ["info", "absent"]}
        failed, fine = md.op(
            [bad, at], EMT_RECIPE, 2, 1.0, temperature=300.0, temperature_tau=10.0, _autopara_per_item_info=per_item(2)
        )
        assert failed == []
        assert len(fine) == 3

    def test_raised_on_request(self):
        at = copper()
        with pytest.raises(ArithmeticError, match="lost"):
            run(at, springs(at, fail_after=4), steps=10, temperature=300.0)


class TestLogger:
    def test_files(self, tmp_path):
        ats = [copper(), copper()]
        kwargs = {"logfile": str(tmp_path / "test_log"), "stress": False}
        md.op(
            ats, springs(ats[0]), 4, 1.0, temperature=300.0, logger_interval=2, logger_kwargs=kwargs,
            _autopara_per_item_info=per_item(2),
        )  # fmt: skip
        for i in range(2):
            assert len((tmp_path / f"test_log.config_{i}").read_text().splitlines()) == 4  # header, steps 0, 2, 4
        assert kwargs["logfile"] == str(tmp_path / "test_log")

    def test_stdout(self, capsys):
        run(copper(), steps=2, temperature=300.0, logger_interval=1)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4
        assert all(line.startswith("config 0 ") for line in lines)

    def test_own_class_sees_all_stages(self):
        seen = []

        class Logger:
            def __init__(self, dyn, atoms, logfile, extra):
                self.dyn = dyn
                assert (logfile.write, extra) == (logfile.write, 3)

            def __call__(self):
                seen.append(self.dyn.nsteps)

        run(
            copper(), steps=4, temperature=(100, 200, 2), temperature_tau=10.0, logger_interval=1,
            logger_kwargs={"logger": Logger, "extra": 3},
        )  # fmt: skip
        assert seen == [0, 1, 2, 3, 4]


class TestReproducibility:
    @pytest.mark.parametrize("integrator", ["Berendsen", "Langevin"])
    def test_same_seed_same_trajectory(self, integrator):
        kwargs = {"steps": 10, "temperature": 300.0, "temperature_tau": 10.0, "integrator": integrator}
        first, second = run(copper(), **kwargs), run(copper(), **kwargs)
        np.testing.assert_array_equal(first[-1].positions, second[-1].positions)
        assert abs(run(copper(), seed=6, **kwargs)[-1].positions - first[-1].positions).max() > 1e-4

    def test_independent_of_chunks_and_processes(self):
        inputs = [copper() for _ in range(4)]

        def final_positions(n_processes, n_per_call):
            info = {"num_python_subprocesses": n_processes, "num_inputs_per_python_subprocess": n_per_call}
            frames = md(
                ConfigSet(inputs), OutputSpec(), EMT_RECIPE, steps=5, dt=1.0, temperature=300.0, temperature_tau=10.0,
                integrator="Langevin", pressure=None, rng=np.random.default_rng(1), autopara_info=info,
            )  # fmt: skip
            return np.array([frame.positions for frame in frames if frame.info["MD_step"] == 5])

        reference = final_positions(0, 1)
        assert reference.shape == (4, 4, 3)
        for n_processes, n_per_call in [(0, 3), (0, 4), (2, 1), (2, 3)]:
            np.testing.assert_array_equal(final_positions(n_processes, n_per_call), reference)
        assert inputs[0].info == {}


class TestPhysics:
    def test_energy_is_conserved(self):
        frames = run(copper(), EMT(), steps=200, dt=1.0, temperature=600.0)
        total = np.array([f.info["last_op__md_energy"] + f.get_kinetic_energy() for f in frames]) / 4
        assert np.ptp(total) < 2e-3
        assert abs(total[-20:].mean() - total[:20].mean()) < 2e-4

    def test_springs_swing_with_their_frequency(self):
        at = Atoms("Cu", positions=[[0.1, 0, 0]])
        period = 2 * np.pi * np.sqrt(at.get_masses()[0] / Springs.k) / units.fs
        last = run(at, Springs(np.zeros((1, 3))), steps=500, dt=period / 500)[-1]
        np.testing.assert_allclose(last.positions, at.positions, atol=1e-4)

    @pytest.mark.parametrize("integrator", ["Berendsen", "Langevin", "LangevinBAOAB"])
    def test_thermostat_reaches_its_temperature(self, integrator):
        if integrator == "LangevinBAOAB":
            pytest.importorskip("ase.md.langevinbaoab")
        sites, moved = copper(3), copper(3)
        moved.rattle(np.sqrt(units.kB * 500.0 / Springs.k), seed=1)  # out of step with each other
        kwargs = {"temperature": 500.0, "temperature_tau": 40.0, "integrator": integrator}
        frames = run(moved, springs(sites), steps=300, dt=3.0, traj_step_interval=3, **kwargs)
        mean = np.mean(info_of(frames[20:], "MD_current_temperature"))
        assert mean == pytest.approx(500.0, rel=0.06)

    @pytest.mark.parametrize("integrator", ["Berendsen", "LangevinBAOAB"])
    def test_volume_follows_the_pressure(self, integrator):
        if integrator == "LangevinBAOAB":
            pytest.importorskip("ase.md.langevinbaoab")
        kwargs = {"temperature": 50.0, "temperature_tau": 20.0, "pressure_tau": 40.0, "integrator": integrator}
        volumes = [
            np.mean([f.get_volume() for f in run(copper(), EMT(), steps=60, dt=2.0, pressure=p, **kwargs)[-20:]])
            for p in (-8.0, 8.0)
        ]
        assert volumes[1] < volumes[0] * 0.97

    def test_constant_enthalpy_without_any_time_scale(self):
        pytest.importorskip("ase.md.langevinbaoab")
        frames = run(copper(), EMT(), steps=3, temperature=100.0, pressure=5.0, integrator="LangevinBAOAB")
        assert info_of(frames, "MD_pressure_GPa") == [5.0] * 4
        assert frames[-1].get_volume() != frames[0].get_volume()

    def test_cell_shape_may_change(self):
        pytest.importorskip("ase.md.langevinbaoab")
        at = copper()
        at.set_cell(at.cell * [1, 1, 1.03], scale_atoms=True)
        kwargs = {"temperature": 100.0, "temperature_tau": 10.0, "pressure": 0.0, "integrator": "LangevinBAOAB"}
        a, _, c = run(at, EMT(), steps=5, hydrostatic=False, **kwargs)[-1].cell.lengths()
        assert c / a != pytest.approx(1.03, abs=1e-6)
        a, _, c = run(at, EMT(), steps=5, **kwargs)[-1].cell.lengths()
        assert c / a == pytest.approx(1.03, abs=1e-6)

    @pytest.mark.parametrize("scale", [0.99, 1.0, 1.01])
    def test_compressibility(self, scale):
        at = bulk("Cu", a=3.5895 * scale)
        at.calc = EMT()
        modulus = 1.0 / estimate_compressibility(at, 0.005) / units.GPa
        assert modulus == pytest.approx(bulk_modulus_from_pressures(at), rel=0.02)
        if scale == 1.0:
            assert modulus == pytest.approx(134.0, rel=0.02)

    def test_compressibility_is_estimated_only_where_used(self):
        at = copper()
        calc = springs(at)
        run(at, calc, steps=3, temperature=300.0, temperature_tau=10.0)
        assert calc.n_calls == 4

    def test_no_compressibility_of_free_atoms(self):
        at = Atoms("Cu", cell=[20, 20, 20], pbc=True)
        at.calc = EMT()
        with pytest.raises(ValueError, match="compressibility_au"):
            estimate_compressibility(at)

    def test_molecule(self):
        frames = run(molecule("CH4"), EMT(), steps=3, dt=0.2, temperature=100.0, temperature_tau=10.0)
        assert len(frames) == 4
        assert "last_op__md_stress" not in frames[0].info


def bulk_modulus_from_pressures(at):
    """-V dP/dV from stresses, independent of the second differences of the energy."""
    volumes, pressures = [], []
    for scale in (0.999, 1.001):
        probe = at.copy()
        probe.set_cell(at.cell * scale, scale_atoms=True)
        probe.calc = EMT()
        volumes.append(probe.get_volume())
        pressures.append(-probe.get_stress()[:3].mean() / units.GPa)
    return -at.get_volume() * np.diff(pressures)[0] / np.diff(volumes)[0]
