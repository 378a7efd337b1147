"""Calls of an Executor on several MPI ranks as jobs of a real Slurm, here and behind a real SSH server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mpi_calls
import pytest
from clusters.slurm import SlurmCluster
from clusters.slurm_ssh import make_project, slurm_system
from queue_tools import until

from expyre import Executor, config
from expyre.config import Project
from expyre.errors import Cancelled, ExPyReJobDiedError, OutOfMemory, RemoteTraceback

pytest.importorskip("mpi4py")

TRAVELS = {"input_files": [str(Path(__file__).with_name("mpi_calls.py"))], "partitions": "normal"}
"""The file with the functions is not on the other side."""

OverSsh = Callable[..., Project]


def on_slurm(cores: int = 2, **more: object) -> Executor:
    asked = {**TRAVELS, **more.pop("resource_dict", {})}  # type: ignore[dict-item]
    return Executor(
        backend="system:slurm", cores_per_worker=cores, max_time="5m", resource_dict=asked, **more  # type: ignore[arg-type]
    )


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


@pytest.mark.parametrize("transport", ["local", "paramiko"])
def test_calls_on_ranks_are_found_by_the_next_run(slurm_over_ssh: OverSsh, tmp_path: Path, transport: str) -> None:
    project = slurm_over_ssh(transport)
    for _ in range(2):
        with on_slurm() as executor:
            found = list(executor.map(mpi_calls.ranks, range(3), [tmp_path / "ledger"] * 3))
            assert found == [[(i, 0, 2, 3), (i, 1, 2, 3)] for i in range(3)]
    assert sorted((tmp_path / "ledger").read_text().split()) == ["0/0", "0/1", "1/0", "1/1", "2/0", "2/1"]
    rows = list(project.record.query())
    assert {row.status for row in rows} == {"succeeded"}
    assert len({row.remote_id.partition("_")[0] for row in rows}) == 1  # one array


def test_ranks_on_several_nodes(slurm_over_ssh: OverSsh) -> None:
    slurm_over_ssh()
    with on_slurm(16) as executor:
        full = executor.submit(mpi_calls.ranks, 0)
        spread = executor.submit(mpi_calls.surroundings, resource_dict={"cores": 2, "num_nodes": 2})
        assert [(rank, size) for _, rank, size, _ in full.result(140)] == [(rank, 16) for rank in range(16)]
        environs = [environ for environ, _ in spread.result(140)]
    assert [environ["SLURM_NODEID"] for environ in environs] == ["0", "1"]
    assert [environ["EXPYRE_NUM_NODES"] for environ in environs] == ["2", "2"]
    assert [environ["EXPYRE_WORKER"] for environ in environs] == [None, None]


def test_ranks_have_threads_and_gpus_of_their_own(slurm_over_ssh: OverSsh) -> None:
    slurm_over_ssh("local")
    asked = {"threads_per_core": 3, "gpus_per_core": 1, "partitions": "gpu"}
    with on_slurm(resource_dict=asked) as executor:
        environs = [environ for environ, _ in executor.submit(mpi_calls.surroundings).result(140)]
    assert [environ["OMP_NUM_THREADS"] for environ in environs] == ["3", "3"]
    assert len({environ["CUDA_VISIBLE_DEVICES"] for environ in environs}) == 2 or all(
        environ["CUDA_VISIBLE_DEVICES"] == "0" for environ in environs
    )


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_the_exception_of_a_rank_ends_the_call_and_names_the_rank(slurm_over_ssh: OverSsh, num_nodes: int) -> None:
    slurm_over_ssh()
    with on_slurm(resource_dict={"num_nodes": num_nodes}) as executor:
        error = executor.submit(mpi_calls.fail, "raise").exception(140)
    assert type(error).__name__ == "Refusal"
    assert str(error) == "rank 1 has had enough"
    assert error.__notes__[0].startswith("on rank 1 of 2 on ")  # type: ignore[union-attr]
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "on rank 1 of 2" in str(error.__cause__)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("exit", "Rank 1 of 2 ended with exit status 3, without an answer"),
        ("SIGKILL", "rank 1 of 2 was killed by SIGKILL, by somebody or by the system"),
    ],
)
def test_a_rank_that_dies_ends_the_call_and_is_named(slurm_over_ssh: OverSsh, how: str, text: str) -> None:
    slurm_over_ssh("local")
    with on_slurm() as executor:
        error = executor.submit(mpi_calls.fail, how).exception(140)
    assert isinstance(error, ExPyReJobDiedError)
    assert text in str(error)


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_a_job_that_somebody_cancels_leaves_no_ranks(slurm_over_ssh: OverSsh, tmp_path: Path, num_nodes: int) -> None:
    project = slurm_over_ssh("local")
    with on_slurm(resource_dict={"num_nodes": num_nodes}) as executor:
        future = executor.submit(mpi_calls.hang, tmp_path)
        files = [tmp_path / f"rank_{rank}" for rank in (0, 1)]
        until(lambda: all(path.exists() and path.read_text() for path in files), 100)
        pids = [int(pid) for path in files for pid in path.read_text().split()]
        [row] = project.record.query()
        subprocess.run(["scancel", row.remote_id], check=True)
        assert isinstance(future.exception(140), Cancelled)
    until(lambda: gone(pids), 20)


def test_a_rank_that_takes_too_much_memory(
    slurm_accounting: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm_accounting.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(config, "_current", None)
    project = make_project(tmp_path, {"slurm": slurm_system(slurm_accounting, tmp_path / "rundir")})
    with on_slurm(resource_dict={"max_mem_tot": "250MB"}) as executor:
        error = executor.submit(mpi_calls.eat, 400 * 1024**2).exception(140)
    assert isinstance(error, OutOfMemory), error
    project.close()


KILLED = """
import sys
sys.path.insert(0, {here!r})
import mpi_calls
from expyre import Executor

with Executor(backend="system:slurm", cores_per_worker=2, max_time="5m", resource_dict={travels!r}) as executor:
    futures = [executor.submit(mpi_calls.wait_for, {root!r} + "/go", i, {root!r} + "/ledger") for i in range(2)]
    print([future.result() for future in futures])
"""


@pytest.mark.parametrize("step", ["submit.2", "as they run"])
def test_a_script_that_is_killed_finds_its_jobs(slurm_over_ssh: OverSsh, tmp_path: Path, step: str) -> None:
    project = slurm_over_ssh()
    here = str(Path(__file__).parent)
    (tmp_path / "script.py").write_text(KILLED.format(here=here, travels=TRAVELS, root=str(tmp_path)))
    ledger = tmp_path / "ledger"

    def run(**env: str) -> subprocess.Popen[str]:
        words = [sys.executable, str(tmp_path / "script.py")]
        env = {**os.environ, "EXPYRE_ROOT": str(tmp_path / ".expyre"), **env}
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True)

    first = run(EXPYRE_KILL_AT=step)
    if step == "as they run":
        until(lambda: ledger.exists() and len(ledger.read_text().split()) == 4, 100)
        first.kill()
    _, err = first.communicate(timeout=140)
    assert first.returncode == -signal.SIGKILL, err
    (tmp_path / "go").touch()
    out, err = run().communicate(timeout=140)
    assert out == "[[0, 0], [1, 1]]\n", err
    assert sorted(ledger.read_text().split()) == ["0/0", "0/1", "1/0", "1/1"]
    assert len(list(project.record.query())) == 2
