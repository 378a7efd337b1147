"""Calls of an Executor as jobs of a real Slurm behind a real SSH server."""

from __future__ import annotations

import concurrent.futures
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from executor_jobs_tools import AS_THEY_RUN, check_that_a_killed_script_finds_its_jobs
from job_calls import note, wait_for, where
from queue_tools import until

from expyre import Executor
from expyre.config import Project
from expyre.errors import Cancelled

TRAVELS = {"input_files": [str(Path(__file__).with_name("job_calls.py"))], "partitions": "normal"}
"""The file with the functions is not on the other side."""

OverSsh = Callable[..., Project]


def make_executor(**more: object) -> Executor:
    """An executor over the system ``slurm``, which is called like a backend of another kind."""
    asked = {**TRAVELS, **more.pop("resource_dict", {})}  # type: ignore[dict-item]
    return Executor(backend="system:slurm", max_time="5m", resource_dict=asked, **more)  # type: ignore[arg-type]


def test_calls_are_one_array_and_are_found_by_the_next_run(slurm_over_ssh: OverSsh, tmp_path: Path) -> None:
    project = slurm_over_ssh()
    for _ in range(2):
        with make_executor() as executor:
            assert list(executor.map(note, [tmp_path / "ledger"] * 5, range(5))) == [*range(5)]
    rows = list(project.record.query())
    assert {row.status for row in rows} == {"succeeded"}
    assert len({row.remote_id.partition("_")[0] for row in rows}) == 1
    assert sorted((tmp_path / "ledger").read_text().split()) == [*"01234"]


def test_what_calls_ask_for_is_what_they_get(slurm_over_ssh: OverSsh) -> None:
    slurm_over_ssh()
    with make_executor() as executor:
        gpus = executor.submit(where, 1, resource_dict={"gpus": 2, "threads_per_core": 3, "partitions": "gpu"})
        assert gpus.result(200) == ("gpu", "3", "0,1")
        debug = executor.submit(where, 2, resource_dict={"partitions": ["deb.*"], "num_nodes": 1, "job_name": "all"})
        assert debug.result(200)[:2] == ("debug", "8")


def test_a_waiting_call_is_cancelled_in_the_queue(slurm_over_ssh: OverSsh, tmp_path: Path) -> None:
    project = slurm_over_ssh()
    scheduler = project.systems["slurm"].scheduler
    ledger = tmp_path / "ledger"
    with make_executor(resource_dict={"num_nodes": 2, "partitions": "normal"}) as executor:
        first = executor.submit(wait_for, ledger, "first", tmp_path / "go")
        until(lambda: first.running() or first.done())
        second = executor.submit(note, ledger, "second", resource_dict={"job_name": "second"})
        until(lambda: any(row.name == "second" and row.status == "submitted" for row in project.record.query()))
        [row] = [row for row in project.record.query() if row.name == "second"]
        assert scheduler.status([row.remote_id]) == {row.remote_id: "queued"}
        assert second.cancel()
        assert not first.cancel()
        assert concurrent.futures.wait([second], 200).done
        until(lambda: scheduler.status([row.remote_id])[row.remote_id] != "queued")
        (tmp_path / "go").touch()
        assert first.result(200) == "first"
    assert ledger.read_text().split() == ["first"]


def test_a_job_that_somebody_cancels_is_told_by_name(slurm_over_ssh: OverSsh, tmp_path: Path) -> None:
    project = slurm_over_ssh()
    with make_executor() as executor:
        future = executor.submit(wait_for, tmp_path / "ledger", "w", tmp_path / "never")
        until(lambda: future.running() or future.done())
        [row] = project.record.query()
        subprocess.run(["scancel", row.remote_id], check=True)
        assert isinstance(future.exception(200), Cancelled)


@pytest.mark.parametrize("step", ["submit.2", "submit.3", AS_THEY_RUN])
def test_a_script_that_is_killed_finds_its_jobs_in_slurm(slurm_over_ssh: OverSsh, tmp_path: Path, step: str) -> None:
    project = slurm_over_ssh()
    asked = {"partitions": "normal"}
    check_that_a_killed_script_finds_its_jobs(project, tmp_path, step, backend="system:slurm", resource_dict=asked)
