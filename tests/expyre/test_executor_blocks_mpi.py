"""Workers of several MPI ranks that live in queue jobs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mpi_calls
import numpy as np
import pytest
from executor_jobs_tools import Place, place_for_jobs
from queue_tools import until

from expyre import Executor, config
from expyre.config import Project
from expyre.errors import TimedOut, WorkerDied

pytest.importorskip("mpi4py")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(config, "_current", None)
    monkeypatch.setenv("EXPYRE_LOCAL_CORES", "4")
    monkeypatch.chdir(tmp_path)
    with place_for_jobs(tmp_path) as found:
        yield found


def workers(**more: object) -> Executor:
    asked = {"python_cmd": sys.executable, "max_time": "3m", **more.pop("resource_dict", {})}  # type: ignore[dict-item]
    options = {"backend": "queue", "max_workers": 1, **more}
    return Executor(block_allocation=True, cores_per_worker=2, resource_dict=asked, **options)  # type: ignore[arg-type]


def load() -> dict[str, object]:
    from mpi4py import MPI

    return {"table": [MPI.COMM_WORLD.Get_rank() * 100 + i for i in range(10)]}


def look_up(i: int, table: list[int]) -> tuple[int, int, int]:
    from mpi4py import MPI

    return table[i], MPI.COMM_WORLD.allreduce(table[i]), os.getpid()


def hang_on(path: Path) -> None:
    path.with_name(f"{path.name}_{os.getpid()}").touch()
    while True:
        signal.pause()


def test_ranks_stay_and_have_data(place: Place) -> None:
    with workers(init_function=load) as executor:
        found = list(executor.map(look_up, range(4), timeout=100))
        arrays = executor.submit(mpi_calls.fill, 50_000).result(100)
    values = [[each[:2] for each in both] for both in found]
    assert values == [[(i, 100 + 2 * i), (100 + i, 100 + 2 * i)] for i in range(4)]
    assert len({each[2] for both in found for each in both}) == 2
    assert all(np.array_equal(each, [np.zeros(50_000), np.ones(50_000)]) for each in arrays)
    arrays[0][0, 0] = 1


def test_failures_name_the_rank_and_the_worker_goes_on(place: Place) -> None:
    with workers() as executor:
        for how, kind in (("raise", mpi_calls.Refusal), ("SIGKILL", WorkerDied), ("exit", WorkerDied)):
            error = executor.submit(mpi_calls.fail, how).exception(100)
            assert isinstance(error, kind)
            assert "ank 1 of 2" in f"{error} {error.__cause__}"
            assert executor.submit(mpi_calls.ranks, how).result(100) == [(how, 0, 2, 3), (how, 1, 2, 3)]
    assert place.statuses() == {}


def test_a_call_whose_rank_has_died_is_tried_again(place: Place) -> None:
    def die_once(path: Path) -> int:
        from mpi4py import MPI

        if MPI.COMM_WORLD.Get_rank() == 1 and not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        MPI.COMM_WORLD.Barrier()
        return MPI.COMM_WORLD.Get_rank()

    with workers(restart_limit=1) as executor:
        assert executor.submit(die_once, place.root / "tried").result(100) == [0, 1]


def test_ranks_that_cannot_start(place: Place) -> None:
    with workers(resource_dict={"env_vars": ["EXPYRE_MPIEXEC=no-such-mpiexec"]}) as executor:
        error = executor.submit(mpi_calls.ranks, 1).exception(100)
    assert isinstance(error, WorkerDied)
    assert "EXPYRE_MPIEXEC='no-such-mpiexec': there is no program" in str(error)


def test_a_call_for_which_no_worker_has_time_ends_with_its_ranks(place: Place) -> None:
    with workers(resource_dict={"max_time": 8}) as executor:
        error = executor.submit(hang_on, place.root / "pid").exception(100)
    assert isinstance(error, TimedOut)
    pids = [path.name.partition("_")[2] for path in place.root.glob("pid_*")]
    assert len(pids) == 2
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)


def test_ranks_on_slurm(slurm_over_ssh: Callable[..., Project]) -> None:
    slurm_over_ssh()
    asked = {"python_cmd": "python3", "input_files": [mpi_calls.__file__], "partitions": "normal"}
    for num_nodes in (1, 2):
        more = {"resource_dict": {**asked, "num_nodes": num_nodes}}
        with workers(backend="system:slurm", **more) as executor:
            found = list(executor.map(mpi_calls.ranks, range(3), timeout=140))
            assert found == [[(i, 0, 2, 3), (i, 1, 2, 3)] for i in range(3)]
            error = executor.submit(mpi_calls.fail, "raise").exception(100)
            assert "on rank 1 of 2" in str(error.__cause__)  # type: ignore[union-attr]
