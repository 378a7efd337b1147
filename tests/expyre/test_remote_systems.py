"""Jobs on the user's own systems: what every queue system does with them.

Functions of the standard library only, so that the systems need no more than a Python.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from expyre.func import Call, ExPyRe, ExPyReJobDiedError, create_jobs, start_jobs
from expyre.resources import Resources
from expyre.states import ALIVE

# queues of real systems may be long
WAIT = float(os.environ.get("EXPYRE_PYTEST_WAIT", "7200"))
pytestmark = [pytest.mark.remote, pytest.mark.timeout(WAIT + 60)]

Sizes = Callable[[str], tuple[dict[str, Any], dict[str, Any] | None]]


@pytest.fixture
def small(queued_job_resources: Sizes, sys_name: str) -> dict[str, Any]:
    """Resources of a small job."""
    return queued_job_resources(sys_name)[0]


@pytest.fixture(autouse=True)
def _here(change_test_dir: Path) -> None:
    """Output files of jobs come to the test's own directory."""


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {WAIT} s"
        time.sleep(1)
    return value


def submit(system: Any, directory: Path, resources: dict[str, Any], commands: Sequence[str]) -> str:
    stage_dir = directory / "run_job1"
    stage_dir.mkdir()
    return system.submit("job1", stage_dir, Resources(**resources), commands)


def status(system: Any, remote_id: str) -> str:
    return system.scheduler.status(remote_id)[remote_id]


def results(job: ExPyRe, timeout: float = WAIT) -> tuple[Any, str, str]:
    return job.get_results(timeout=timeout, check_interval=2, quiet=True)


# -- the queue ---------------------------------------------------------------------------------------------------


def test_a_job_runs_in_its_directory(system: Any, small: dict[str, Any], tmp_path: Path) -> None:
    remote_id = submit(system, tmp_path, small, ["basename $PWD > out", "echo to stdout", "echo to stderr >&2"])
    until(lambda: status(system, remote_id) not in ALIVE, "the end of the job")
    system.get_remotes(tmp_path)
    stage_dir = tmp_path / "run_job1"
    assert (stage_dir / "out").read_text() == "run_job1\n"
    assert "to stdout\n" in (stage_dir / "job.job1.stdout").read_text()
    assert "to stderr\n" in (stage_dir / "job.job1.stderr").read_text()


def test_a_job_is_cancelled(system: Any, small: dict[str, Any], tmp_path: Path) -> None:
    remote_id = submit(system, tmp_path, small, ["sleep 3600"])
    assert status(system, remote_id) in ALIVE
    system.scheduler.cancel(remote_id)
    until(lambda: status(system, remote_id) == "done", "the end of the job")


def test_a_waiting_job_is_held_released_and_cancelled(
    system: Any, sys_name: str, queued_job_resources: Sizes, tmp_path: Path
) -> None:
    _, big = queued_job_resources(sys_name)
    if big is None:
        pytest.skip(f"EXPYRE_PYTEST_QUEUED_JOB_RESOURCES does not say what would wait in the queue of {sys_name}")
    remote_id = submit(system, tmp_path, big, ["sleep 3600"])
    until(lambda: status(system, remote_id) == "queued", "the job in the queue")
    system.scheduler.hold(remote_id)
    until(lambda: status(system, remote_id) == "held", "the hold")
    system.scheduler.release([remote_id])
    until(lambda: status(system, remote_id) == "queued", "the release")
    system.scheduler.cancel([remote_id])
    until(lambda: status(system, remote_id) == "done", "the end of the job")


def test_a_job_has_the_nodes_it_asked_for(
    system: Any, sys_name: str, small: dict[str, Any], max_num_nodes: int
) -> None:
    if system.scheduler.name == "local":
        pytest.skip("this machine is one node")
    job = ExPyRe("nodes", function=os.getenv, args=["EXPYRE_NUM_NODES"])
    job.start({"max_time": small["max_time"], "num_nodes": max_num_nodes}, sys_name)
    assert results(job)[0] == str(max_num_nodes)


def test_a_submission_that_fails_leaves_nothing_there(
    system: Any, small: dict[str, Any], sys_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", "1 0")
    wrong = {"slurm": "#SBATCH --nodes=wrong", "pbs": "#PBS -l walltime=wrong", "sge": "#$ -l h_rt=wrong"}
    header = wrong.get(system.scheduler.name)
    if header is None:
        pytest.skip(f"the queue of {sys_name} refuses no header")
    job = ExPyRe("refused", function=math.sqrt, args=[4.0])
    with pytest.raises(RuntimeError):
        job.start(small, sys_name, header_extra=[header])
    assert job.status == "created"
    assert system.remote_rundir is None or not system.rundir.holds(job.stage_dir.name)


# -- calls -------------------------------------------------------------------------------------------------------


def test_a_call_gives_its_value_and_its_output(system: Any, small: dict[str, Any], sys_name: str) -> None:
    job = ExPyRe("name+with+plus", function=print, args=["stdout content"])
    job.start(small, sys_name)
    assert results(job) == (None, "stdout content\n", "")


def test_files_go_there_and_come_back(system: Any, small: dict[str, Any], sys_name: str) -> None:
    Path("in_file").write_text("content\n")
    job = ExPyRe(
        "files",
        function=math.sqrt,
        args=[4.0],
        input_files=["in_file"],
        output_files=["out_*"],
        pre_run_commands=["cat in_file > out_before"],
        post_run_commands=["echo $WORD > out_after"],
        env_vars=["WORD=two\\ words"],
    )
    job.start(small, sys_name)
    assert results(job)[0] == 2.0
    assert Path("out_before").read_text() == "content\n"
    assert Path("out_after").read_text() == "two words\n"


def test_a_script_that_is_run_again_finds_its_job(system: Any, small: dict[str, Any], sys_name: str) -> None:
    first = ExPyRe("again", function=math.sqrt, args=[9.0])
    first.start(small, sys_name)
    assert results(first)[0] == 3.0
    second = ExPyRe("again", function=math.sqrt, args=[9.0])
    assert second.recreated
    second.start(small, sys_name)
    assert (second.id, second.remote_id) == (first.id, first.remote_id)
    assert results(second, timeout=15)[0] == 3.0


def test_a_job_under_way_is_found_in_the_record(expyre_config: Any, small: dict[str, Any], sys_name: str) -> None:
    job = ExPyRe("found", function=platform.node)
    job.start(small, sys_name)
    (found,) = ExPyRe.from_jobsdb(expyre_config.db.jobs(status=["ongoing"]))
    assert found.id == job.id
    assert isinstance(results(found)[0], str)


def test_many_jobs_at_once(expyre_config: Any, small: dict[str, Any], sys_name: str) -> None:
    jobs = create_jobs([Call(f"many_{i}", math.sqrt, [float(i * i)]) for i in range(5)])
    start_jobs(jobs, small, sys_name)
    assert [results(job)[0] for job in jobs] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len({job.remote_id for job in jobs}) == 5


# -- failures ----------------------------------------------------------------------------------------------------


def test_an_exception_of_the_function_is_raised_here(system: Any, small: dict[str, Any], sys_name: str) -> None:
    job = ExPyRe("raises", function=math.log, args=[-1.0])
    job.start(small, sys_name)
    with pytest.raises(ValueError, match=r"domain|positive"):
        results(job)
    assert job.status == "failed"


def test_an_interpreter_that_dies_is_an_error(system: Any, small: dict[str, Any], sys_name: str) -> None:
    job = ExPyRe("dies", function=os._exit, args=[3])
    job.start(small, sys_name)
    with pytest.raises(ExPyReJobDiedError):
        results(job)


def test_a_job_that_is_cancelled_is_an_error(system: Any, small: dict[str, Any], sys_name: str) -> None:
    job = ExPyRe("cancelled", function=time.sleep, args=[3600])
    job.start(small, sys_name)
    job.cancel()
    with pytest.raises(ExPyReJobDiedError):
        results(job)
    assert job.status == "died"


# -- cleaning ----------------------------------------------------------------------------------------------------


def is_there(system: Any, job: ExPyRe) -> bool:
    if system.remote_rundir is None:
        return job.stage_dir.exists()
    return bool(system.rundir.holds(job.stage_dir.name))


def test_clean(system: Any, small: dict[str, Any], sys_name: str, request: pytest.FixtureRequest) -> None:
    """Jobs are removed here and there."""
    job = ExPyRe("clean", function=math.sqrt, args=[4.0])
    job.start(small, sys_name)
    results(job)
    job.clean(wipe=True, dry_run=True)
    assert is_there(system, job)
    if not request.config.getoption("--clean"):
        pytest.xfail("only --clean really wipes jobs")
    job.clean()
    assert (job.stage_dir / "_expyre_job_cleaned").exists()
    assert is_there(system, job)
    job.clean(wipe=True)
    assert job.status == "cleaned"
    assert not job.stage_dir.exists()
    assert not is_there(system, job)
