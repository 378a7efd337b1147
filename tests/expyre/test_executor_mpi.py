"""Calls on several cores are calls on MPI ranks; ranks that fail end the call and never hang it."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from executor_tools import HEAD_OF_SCRIPTS, nothing_left, script, wait_until

from expyre import Executor
from expyre.errors import RequestError, WorkerDied
from expyre.executor.requests import Request
from expyre.executor.workers import launching
from expyre.node.family import descendants
from expyre.node.starters.mpi import Mpi

pytest.importorskip("mpi4py")


def ranks(value):
    from mpi4py import MPI

    return value, MPI.COMM_WORLD.Get_size(), MPI.COMM_WORLD.Get_rank()


def total(value):
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(value + MPI.COMM_WORLD.Get_rank())


def end_badly(how, who=1):
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_rank() == who:
        if how == "raise":
            raise ValueError(f"rank {who} has failed")
        if how == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    MPI.COMM_WORLD.Barrier()


def end_while_others_wait(how):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.Get_rank() == 1:
        raise ValueError("rank 1 has failed")
    if how == "bcast":
        world.bcast(None, root=1)
    elif how == "recv":
        world.recv(source=1)
    world.Reduce(np.zeros(1000), np.zeros(1000), root=0)


def gather(size):
    from mpi4py import MPI

    mine = np.full(size, MPI.COMM_WORLD.Get_rank(), dtype=float)
    every = np.empty((MPI.COMM_WORLD.Get_size(), size))
    MPI.COMM_WORLD.Allgather(mine, every)
    return every


def surroundings():
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "EXPYRE_WORKER", "PYTHONPATH")
    return {name: os.environ.get(name) for name in names}, sorted(os.sched_getaffinity(0)), os.getcwd()


def shifted(value, shift):
    from mpi4py import MPI

    return value + shift + MPI.COMM_WORLD.Get_rank()


def initial():
    return {"shift": 100, "unused": 1}


@pytest.fixture(scope="module")
def per_call():
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        yield executor


def test_results_by_rank(per_call):
    assert per_call.submit(ranks, 3).result(timeout=60) == [(3, 2, 0), (3, 2, 1)]
    first = per_call.submit(total, 1)
    assert per_call.submit(sum, first, resource_dict={"cores": 1}).result(timeout=60) == 6


def test_workers_of_ranks_stay():
    with Executor(max_cores=2, cores_per_worker=2, block_allocation=True, init_function=initial) as executor:
        assert list(executor.map(total, range(5))) == [[2 * i + 1] * 2 for i in range(5)]
        assert executor.submit(shifted, 1).result(timeout=60) == [101, 102]


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("how", ["raise", "exit", "kill"])
def test_a_rank_that_fails_ends_the_call(how, block):
    with Executor(max_cores=2, cores_per_worker=2, block_allocation=block) as executor:
        error = executor.submit(end_badly, how).exception(timeout=60)
        if how == "raise":
            assert isinstance(error, ValueError)
            assert "rank 1 has failed" in str(error)
            assert "end_badly" in str(error.__cause__)
        else:
            assert isinstance(error, WorkerDied)
            assert "end_badly" in str(error)
        assert executor.submit(ranks, 1).result(timeout=60) == [(1, 2, 0), (1, 2, 1)]


@pytest.mark.parametrize("how", ["bcast", "recv", "reduce"])
def test_a_rank_that_fails_while_others_wait_for_it(per_call, how):
    error = per_call.submit(end_while_others_wait, how).exception(timeout=60)
    assert isinstance(error, ValueError)
    assert "end_while_others_wait" in str(error.__cause__)
    assert per_call.submit(ranks, 1).result(timeout=60) == [(1, 2, 0), (1, 2, 1)]


def test_arrays(per_call):
    size = 300_000  # more than a socket holds
    first, second = per_call.submit(gather, size).result(timeout=60)
    assert np.array_equal(first, second)
    assert np.array_equal(first, [np.zeros(size), np.ones(size)])
    given = np.arange(size, dtype=float)
    assert all(np.array_equal(each, given) for each in per_call.submit(np.sort, given[::-1]).result(timeout=60))


def test_each_rank_has_a_core(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # nobody else has claimed any
    usable = sorted(os.sched_getaffinity(0))[:2]
    if len(usable) < 2:
        pytest.skip("needs two cores")
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        found = executor.submit(surroundings).result(timeout=60)
    assert [cores for _, cores, _ in found] == [[core] for core in usable]


def test_each_rank_has_its_share(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "4,7")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    request = {"threads_per_core": 1, "gpus_per_core": 1, "cwd": str(tmp_path / "new")}
    with Executor(max_cores=2, cores_per_worker=2, resource_dict=request) as executor:
        found = executor.submit(surroundings).result(timeout=60)
    for (environ, _, cwd), gpu in zip(found, ("4", "7"), strict=True):
        assert environ == {
            "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": gpu, "ROCR_VISIBLE_DEVICES": gpu,
            "EXPYRE_WORKER": None, "PYTHONPATH": None,
        }  # fmt: skip
        assert cwd == str(tmp_path / "new")


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_ranks_that_do_not_know_each_other(monkeypatch, tmp_path):
    start_alone = program(tmp_path / "launch", 'shift 2\n"$@" &\n"$@"\nwait')
    monkeypatch.setenv("EXPYRE_MPIEXEC", start_alone)
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        error = executor.submit(ranks, 1).exception(timeout=60)
    assert isinstance(error, RuntimeError)
    assert "2 ranks were started, but MPI puts 1 together" in str(error)


def package(directory: Path, text: str) -> Path:
    """Make a package mpi4py that hides the real one."""
    (directory / "mpi4py").mkdir(parents=True)
    (directory / "mpi4py" / "__init__.py").write_text(text)
    return directory


def test_no_mpi4py(monkeypatch):
    monkeypatch.setattr("importlib.machinery.PathFinder.find_spec", lambda *args: None)
    monkeypatch.delitem(sys.modules, "mpi4py", raising=False)
    with pytest.raises(RequestError, match=r"2 cores .* needs mpi4py, which is not there: install it"):
        Executor(max_cores=2, cores_per_worker=2)


def test_mpi4py_cannot_be_loaded(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(package(tmp_path, "raise RuntimeError('cannot load MPI library')"))
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        error = executor.submit(abs, 1).exception(timeout=60)
    assert isinstance(error, ImportError)
    assert "the library of MPI that it was made for (`pip install mpi4py mpich` brings both): cannot load" in str(error)


def test_mpi_does_not_start(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(launching, "_PATIENCE_WITH_MPI", 1.0)
    monkeypatch.syspath_prepend(package(tmp_path, "import time; time.sleep(600)"))
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        error = executor.submit(abs, 1).exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert "Timeout" in str(error)
    assert "mpi4py" in str(error)


def test_words_of_a_launcher_that_refuses(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("EXPYRE_MPIEXEC", program(tmp_path / "launch", "echo no slots for you >&2; exit 7"))
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        error = executor.submit(ranks, 1).exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert "ended with exit status 7; it said:\nno slots for you" in str(error)
    assert "no slots for you" in capfd.readouterr().err  # passed on as well
    with Executor(max_cores=2, cores_per_worker=2, block_allocation=True) as executor:
        errors = [executor.submit(ranks, i).exception(timeout=60) for i in range(2)]
    assert all("no worker could be started" in str(error) and "no slots" in str(error) for error in errors)


def test_no_launcher(monkeypatch, tmp_path):
    monkeypatch.delenv("EXPYRE_MPIEXEC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(RequestError, match=r"started with mpiexec, which is not there: install MPI.*EXPYRE_MPIEXEC"):
        Executor(max_cores=2, cores_per_worker=2)
    program(tmp_path / "run", "")
    monkeypatch.setenv("EXPYRE_MPIEXEC", "run --with 'two words'")
    request = Request(cores=3, command_line_argument_lst=("-v",))
    assert Mpi().command(request) == ["run", "--with", "two words", "-n", "3", "-v"]


def test_a_launcher_that_is_not_there(monkeypatch):
    monkeypatch.setenv("EXPYRE_MPIEXEC", "no-such-mpiexec -v")
    with pytest.raises(RequestError, match=r"EXPYRE_MPIEXEC='no-such-mpiexec -v': there is no program"):
        Executor(max_cores=2, cores_per_worker=2)


def test_variables_of_jobs_and_of_other_ranks_do_not_steer_the_launcher(monkeypatch):
    for name in ("SLURM_JOB_ID", "PBS_NODEFILE", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("EXPYRE_MPIEXEC", raising=False)
    assert {"SLURM_JOB_ID", "PBS_NODEFILE", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"} <= set(Mpi().hidden)
    assert {"SLURM_JOB_ID", "PBS_NODEFILE"} <= set(Mpi().restored)
    assert not {"PMI_RANK", "OMPI_COMM_WORLD_SIZE"} & set(Mpi().restored)
    monkeypatch.setenv("EXPYRE_MPIEXEC", "/usr/bin/srun --mpi=pmi2")  # meant to see the job
    assert "SLURM_JOB_ID" not in Mpi().hidden


HANG = """
def hang():
    from mpi4py import MPI
    Path(f"rank_{MPI.COMM_WORLD.Get_rank()}").write_text(f"{os.getpid()}\\n")
    subprocess.Popen(["sleep", "600"])
    time.sleep(600)

exe = Executor(max_cores=2, cores_per_worker=2)
future = exe.submit(hang)
future.result()
"""


@pytest.fixture
def hanging(monkeypatch, tmp_path):
    """A script whose call hangs on two ranks, and its directory for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with script(HEAD_OF_SCRIPTS + "import subprocess\n" + HANG, tmp_path) as running:
        ranks = [int(running.wait_for_file(f"rank_{rank}")) for rank in (0, 1)]
        yield running, tmp_path / "tmp", ranks


def sockets(directory: Path) -> list[Path]:
    return list(directory.glob("expyre-*/s"))


def test_nobody_sees_the_secret_and_nothing_is_left_of_a_killed_script(hanging):
    running, directory, _ = hanging
    for pid in running.others():
        assert not re.search(rb"[0-9a-f]{64}", Path(f"/proc/{pid}/cmdline").read_bytes())
    assert len(sockets(directory)) == 1
    running.process.kill()
    nothing_left(running)
    assert sockets(directory) == []


def test_ranks_end_though_nobody_is_there_to_end_them(hanging):
    running, _, ranks = hanging
    wait_until(lambda: all(descendants(rank) for rank in ranks), 60.0)
    kept = {*ranks, *(pid for rank in ranks for pid in descendants(rank))}
    others = [pid for pid in running.others() if pid not in kept]
    assert len(others) >= 3  # mpiexec, what it has started to start ranks, the keeper
    for pid in (*others, running.process.pid):
        os.kill(pid, signal.SIGSTOP)  # so that none cleans up for another
    for pid in (*others, running.process.pid):
        os.kill(pid, signal.SIGKILL)
    nothing_left(running)


def test_a_name_too_long_for_a_socket(monkeypatch, tmp_path):
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        assert executor.submit(ranks, 1).result(timeout=60) == [(1, 2, 0), (1, 2, 1)]
    assert sockets(directory) == []
