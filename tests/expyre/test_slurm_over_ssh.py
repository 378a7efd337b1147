"""The main job on a real Slurm behind a real sshd: in bulk, exactly once, with results and failures by name."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from expyre import gather
from expyre.errors import Cancelled
from expyre.func import Call, create_jobs, start_jobs
from expyre.retry import Retry

ONE_CORE = {"max_time": "5m", "num_cores": 1, "partitions": "normal"}


def call(name, function, *args):
    """A call whose function is found on the other side: this file travels with it."""
    return Call(name, function, args, input_files=(__file__,))


def where(number):
    print("number", number)
    return number, os.getcwd(), os.environ["SLURM_JOB_ID"]


def outcomes_of(jobs, **options):
    return {o.job.id: o for o in gather.as_completed(jobs, **{"timeout": 200, "quiet": True, **options})}


@pytest.mark.parametrize("transport", ["local", "paramiko", "openssh"])
def test_jobs_go_and_come_together(slurm_over_ssh, transport, tmp_path):
    project = slurm_over_ssh(transport)
    jobs = create_jobs([call(f"where {i}", where, i) for i in range(6)])
    start_jobs(jobs, ONE_CORE, "slurm", partial_node=True)
    assert len({job.remote_id.partition("_")[0] for job in jobs}) == 1, "one array"
    outcomes = outcomes_of(jobs)
    for number, job in enumerate(jobs):
        value, directory, _ = outcomes[job.id].result()
        assert value == number
        assert Path(directory) == Path(project.systems["slurm"].job_dir(job.stage_dir))
        assert outcomes[job.id].stdout == f"number {number}\n"


def napping(seconds):
    time.sleep(seconds)


def test_one_member_is_held_released_and_cancelled(slurm_over_ssh):
    project = slurm_over_ssh()
    jobs = create_jobs([call("nap", napping, 600 + i) for i in range(3)])
    later = ["#SBATCH --begin=now+1hour"]
    start_jobs(jobs, ONE_CORE, "slurm", partial_node=True, header_extra=later)
    assert len({job.remote_id.partition("_")[0] for job in jobs}) == 1, "one array"
    scheduler, ids = project.systems["slurm"].scheduler, [job.remote_id for job in jobs]
    scheduler.hold(ids[0])
    assert scheduler.status(ids) == dict(zip(ids, ["held", "queued", "queued"], strict=True))
    scheduler.release(ids[0])
    assert scheduler.status(ids) == dict.fromkeys(ids, "queued")
    jobs[1].cancel()
    [outcome] = outcomes_of([jobs[1]]).values()
    assert isinstance(outcome.error, Cancelled)
    assert set(scheduler.status([ids[0], ids[2]]).values()) == {"queued"}
    scheduler.cancel([ids[0], ids[2]])


def once_too_often(ledger, number):
    with open(ledger, "a") as file:
        file.write(f"{number}\n")
    if number == 1 and Path(ledger).read_text().split().count("1") == 1:
        raise ValueError("not yet")
    return number


def test_a_failed_member_is_tried_again_alone(slurm_over_ssh, tmp_path):
    project = slurm_over_ssh()
    ledger = tmp_path / "ledger"
    jobs = create_jobs([call("again", once_too_often, str(ledger), i) for i in range(3)])
    start_jobs(jobs, ONE_CORE, "slurm", partial_node=True)
    array = jobs[0].remote_id.partition("_")[0]
    outcomes = outcomes_of(jobs, retry=Retry(1, on=("ValueError",)))
    assert [outcomes[job.id].result() for job in jobs] == [0, 1, 2]
    assert sorted(ledger.read_text().split()) == ["0", "1", "1", "2"]
    rows = [project.record.row(job.id) for job in jobs]
    assert [row.tries for row in rows] == [0, 1, 0]
    assert [row.remote_id.startswith(f"{array}_") for row in rows] == [True, False, True]
