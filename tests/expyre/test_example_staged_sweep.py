"""The example of a staged sweep, from end to end, and the physics of what it computes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from queue_tools import fresh_queue

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "staged_sweep"
TARGETS = ("{model: harmonic, element: Al}", "{model: harmonic, element: Cu}")
SAMPLERS = ("{sampler: hmc, trajectories: 100}", "{sampler: langevin, steps: 1000}")


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """Give the modules of the example."""
    names = [path.stem for path in EXAMPLE.glob("*.py")]
    sys.path.insert(0, str(EXAMPLE))
    try:
        import morse
        import samplers
        import targets

        yield SimpleNamespace(targets=targets, samplers=samplers, morse=morse)
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in names:
            sys.modules.pop(name, None)


def configure(directory: Path, targets: tuple[str, ...] = TARGETS, samplers: tuple[str, ...] = SAMPLERS) -> None:
    lines = ["targets:", *(f"  - {each}" for each in targets), "samplers:", *(f"  - {each}" for each in samplers)]
    (directory / "sweep.yaml").write_text("\n".join(lines) + "\n")


def start(directory: Path, *words: str) -> subprocess.Popen[str]:
    """Start the script in a directory."""
    command = [sys.executable, str(EXAMPLE / "sweep.py"), "--config", "sweep.yaml", *words]
    return subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@contextmanager
def killed_at_the_end(directory: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start the script in a directory, and kill it, and its workers, without warning when the block is over."""
    with start(directory, *words) as script:
        try:
            yield script
        finally:
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.communicate()


def run(directory: Path, *words: str, status: int = 0) -> str:
    """Run the script in a directory to its end; return what it says."""
    with start(directory, *words) as script:
        out, err = script.communicate(timeout=250)
    assert script.returncode == status, out + err
    assert not err, err
    return out


def table(directory: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(directory / "results" / "sampling_runs.parquet").to_pylist()


def wait_until(condition: Callable[[], object], script: subprocess.Popen[str]) -> None:
    while not condition():
        assert script.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)


def logs(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory / "logs")) for path in (directory / "logs").rglob("*.*"))


# ---------------------------------------------------------------------------------------------------------- the script


def test_from_end_to_end(tmp_path: Path) -> None:
    configure(tmp_path)
    out = run(tmp_path, "--local", "--workers", "2", "--promote")
    lines = out.splitlines()
    builds = [line.split()[3] for line in lines if line.startswith("  Submitting build for tgt_")]
    assert f"  Submitting build for {builds[0]} (model=harmonic, data=Al)" in lines
    assert [line for line in lines if line.startswith("===")] == [
        "=== Stage A: Building Targets ===",
        "=== Stage B: Running Samplers ===",
        "=== Waiting for 4 sampling runs to complete ===",
        "=== Stage C: Promoting Results ===",
    ]
    assert [line for line in lines if "completed" in line] == [f"  [{i}/4] completed" for i in range(1, 5)]
    assert sorted(line.split(" built in ")[0] for line in lines if " built in " in line) == sorted(
        f"  {build}" for build in builds
    )
    assert "6 tasks computed now, 0 found from before, 0 failed" in out
    rows = table(tmp_path)
    assert [(row["target_id"], row["sampler"]) for row in rows] == [(b, s) for b in builds for s in ("hmc", "langevin")]
    names = [f"{row['target_id']}_{row['sampler']}_{row['run_id']}" for row in rows]
    assert [line.strip() for line in lines if " -> " in line] == [
        f"{name} -> gallery/{name[:10]}" for name in names if name in out.split("Stage C")[1].split("run  ")[0]
    ]
    assert logs(tmp_path) == sorted(
        [f"build_target/{each}.{end}" for each in builds for end in ("log", "err")]
        + [f"run_sampler/{each}.{end}" for each in names for end in ("log", "err")]
    )
    assert "force constants" in (tmp_path / "logs" / "build_target" / f"{builds[0]}.log").read_text()
    assert all(0.15 < row["energy"] < 0.4 and row["energy_error"] < 0.06 for row in rows)
    assert [row["acceptance"] is None for row in rows] == [False, True, False, True]
    for build in builds:  # the best run of each target was promoted
        best = min((row for row in rows if row["target_id"] == build), key=lambda row: row["energy_error"])
        promoted = json.loads((tmp_path / "gallery" / build / "run.json").read_text())
        assert promoted["run_id"] == best["run_id"]
        assert (tmp_path / "gallery" / build / "frames.xyz").read_text().count("energy=") >= 10
    graph = (tmp_path / "results" / "graph.svg").read_text()
    assert graph.count("<title>build_target #") == 2
    assert graph.count("<title>run_sampler #") == 4


def test_ids_and_numbers_do_not_depend_on_where_it_runs(tmp_path: Path) -> None:
    results = []
    for place, workers in (("one", "1"), ("two", "2")):
        (tmp_path / place).mkdir()
        configure(tmp_path / place, TARGETS[:1])
        run(tmp_path / place, "--workers", workers)
        results.append(
            [{k: v for k, v in row.items() if k not in ("began", "seconds")} for row in table(tmp_path / place)]
        )
    assert results[0] == results[1]


def test_a_target_that_fails_stops_no_other(tmp_path: Path) -> None:
    configure(tmp_path, ("{model: harmonic, element: Fe}", TARGETS[0]))
    out = run(tmp_path, "--workers", "2", "--promote", status=1)
    rows = table(tmp_path)
    assert [row["status"] for row in rows] == ["failed", "failed", "completed", "completed"]
    assert [row["energy"] is None for row in rows] == [True, True, False, False]
    failed = rows[0]["target_id"]
    assert f"  {failed} could not be built" in out
    assert "3 tasks computed now, 0 found from before, 3 failed" in out
    last = out.splitlines()[-1]
    assert last.startswith(f"  {failed}: ")
    log = tmp_path / last.rsplit("see ", 1)[1]
    assert log == tmp_path / "logs" / "build_target" / f"{failed}.err"
    assert "Traceback" in log.read_text()
    run_log = tmp_path / "logs" / "run_sampler" / f"{failed}_hmc_{rows[0]['run_id']}.err"
    assert "was not run because an input failed" in run_log.read_text()
    assert [path.name for path in (tmp_path / "gallery").iterdir()] == [rows[2]["target_id"]]


def test_a_run_begins_when_its_own_target_is_there(tmp_path: Path) -> None:
    """The second target takes long; runs on the first do not wait for it."""
    configure(tmp_path, (TARGETS[0], "{model: morse, element: Cu, repeat: 3, frames: 12}"), SAMPLERS[:1])
    with killed_at_the_end(tmp_path, "--workers", "2") as script:
        wait_until(lambda: len([name for name in logs(tmp_path) if name.startswith("run_sampler")]) >= 2, script)
        assert len([name for name in logs(tmp_path) if name.startswith("build_target")]) == 2, "of one target"


def test_all_mistakes_in_the_configuration_are_reported_at_once(tmp_path: Path) -> None:
    configure(tmp_path, ("{model: harmonik}",), ("{sampler: hmc, trajectory: 3}",))
    with start(tmp_path) as script:
        _, err = script.communicate(timeout=100)
    assert script.returncode == 1
    assert "model must be one of harmonic, morse" in err
    assert "sampler hmc: 'trajectory' is unknown (did you mean 'trajectories'?)" in err
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------------ killed, run again


def kill_after_first_runs(directory: Path, *words: str) -> int:
    """Start the script, and kill it when two runs are done but not all; return how many tasks were done by then."""
    with killed_at_the_end(directory, *words) as script:
        wait_until(lambda: sum(name.startswith("run_sampler") for name in logs(directory)) >= 4, script)
    return len(logs(directory)) // 2


MORE = (*SAMPLERS, "{sampler: andersen, steps: 1000}")


def test_killed_and_run_again_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    configure(tmp_path, samplers=MORE)
    done = kill_after_first_runs(tmp_path, "--workers", "1")
    killed = time.time()
    assert 3 <= done < 8
    assert {row["status"] for row in table(tmp_path)} == {"completed", "waiting"}, "it is written as runs end"
    out = run(tmp_path, "--workers", "1")
    assert out.count("] completed, found from before") in (done - 2, done - 1, done)
    assert "built, found from before" in out
    # one more may have ended when the script was killed
    found = next(n for n in (done, done + 1) if f"{8 - n} tasks computed now, {n} found from before, 0 failed" in out)
    rows = table(tmp_path)
    assert sum(row["began"] < killed for row in rows) in (found - 1, found - 2)
    assert "0 tasks computed now, 8 found from before" in run(tmp_path, "--workers", "1")
    assert table(tmp_path) == rows


def test_interrupted_it_says_what_it_leaves(tmp_path: Path) -> None:
    configure(tmp_path, TARGETS[:1], (SAMPLERS[0], "{sampler: langevin, steps: 1000000}"))
    with killed_at_the_end(tmp_path, "--workers", "1") as script:
        wait_until(lambda: (tmp_path / "results" / "sampling_runs.parquet").exists(), script)
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=60)
    assert (script.returncode, err) == (130, "")
    assert out.endswith(
        "Interrupted. results/sampling_runs.parquet has the runs that are done; the same command computes the others.\n"
    )
    assert [row["status"] for row in table(tmp_path)] == ["completed", "waiting"]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[None]:
    """A project in the directory of the test, whose system `queue` is a queue of its own."""
    node = {"num_cores": 2, "max_time": None, "max_mem": "4GB", "num_gpus": 0}
    (tmp_path / ".expyre").mkdir()
    for found in fresh_queue(tmp_path):
        options = {"dir": str(found.spool.path), "grace": 0.5}
        system = {"host": None, "scheduler": "local", "partitions": {"all": node}, "scheduler_options": options}
        (tmp_path / ".expyre" / "config.json").write_text(json.dumps({"systems": {"queue": system}}))
        yield


def test_as_jobs_of_a_queue_killed_and_run_again(tmp_path: Path, queue: None) -> None:
    configure(tmp_path)
    done = kill_after_first_runs(tmp_path, "--system", "queue")
    out = run(tmp_path, "--system", "queue", "--promote")
    # jobs go on without the script
    assert "6 found from before, 0 failed" in out or any(
        f"{6 - n} tasks computed now, {n} found from before, 0 failed" in out for n in range(done, 6)
    )
    assert len(list((tmp_path / ".expyre").glob("run_*"))) == 6, "a job for each task, none twice"
    assert {row["status"] for row in table(tmp_path)} == {"completed"}
    assert len(list((tmp_path / "gallery").iterdir())) == 2


# --------------------------------------------------------------------------------------------------------- the physics


def sampled(modules: SimpleNamespace, target: Any, sampler: str, **options: Any) -> dict[str, Any]:
    kind = {k: v for k, v in modules.samplers.DEFAULTS[sampler].items() if k not in options}
    result: dict[str, Any] = modules.samplers.run_sampler(target, sampler, seed=7, **kind, **options).value
    return result


def off(found: dict[str, Any], name: str, expected: float, error: float = 0.0) -> float:
    """Return by how many error bars a number is off."""
    return abs(found[name] - expected) / float(np.hypot(found[f"{name}_error"], error))


def test_averages_of_a_harmonic_crystal_are_those_of_equipartition(modules: SimpleNamespace) -> None:
    from ase import units

    target = modules.targets.build_target("harmonic", "Al", 2, 1, displacement=0.01).value
    thermal, modes = units.kB * 300, 3 * 8 - 3  # the crystal drifts as a whole without an energy
    found = {
        "hmc": sampled(modules, target, "hmc", trajectories=300),
        "langevin": sampled(modules, target, "langevin", steps=4000),
        "andersen": sampled(modules, target, "andersen", steps=4000),
    }
    for name, result in found.items():
        assert off(result, "energy", modes / 2 * thermal) < 3.5, name
        assert off(result, "heat_capacity", modes / 8 / 2 + 1.5) < 3.5, name
        assert off(result, "temperature", 300) < 3.5, name
        assert result["energy_error"] < 0.05 * result["energy"], name
    assert off(found["hmc"], "energy", found["langevin"]["energy"], found["langevin"]["energy_error"]) < 3
    assert 0.5 < found["hmc"]["acceptance"] < 1


def test_hybrid_monte_carlo_and_dynamics_agree_on_an_anharmonic_crystal(modules: SimpleNamespace) -> None:
    target = modules.targets.build_target("morse", "Cu", 2, 1, frames=4, rattle=0.08).value
    assert target.quality["force_rmse"] < 0.05
    hmc = sampled(modules, target, "hmc", temperature=600, trajectories=150)
    md = sampled(modules, target, "langevin", temperature=600, steps=2500)
    assert off(hmc, "energy", md["energy"], md["energy_error"]) < 3.5
    assert 0.8 < hmc["energy"] / (21 / 2 * 600 / 11604.5) < 1.2


def test_the_morse_potential_is_that_of_ase(modules: SimpleNamespace) -> None:
    from ase.build import bulk
    from ase.calculators.morse import MorsePotential

    atoms = bulk("Cu") * (2, 2, 2)
    parameters = {"epsilon": 0.3, "rho0": 5.0, "r0": 2.6, "rcut1": 1.5, "rcut2": 1.9}
    atoms.calc = modules.morse.Morse(**parameters)
    for seed in range(4):  # the list of pairs is used again for small steps, and made anew after large ones
        atoms.rattle(0.1 + 0.3 * (seed > 1), seed=seed)
        same = atoms.copy()
        same.calc = MorsePotential(**parameters)
        assert atoms.get_potential_energy() == pytest.approx(same.get_potential_energy(), abs=1e-9)
        assert np.allclose(atoms.get_forces(), same.get_forces(), atol=1e-9)


def test_error_bars_tell_how_far_averages_are_off(modules: SimpleNamespace) -> None:
    """Of correlated numbers with a known mean and variance, error bars cover two thirds of averages."""
    averages: ModuleType = sys.modules["averages"]
    rng = np.random.default_rng(0)
    hits = np.zeros(2)
    for _ in range(200):
        noise, series = rng.normal(size=3000), np.empty(3000)
        series[0] = noise[0]
        for i in range(1, 3000):  # variance 1, correlation 0.8
            series[i] = 0.8 * series[i - 1] + 0.6 * noise[i]
        for which, (found, true) in enumerate([(averages.mean(series), 0), (averages.fluctuation(series), 1)]):
            hits[which] += abs(found[0] - true) < found[1]
    assert (abs(hits / 200 - 0.68) < 0.12).all(), hits
