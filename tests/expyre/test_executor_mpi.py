"""Calls on several cores are calls on MPI ranks; ranks that fail end the call and never hang it."""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path

import pytest
from executor_tools import HEAD_OF_SCRIPTS, nothing_left, run, script

from expyre import Executor
from expyre.errors import RequestError, WorkerDied
from expyre.executor.commands import Mpi
from expyre.executor.requests import Request

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
    monkeypatch.setenv("EXPYRE_MPIEXEC", "run --with 'two words'")
    request = Request(cores=3, command_line_argument_lst=("-v",))
    assert Mpi().command(request) == ["run", "--with", "two words", "-n", "3", "-v"]


SAMPLE = """
from expyre import Executor

def calc(i):
    from mpi4py import MPI
    size = MPI.COMM_WORLD.Get_size()
    rank = MPI.COMM_WORLD.Get_rank()
    return i, size, rank

with Executor(max_cores=2, cores_per_worker=2, backend="mpi") as exe:
    fs = exe.submit(calc, 3)
    print(fs.result())
"""


def test_the_sample(tmp_path):
    assert run(SAMPLE, tmp_path) == "[(3, 2, 0), (3, 2, 1)]\n"


def test_nobody_sees_the_secret_and_nothing_is_left_of_a_killed_script(tmp_path):
    text = HEAD_OF_SCRIPTS + """
def hang():
    from mpi4py import MPI
    Path(f"rank_{MPI.COMM_WORLD.Get_rank()}").write_text("there\\n")
    time.sleep(600)

with Executor(max_cores=2, cores_per_worker=2) as exe:
    exe.submit(hang).result()
"""
    with script(text, tmp_path) as running:
        for rank in (0, 1):
            running.wait_for_file(f"rank_{rank}")
        for pid in running.others():
            assert not re.search(rb"[0-9a-f]{64}", Path(f"/proc/{pid}/cmdline").read_bytes())
        running.process.kill()
        nothing_left(running)
