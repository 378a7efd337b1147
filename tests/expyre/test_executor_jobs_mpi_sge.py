"""Calls of an Executor on several MPI ranks as jobs of a real Grid Engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mpi_calls
import pytest
from clusters.sge import GridEngine, sge, sge_env  # noqa: F401
from clusters.slurm_ssh import make_project
from queue_tools import until

from expyre import Executor, config
from expyre.errors import ExPyReJobDiedError, RemoteTraceback

pytest.importorskip("mpi4py")


@pytest.fixture(params=["smp", "mpi"])
def root(
    request: pytest.FixtureRequest, sge_env: GridEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> Iterator[Path]:
    """The directory of a project whose system ``grid`` has one of two kinds of parallel environments."""
    monkeypatch.setattr(config, "_current", None)
    system = {
        "host": None,
        "scheduler": "sge",
        "header": [f"#$ -pe {request.param} {{num_cores}}"],
        "commands": [f"export PATH={Path(sys.executable).parent}:$PATH"],
        "rundir": str(tmp_path / "rundir"),
        "partitions": {"all.q": {"num_cores": 16, "max_time": "1h", "max_mem": "16GB"}},
        "scheduler_options": {"env": sge_env.env},
    }
    project = make_project(tmp_path, {"grid": system})
    yield tmp_path
    project.close()


def on_grid(**more: object) -> Executor:
    asked = {"input_files": [str(Path(mpi_calls.__file__))]}
    return Executor(backend="grid", cores_per_worker=2, max_time="5m", resource_dict=asked, **more)  # type: ignore[arg-type]


def test_calls_on_ranks(root: Path) -> None:
    for _ in range(2):
        with on_grid() as executor:
            first = executor.submit(mpi_calls.ranks, "a", root / "ledger")
            failed = executor.submit(mpi_calls.fail, "raise")
            dead = executor.submit(mpi_calls.fail, "SIGKILL")
            assert first.result(140) == [("a", 0, 2, 3), ("a", 1, 2, 3)]
            assert str(failed.exception(140)) == "rank 1 has had enough"
            assert isinstance(failed.exception().__cause__, RemoteTraceback)  # type: ignore[union-attr]
            error = dead.exception(140)
            assert isinstance(error, ExPyReJobDiedError)
            assert "rank 1 of 2 was killed by SIGKILL" in str(error)
    assert sorted((root / "ledger").read_text().split()) == ["a/0", "a/1"]


def test_a_job_that_is_deleted_leaves_no_ranks(root: Path, sge_env: GridEngine) -> None:  # noqa: F811
    with on_grid() as executor:
        future = executor.submit(mpi_calls.hang, root)
        files = [root / f"rank_{rank}" for rank in (0, 1)]
        until(lambda: all(path.exists() and path.read_text() for path in files), 100)
        pids = [int(pid) for path in files for pid in path.read_text().split()]
        [row] = config.project().record.query()
        sge_env.run("qdel", row.remote_id)
        assert isinstance(future.exception(140), ExPyReJobDiedError)
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), 20)
