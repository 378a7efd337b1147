"""The commands of ``wfl``, with real calculations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read, write
from click.testing import CliRunner, Result

from wfl.calculators import generic
from wfl.cli.cli import COMMANDS, cli
from wfl.cli.commands.md import INTEGRATORS
from wfl.configset import ConfigSet, OutputSpec
from wfl.generate.md import md
from wfl.generate.md.options import INTEGRATORS as KNOWN_INTEGRATORS
from wfl.generate.optimize import optimize

pytestmark = pytest.mark.usefixtures("files")


@pytest.fixture
def files(change_test_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with some files of configurations."""
    monkeypatch.setenv("WFL_NUM_PYTHON_SUBPROCESSES", "0")
    metals = [bulk(name, cubic=True) for name in ("Al", "Cu", "Ag")]
    for i, at in enumerate(metals):
        at.info["number"] = i
        at.rattle(0.05, seed=i)
    write("metals.xyz", metals)
    write("gold.xyz", bulk("Au"))
    write("water.xyz", molecule("H2O"))
    return change_test_dir


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def outside(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": root, **env}
    command = [sys.executable, "-W", "default", "-m", "wfl.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=100)


def same(found: str, expected: ConfigSet) -> None:
    ours, theirs = list(ConfigSet(found)), list(expected)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a == b
        assert a.info.keys() == b.info.keys()
        assert a.arrays.keys() == b.arrays.keys()
        for name in a.arrays:
            np.testing.assert_allclose(a.arrays[name], b.arrays[name], atol=1e-7)


# ------------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_gives_what_the_function_gives() -> None:
    result = run("eval", "ase", "emt", "-i", "metals.xyz", "-o", "cli.xyz")
    assert result.stdout == "cli.xyz: 3 configurations\n"
    same("cli.xyz", generic.calculate(ConfigSet("metals.xyz"), OutputSpec("py.xyz"), (EMT, [], {})))
    assert "EMT_energy" in next(iter(ConfigSet("cli.xyz"))).info


@pytest.mark.parametrize("name", ["EMT", "emt", "ase.calculators.emt:EMT"])
def test_calculators_have_several_names(name: str) -> None:
    run("eval", "ase", name, "-i", "gold.xyz", "-o", "out.xyz", "-pp", "x_", "--properties", "energy, forces")
    at = read("out.xyz")
    assert "x_energy" in at.info
    assert "x_forces" in at.arrays
    assert "x_stress" not in at.info


def test_calculator_of_a_file_of_the_directory_with_keywords(files: Path) -> None:
    name = f"my_calculators_{os.getpid()}"
    Path(f"{name}.py").write_text(
        "from ase.calculators.lj import LennardJones\n\n\ndef soft(strength=1.0):\n"
        "    return LennardJones(epsilon=strength, sigma=2.5)\n"
    )
    for strength in (1.0, 2.0):
        kwargs = json.dumps({"strength": strength})
        run("eval", "ase", f"{name}:soft", "-kw", kwargs, "-i", "gold.xyz", "-o", f"{strength}.xyz", "-pp", "lj_")
    first, second = (read(f"{strength}.xyz").info["lj_energy"] for strength in (1.0, 2.0))
    assert first != 0
    assert second == pytest.approx(2 * first)


def test_extra_info_is_written_with_the_results() -> None:
    run("eval", "ase", "emt", "-i", "metals.xyz", "-o", "out.xyz", "-ei", "config_type=bulk weight=2.5 good=T")
    for at in ConfigSet("out.xyz"):
        assert (at.info["config_type"], at.info["weight"], at.info["good"]) == ("bulk", 2.5, True)


def test_finished_output_is_used_again_unless_told_otherwise() -> None:
    words = ("eval", "ase", "emt", "-i", "metals.xyz", "-o", "out.xyz")
    run(*words)
    before = os.stat("out.xyz").st_mtime_ns
    assert "Reusing existing output" in run(*words).stderr
    assert os.stat("out.xyz").st_mtime_ns == before
    run(*words, "--overwrite")
    assert os.stat("out.xyz").st_mtime_ns != before


def test_several_inputs_and_patterns_keep_their_places() -> None:
    run("eval", "ase", "emt", "-i", "metals.xyz", "-i", "go*.xyz", "-o", "out.xyz")
    places = [at.info["_ConfigSet_loc"] for at in ConfigSet("out.xyz")]
    assert places == [" / 0 / 0", " / 0 / 1", " / 0 / 2", " / 1 / 0"]


# ------------------------------------------------------------------------------------------- relaxation and dynamics


def test_relaxation_gives_what_the_function_gives() -> None:
    run(
        "optimize", "-i", "metals.xyz", "-o", "cli.xyz", "-c", "emt", "--fmax", "0.05", "--steps", "8",
        "--pressure", "1.5", "--traj-step-interval", "2", "--no-keep-symmetry", "-kw", '{"maxstep": 0.1}',
    )
    same("cli.xyz", optimize(
        ConfigSet("metals.xyz"), OutputSpec("py.xyz"), (EMT, [], {}), fmax=0.05, steps=8, pressure=1.5,
        traj_step_interval=2, keep_symmetry=False, maxstep=0.1,
    ))


def test_random_pressures_come_from_the_seed() -> None:
    words = ["optimize", "-i", "metals.xyz", "-c", "emt", "--steps", "0", "--pressure", '["uniform", 0, 9]']
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(*words, "--seed", seed, "-o", f"{name}.xyz", "--traj-subselect", "last")
    a, b, c = ([at.info["optimize_pressure_GPa"] for at in ConfigSet(f"{name}.xyz")] for name in "abc")
    assert a == b != c
    assert len(set(a)) == 3


def test_dynamics_gives_what_the_function_gives() -> None:
    run(
        "md", "-i", "metals.xyz", "-o", "cli.xyz", "-c", "emt", "--steps", "6", "--dt", "2", "--integrator", "Langevin",
        "--temperature", "[300, 600, 2]", "--temperature-tau", "50", "--seed", "5", "--traj-step-interval", "3",
        "--num-inputs-per-python-subprocess", "2",
    )
    same("cli.xyz", md(
        ConfigSet("metals.xyz"), OutputSpec("py.xyz"), (EMT, [], {}), 6, 2.0, integrator="Langevin",
        temperature=(300, 600, 2), temperature_tau=50, rng=np.random.default_rng(5), traj_step_interval=3,
    ))


def test_the_integrators_are_those_of_the_operation() -> None:
    assert INTEGRATORS == KNOWN_INTEGRATORS


# ---------------------------------------------------------------------------------------------- looking, converting


def test_conversion_and_back_changes_nothing() -> None:
    run("eval", "ase", "emt", "-i", "gold.xyz", "-o", "results.xyz")
    for name in ("a.db", "b.xyz.gz", "c.json"):
        run("convert", "-i", "results.xyz", "-o", name)
        same(name, ConfigSet("results.xyz"))
    assert "no place for the arrays EMT_forces" in run("convert", "-i", "results.xyz", "-o", "d.traj").stderr


@pytest.mark.parametrize(
    ("index", "numbers"),
    [("1", [1]), ("-1", [0]), ("::2", [0, 2]), ("1:3", [1, 2]), ("-2:", [2, 0]), (":", [0, 1, 2, 0])],
)
def test_conversion_of_a_part(index: str, numbers: list[int]) -> None:
    run("convert", "-i", "metals.xyz", "-i", "gold.xyz", "-o", "part.xyz", "--index", index, "--flat")
    found = list(read("part.xyz", ":"))
    assert [at.info.get("number", 0) for at in found] == numbers
    assert all("_ConfigSet_loc" not in at.info for at in found)


def test_conversion_names_formats_and_makes_empty_files() -> None:
    Path("empty.xyz").write_text("")
    Path("strange.data").write_bytes(Path("metals.xyz").read_bytes())
    run("convert", "-i", "strange.data", "-o", "out.stuff", "--input-format", "extxyz", "--output-format", "extxyz")
    assert len(read("out.stuff", ":", format="extxyz")) == 3
    run("convert", "-i", "empty.xyz", "-o", "nothing.xyz")
    assert Path("nothing.xyz").read_text() == ""
    assert "exists" in run("convert", "-i", "metals.xyz", "-o", "nothing.xyz").stderr
    run("convert", "-i", "metals.xyz", "-o", "metals.xyz", "--overwrite", "--index", ":2")
    assert len(ConfigSet("metals.xyz")) == 2


def test_summary() -> None:
    run("eval", "ase", "emt", "-i", "metals.xyz", "-i", "gold.xyz", "-o", "out.xyz")
    summary, water = json.loads(run("info", "out.xyz", "w*.xyz", "--json").stdout)
    assert summary["file"] == "out.xyz"
    assert summary["frames"] == 4
    assert summary["levels"] == 2
    assert summary["atoms"] == {"min": 1, "max": 4, "total": 13}
    assert summary["formulae"] == {"Al4": 1, "Cu4": 1, "Ag4": 1, "Au": 1}
    assert summary["periodicity"] == {"TTT": 4}
    assert summary["info"]["number"] == {"frames": 3, "types": {"int": 3}}
    assert summary["info"]["EMT_stress"] == {"frames": 4, "types": {"float (6)": 4}}
    assert summary["arrays"]["EMT_forces"] == {"frames": 4, "types": {"float (n, 3)": 4}}
    assert water["periodicity"] == {"FFF": 1}
    text = run("info", "out.xyz", "water.xyz").stdout
    assert "  frames: 4, in groups (2 levels)\n  atoms: 1 to 4, 13 in all\n" in text
    assert "number      int, in 3 of 4 frames" in text
    assert "water.xyz\n  frames: 1\n  atoms: 3, 3 in all\n" in text


def test_summary_shows_results_of_calculators_and_empty_files() -> None:
    at = bulk("Cu")
    at.calc = EMT()
    at.get_forces()
    write("results.traj", at)
    Path("empty.xyz").write_text("")
    found, empty = json.loads(run("info", "results.traj", "empty.xyz", "--json").stdout)
    assert found["results"]["forces"] == {"frames": 1, "types": {"float (n, 3)": 1}}
    assert empty["frames"] == 0
    assert empty["atoms"]["min"] is None
    assert run("info", "empty.xyz").stdout == "empty.xyz\n  frames: 0\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux gives it")
def test_summary_needs_no_more_memory_for_a_longer_file() -> None:
    text = Path("metals.xyz").read_text()
    peaks = []
    for times in (1, 4000):
        Path("long.xyz").write_text(text * times)
        code = (
            "import resource, sys; from wfl.cli.cli import cli; cli(['info', 'long.xyz'], standalone_mode=False);"
            "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 15_000  # kB


# ------------------------------------------------------------------------------------------------------ as a process


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from wfl.cli.cli import cli, COMMANDS\n"
        "words = [[], *([name] for name in COMMANDS), ['eval', 'ase']]\n"
        "assert all(CliRunner().invoke(cli, [*w, '--help']).exit_code == 0 for w in words)\n"
        "assert not {'ase', 'numpy', 'yaml', 'wfl.configset'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
    assert set(COMMANDS) == {"info", "convert", "eval", "optimize", "md"}


def test_worker_processes() -> None:
    done = outside("eval", "ase", "emt", "-i", "metals.xyz", "-o", "out.xyz", WFL_NUM_PYTHON_SUBPROCESSES="2",
                   WFL_POOL_START="fresh")
    assert done.returncode == 0, done.stderr
    assert "num_python_subprocesses=2" in done.stderr
    assert done.stdout == "out.xyz: 3 configurations\n"


def test_some_that_fail_are_counted_and_all_that_fail_are_an_error() -> None:
    write("silicon.xyz", bulk("Si"))
    done = outside("eval", "ase", "emt", "-i", "metals.xyz", "-i", "silicon.xyz", "-o", "out.xyz")
    assert (done.returncode, done.stdout) == (0, "out.xyz: 4 configurations\n")
    assert "Warning: calculation failed for Si2: NotImplementedError: No EMT-potential for Si\n" in done.stderr
    assert "1 of 4 failed, as info EMT_calculation_failure says" in done.stderr
    assert "Traceback" not in done.stderr
    done = outside("-v", "eval", "ase", "emt", "-i", "silicon.xyz", "-o", "bad.xyz")
    assert done.returncode == 1
    assert "Error: 1 of 1 failed" in done.stderr
    assert "Traceback" in done.stderr


def test_routes_send_a_command_to_the_queue(files: Path) -> None:
    key = "eval.py::ase,generic.py::calculate"  # the second part alone selects it, too
    (files / ".expyre").mkdir()
    route = {"sys_name": "local", "job_name": "emt", "resources": {"num_cores": 1, "max_time": "5m"},
             "num_inputs_per_queued_job": 2, "check_interval": 1}
    env = {"EXPYRE_ROOT": str(files / ".expyre"), "EXPYRE_LOCAL_DIR": str(files / "queue"),
           "WFL_EXPYRE_INFO": json.dumps({key: route})}
    done = outside("eval", "ase", "emt", "-i", "metals.xyz", "-o", "queued.xyz", **env)
    assert done.returncode == 0, done.stderr
    assert f"matched key {key}" in done.stderr
    assert "no autoparallelized call matched" not in done.stderr
    assert len(list((files / ".expyre").glob("run_emt_chunk_*"))) == 2
    same("queued.xyz", generic.calculate(ConfigSet("metals.xyz"), OutputSpec("here.xyz"), (EMT, [], {})))
