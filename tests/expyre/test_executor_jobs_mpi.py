"""Calls of an Executor on several MPI ranks as jobs of the local queue."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mpi_calls
import numpy as np
import pytest
from executor_jobs_tools import Place, place_for_jobs
from queue_tools import until

from expyre import Executor, config
from expyre.errors import ExPyReJobDiedError, OutOfMemory, RemoteTraceback, RequestError, TimedOut

pytest.importorskip("mpi4py")

PYTHON = {"python_cmd": sys.executable}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(config, "_current", None)
    monkeypatch.setenv("EXPYRE_LOCAL_CORES", "4")
    monkeypatch.chdir(tmp_path)
    with place_for_jobs(tmp_path) as found:
        yield found


def on_queue(cores: int = 2, **more: object) -> Executor:
    asked = {**PYTHON, "max_time": "3m", **more.pop("resource_dict", {})}  # type: ignore[dict-item]
    return Executor(backend="queue", cores_per_worker=cores, resource_dict=asked, **more)  # type: ignore[arg-type]


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


def num_cores(place: Place) -> list[int]:
    return [json.loads(row.resources)["num_cores"] for row in place.project.record.query()]


def job_directory(place: Place) -> Path:
    [found] = place.project.stage_root.glob("run_*")
    return found


# ------------------------------------------------------------------------------------------------ results


def test_results_are_lists_by_rank_and_are_found_again(place: Place) -> None:
    for _ in range(2):
        with on_queue() as executor:
            future = executor.submit(mpi_calls.ranks, "a", place.ledger)
            assert future.result(100) == [("a", 0, 2, 3), ("a", 1, 2, 3)]
    assert place.ran() == ["a/0", "a/1"]


def test_the_number_of_ranks_belongs_to_the_call(place: Place) -> None:
    with on_queue() as executor:
        two = executor.submit(mpi_calls.ranks, 0)
        three = executor.submit(mpi_calls.ranks, 0, resource_dict={"cores": 3})
        one = executor.submit(abs, -1, resource_dict={"cores": 1})
        total = executor.submit(max, one, 2, resource_dict={"cores": 1})
        assert [len(two.result(100)), len(three.result(100))] == [2, 3]
        assert one.result(100) == 1
        assert total.result(100) == 2
    assert sorted(num_cores(place)) == [1, 1, 2, 3]


def test_arrays_that_were_left_out_of_pickles_can_be_written_to(place: Place) -> None:
    with on_queue() as executor:
        first, second = executor.submit(mpi_calls.fill, 50_000).result(100)
    assert np.array_equal(first, [np.zeros(50_000), np.ones(50_000)])
    assert np.array_equal(first, second)
    second[0, 0] = 7
    assert first[0, 0] == 0


def test_functions_and_classes_of_a_script_travel(place: Place) -> None:
    text = f"""
from expyre import Executor

class Point:
    def __init__(self, x):
        self.x = x

def make(x):
    from mpi4py import MPI
    return Point(x + MPI.COMM_WORLD.Get_rank())

with Executor(backend="queue", cores_per_worker=2, resource_dict={{"python_cmd": {sys.executable!r}}}) as executor:
    found = executor.submit(make, 5).result()
    print([(type(each) is Point, each.x) for each in found])
"""
    process = place.script(text)
    out, err = process.communicate(timeout=100)
    assert out == "[(True, 5), (True, 6)]\n", err


def test_what_ranks_are_given_and_what_they_say(place: Place) -> None:
    with on_queue() as executor:
        found = executor.submit(mpi_calls.surroundings, resource_dict={"threads_per_core": 2}).result(100)
    for environ, cwd in found:
        assert environ["OMP_NUM_THREADS"] == "2"
        assert environ["EXPYRE_WORKER"] is None  # has the secret
        assert Path(cwd) == job_directory(place)
    assert num_cores(place) == [4]
    said = (job_directory(place) / "_expyre_stdout").read_text()
    assert sorted(said.splitlines()) == ["rank 0 speaks", "rank 1 speaks"]
    complained = (job_directory(place) / "_expyre_stderr").read_text()
    assert sorted(complained.splitlines()) == ["rank 0 complains", "rank 1 complains"]


# ------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("who", [0, 1])
def test_the_exception_of_a_rank_ends_the_call_and_names_the_rank(place: Place, who: int) -> None:
    with on_queue() as executor:
        began = time.monotonic()
        error = executor.submit(mpi_calls.fail, "raise", who).exception(100)
    assert isinstance(error, mpi_calls.Refusal)
    assert str(error) == f"rank {who} has had enough"
    assert error.__notes__ == [f"on rank {who} of 2 on {os.uname().nodename}"]
    assert isinstance(error.__cause__, RemoteTraceback)
    assert f"on rank {who} of 2" in str(error.__cause__)
    assert 'raise Refusal(f"rank {who} has had enough")' in str(error.__cause__)
    assert time.monotonic() - began < 60


def test_a_rank_that_leaves_does_not_make_the_script_leave(place: Place) -> None:
    with on_queue() as executor:
        error = executor.submit(mpi_calls.fail, "leave").exception(100)
    assert isinstance(error, ExPyReJobDiedError)
    assert "SystemExit: 4" in str(error)
    assert "on rank 1 of 2" in str(error)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("exit", "Rank 1 of 2 ended without an answer; mpiexec ended with exit status 3"),
        ("SIGKILL", "rank 1 of 2 was killed by SIGKILL, by somebody or by the system"),
        ("SIGSEGV", "Rank 1 of 2 was killed by SIGSEGV"),
    ],
)
def test_a_rank_that_dies_ends_the_call_and_is_named(place: Place, how: str, text: str) -> None:
    with on_queue() as executor:
        error = executor.submit(mpi_calls.fail, how).exception(100)
        assert type(error) is ExPyReJobDiedError
        assert text in str(error)
        assert executor.submit(mpi_calls.ranks, 1).result(100) == [(1, 0, 2, 3), (1, 1, 2, 3)]


def test_the_time_limit_ends_all_ranks(place: Place) -> None:
    with on_queue() as executor:
        error = executor.submit(mpi_calls.hang, place.root, resource_dict={"max_time": 6}).exception(100)
    assert isinstance(error, TimedOut)
    pids = [int(pid) for rank in (0, 1) for pid in (place.root / f"rank_{rank}").read_text().split()]
    until(lambda: gone(pids), 20)


def test_memory_of_all_ranks_is_that_of_the_job(place: Place) -> None:
    with on_queue() as executor:
        asked = {"max_mem_tot": "200MB"}
        error = executor.submit(mpi_calls.eat, 300 * 1024**2, resource_dict=asked).exception(100)
    assert isinstance(error, OutOfMemory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_process_of_the_job_is_ended(place: Place, number: int) -> None:
    with on_queue() as executor:
        future = executor.submit(mpi_calls.hang, place.root)
        files = [place.root / f"rank_{rank}" for rank in (0, 1)]
        until(lambda: all(path.exists() and path.read_text() for path in files), 60)
        pids = [int(pid) for path in files for pid in path.read_text().split()]
        assert not gone(pids)
        leader = _leader(pids[0])
        os.kill(leader, number)
        error = future.exception(100)
    assert isinstance(error, ExPyReJobDiedError)
    until(lambda: gone([*pids, leader]), 20)


def _leader(pid: int) -> int:
    """Return the process of the job, which has started the command that has started a rank."""
    while True:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[1:2] == [b"_expyre_shared_node.zip"]:
            return pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_cancelled_call_leaves_nothing(place: Place) -> None:
    with on_queue() as executor:
        executor.submit(mpi_calls.hang, place.root)
        files = [place.root / f"rank_{rank}" for rank in (0, 1)]
        until(lambda: all(path.exists() and path.read_text() for path in files), 60)
        pids = [int(pid) for path in files for pid in path.read_text().split()]
        [row] = place.project.record.query()
        place.project.systems["queue"].scheduler.cancel([row.remote_id])
    until(lambda: gone(pids), 20)


# ------------------------------------------------------------------------------------------------ launchers


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_words_of_a_launcher_that_refuses(place: Place) -> None:
    refuse = program(place.root / "launch", "echo no slots for you >&2; exit 7")
    with on_queue(resource_dict={"env_vars": [f"EXPYRE_MPIEXEC={refuse}"]}) as executor:
        error = executor.submit(mpi_calls.ranks, 1).exception(100)
    assert isinstance(error, RuntimeError)
    assert "2 ranks did not start" in str(error)
    assert "launch ended with exit status 7; launch said:\nno slots for you" in str(error)


def test_ranks_that_do_not_know_each_other(place: Place) -> None:
    alone = program(place.root / "launch", 'shift 2\n"$@" &\n"$@"\nwait')
    with on_queue(resource_dict={"env_vars": [f"EXPYRE_MPIEXEC={alone}"]}) as executor:
        error = executor.submit(mpi_calls.ranks, 1).exception(100)
    assert isinstance(error, RuntimeError)
    assert "2 ranks were started, but MPI puts 1 together" in str(error)


def test_no_launcher_and_no_mpi4py(place: Place) -> None:
    with on_queue(resource_dict={"env_vars": ["EXPYRE_MPIEXEC=no-such-mpiexec"]}) as executor:
        error = executor.submit(mpi_calls.ranks, 1).exception(100)
        assert isinstance(error, RuntimeError)
        assert "EXPYRE_MPIEXEC='no-such-mpiexec': there is no program" in str(error)
        asked = {"python_cmd": f"{sys.executable} -S"}
        error = executor.submit(mpi_calls.ranks, 2, resource_dict=asked).exception(100)
        assert isinstance(error, RuntimeError)
        assert "2 cores runs as so many MPI ranks and needs mpi4py, which is not there" in str(error)


def test_words_for_the_launcher(place: Place) -> None:
    asked = {"command_line_argument_lst": ["-env", "EXPYRE_WORD", "told"]}
    with on_queue() as executor:
        assert executor.submit(os.getenv, "EXPYRE_WORD", resource_dict=asked).result(100) == ["told"] * 2
        with pytest.raises(RequestError, match="it is for the command that starts MPI ranks"):
            executor.submit(abs, 1, resource_dict={**asked, "cores": 1})


# ------------------------------------------------------------------------------------------------ killed scripts

KILLED = """
import sys
sys.path.insert(0, {here!r})
import mpi_calls
from expyre import Executor

asked = {{"python_cmd": sys.executable, "max_time": "3m"}}
with Executor(backend="queue", cores_per_worker=2, resource_dict=asked) as executor:
    futures = [executor.submit(mpi_calls.wait_for, "{root}/go", i, sys.argv[1]) for i in range(2)]
    print([future.result() for future in futures])
"""


@pytest.mark.parametrize("step", ["submit.2", "submit.3", "as they run"])
def test_a_script_that_is_killed_finds_its_jobs(place: Place, step: str) -> None:
    text = KILLED.format(here=str(Path(__file__).parent), root=place.root)
    first = place.script(text, EXPYRE_KILL_AT=step)
    if step == "as they run":
        until(lambda: len(place.ran()) == 4, 60)
        first.kill()
    _, err = first.communicate(timeout=100)
    assert first.returncode == -signal.SIGKILL, err
    (place.root / "go").touch()
    out, err = place.script(text).communicate(timeout=100)
    assert out == "[[0, 0], [1, 1]]\n", err
    assert place.ran() == ["0/0", "0/1", "1/0", "1/1"]
