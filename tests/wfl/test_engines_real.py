"""The same calls on executors of other packages, the real ones: what comes back is what comes without them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine_calls
import engine_executors
import pytest
from clusters.slurm import SlurmCluster
from engine_calls import CALLS, on

from wfl.autoparallelize import autoparallelize
from wfl.autoparallelize.engines import WorkerDied
from wfl.autoparallelize.engines.capacity import number_of_workers
from wfl.configset import OutputSpec

HERE = Path(__file__).parent
LAUNCHER = Path(sys.executable).parent / "mpiexec"
REPLACE_DEAD_WORKERS = ("expyre", "dask", "parsl", "parsl_on_slurm")


@dataclass
class Carrier:
    """An executor, and where jobs are queued that its workers should be in."""

    name: str
    executor: Executor
    cluster: SlurmCluster | None = None


@pytest.fixture(scope="module", params=list(engine_executors.NEEDS))
def carrier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    """An executor, which all tests use one after the other."""
    name = request.param
    if reason := engine_executors.missing(name):
        pytest.skip(reason)
    cluster = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        patch.chdir(tmp_path_factory.mktemp(name))
        if name == "parsl_on_slurm":
            cluster = request.getfixturevalue("slurm")
            cluster.repair()
            for variable, value in cluster.env().items():
                patch.setenv(variable, value)
        executor = getattr(engine_executors, name)()
        yield Carrier(name, executor, cluster)
        executor.shutdown(wait=True)
        if name == "dask":
            executor._client.cluster.close()
            executor._client.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the calls come to in this process."""
    return {name: call(None, str(tmp_path_factory.mktemp(name))) for name, call in CALLS.items()}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_the_same(carrier: Carrier, expected: dict[str, Any], name: str, tmp_path: Path) -> None:
    assert CALLS[name](carrier.executor, str(tmp_path)) == expected[name]


def test_expectations(expected: dict[str, Any]) -> None:
    assert len(expected["evaluated"]) == 12
    assert len(expected["displaced"][0]) == 30
    assert expected["displaced"][1] == {"x"}
    args, notes = expected["refused"]
    assert args == ("five is not there", 5)
    if sys.version_info >= (3, 11):
        assert notes == ["raised by engine_calls.refuse_five for item 5 of its input"]


def test_other_processes_do_the_work(carrier: Carrier) -> None:
    found = autoparallelize(engine_calls.tell_process, range(4), OutputSpec(), autopara_info=on(carrier.executor))
    assert os.getpid() not in {atoms.info["process"] for atoms in found}
    jobs = carrier.cluster.jobs() if carrier.cluster is not None else [""]
    assert {atoms.info["job"] for atoms in found} == set(jobs)


def test_number_of_workers_bounds_the_work_in_flight(carrier: Carrier) -> None:
    assert number_of_workers(carrier.executor) == 2
    assert 2 < engine_calls.most_in_flight(carrier.executor) <= 4


def test_dead_worker(carrier: Carrier, tmp_path: Path) -> None:
    def run() -> None:
        autoparallelize(
            engine_calls.kill_at_seven, range(20), None, str(tmp_path), autopara_info=on(carrier.executor)
        )

    if carrier.name not in REPLACE_DEAD_WORKERS:  # it breaks the whole executor, which is the last that we do to it
        with pytest.raises(WorkerDied, match=r"died while it ran engine_calls.kill_at_seven.* under way were item"):
            run()
        return
    with pytest.raises(WorkerDied, match=r"died while it ran engine_calls.kill_at_seven for items 6-7 of its input"):
        run()
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(20)) - {7}


def test_mpi(expected: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    if not LAUNCHER.exists():
        pytest.skip("no mpiexec next to this Python")
    command = [str(LAUNCHER), "-n", "3", sys.executable, "-m", "mpi4py.futures", str(HERE / "engine_calls.py")]
    env = {**os.environ, "PYTHONPATH": f"{HERE.parent.parent}:{HERE}"}
    done = subprocess.run([*command, str(tmp_path / "outcomes")], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    outcomes = pickle.loads((tmp_path / "outcomes").read_bytes())
    assert 2 < outcomes.pop("flight") <= 4
    assert "MPIPoolExecutor of 2 workers" in done.stderr
    assert outcomes == expected
