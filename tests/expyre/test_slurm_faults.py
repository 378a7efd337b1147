"""Faults of queue, nodes and disks on a real Slurm behind a real sshd: nothing is lost, every end has its name."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from slurm_tools import ONE_CORE, Faults, Script, outcomes_of

from expyre import config
from expyre.errors import (
    AuthenticationError,
    Cancelled,
    ExPyReJobDiedError,
    NodeFailed,
    OutOfMemory,
    Preempted,
    TimedOut,
)
from expyre.func import Call, create_jobs, start_jobs
from expyre.retry import Retry


def nap(seconds, ledger=None):
    if ledger is not None:
        with open(ledger, "a") as file:
            file.write("ran\n")
    time.sleep(seconds)
    return os.environ.get("SLURMD_NODENAME")


def eat(megabytes):
    food = bytearray(megabytes << 20)
    food[:: 1 << 12] = b"x" * len(food[:: 1 << 12])
    time.sleep(8)
    return len(food)


def exit_with(status):
    os._exit(status)


def write_much(megabytes):
    return b"x" * (megabytes << 20)


def start(function, *args, n=1, resources=ONE_CORE, **options):
    calls = [Call(f"{function.__name__}", function, args, input_files=(__file__, _TOOLS)) for _ in range(n)]
    jobs = create_jobs(calls)
    start_jobs(jobs, resources, "slurm", partial_node=True, **options)
    return jobs


_TOOLS = str(Path(__file__).with_name("slurm_tools.py"))


def until_running(slurm, job):
    slurm.wait(job.remote_id, "RUNNING")


def later(seconds, *actions):
    """Do things in another thread, so many seconds apart."""

    def run():
        for action in actions:
            time.sleep(seconds)
            action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_queue_that_answers_nothing_late_or_wrong_kills_nobody(slurm_over_ssh, tmp_path):
    faults = Faults(tmp_path, "squeue", "sacct", "scontrol")
    slurm_over_ssh(scheduler_options=faults.options)
    jobs = start(nap, 6, n=2)
    faults.set("scontrol", "exit 1")  # neither does it say how jobs ended
    ways = (
        "exit 0",
        "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1",
        "head -c 999 /dev/urandom; exit 0",
        '/usr/bin/squeue "$@" | head -c 17; exit 0',
        "sleep 2",
    )
    thread = later(0.7, *(lambda way=way: faults.set("squeue", way) for way in ways), lambda: faults.heal("squeue"))
    outcomes = outcomes_of(jobs, check_interval=0.5)
    thread.join()
    assert all(outcome.result() in ("node1", "node2") for outcome in outcomes)


def test_results_come_although_the_queue_hangs(slurm_over_ssh, tmp_path, monkeypatch):
    monkeypatch.setattr("expyre.schedulers.slurm_read._SECONDS", 1)
    faults = Faults(tmp_path, "squeue")
    slurm_over_ssh(scheduler_options=faults.options)
    jobs = start(nap, 2, n=2)
    faults.set("squeue", "exec sleep 600")
    assert all(outcome.error is None for outcome in outcomes_of(jobs, check_interval=0.5))


def test_the_controller_is_away_for_a_while(slurm_over_ssh, slurm_env, tmp_path):
    slurm_over_ssh().close()
    script = Script(tmp_path, 4, seconds=2)
    process = script.start()
    time.sleep(2.5)
    slurm_env.stop_controller()
    time.sleep(3)
    slurm_env.start_controller()
    stdout, stderr = process.communicate(timeout=250)
    assert stdout == "[0, 1, 4, 9]\n", stderr
    assert script.ran() == [0, 1, 2, 3]


def test_a_refused_submission_of_an_absent_controller_is_tried_again(slurm_over_ssh, tmp_path, monkeypatch):
    faults = Faults(tmp_path, "sbatch")
    slurm_over_ssh(scheduler_options=faults.options)
    monkeypatch.setenv("EXPYRE_RETRY", "4 1")
    faults.set("sbatch", "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    thread = later(2, lambda: faults.heal("sbatch"))
    [outcome] = outcomes_of(start(nap, 0))
    thread.join()
    assert outcome.error is None


def test_an_accepted_submission_that_looks_failed_is_not_repeated(slurm_over_ssh, tmp_path, monkeypatch):
    faults = Faults(tmp_path, "sbatch")
    slurm_over_ssh(scheduler_options=faults.options).close()
    script = Script(tmp_path, 3)
    text = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    faults.set(
        "sbatch", f'rm {faults.directory}/sbatch.fault; /usr/bin/sbatch "$@" >/dev/null; echo "{text}" >&2; exit 1'
    )
    monkeypatch.setenv("EXPYRE_RETRY", "4 1")
    script.finish()


def test_suspended_jobs_come_to_their_end(slurm_over_ssh, slurm_env):
    slurm_over_ssh()
    [job] = start(nap, 3)
    until_running(slurm_env, job)
    slurm_env.run("scontrol", "suspend", job.remote_id)
    thread = later(5, lambda: slurm_env.run("scontrol", "resume", job.remote_id))
    [outcome] = outcomes_of([job], check_interval=0.5)
    thread.join()
    assert outcome.error is None


def test_a_node_that_goes_down_is_named(slurm_over_ssh, slurm_env):
    slurm_over_ssh()
    [job] = start(nap, 6, header_extra=["#SBATCH --no-requeue", "#SBATCH -w node1"])
    until_running(slurm_env, job)
    slurm_env.set_node_down("node1")
    later(3, lambda: slurm_env.set_node_up("node1")).join()
    [outcome] = outcomes_of([job], check_interval=0.5)
    assert isinstance(outcome.error, NodeFailed)


@pytest.mark.slow  # Slurm lets two minutes pass before a job that it has put back into the queue starts again
@pytest.mark.timeout(400)
def test_jobs_that_slurm_puts_back_into_the_queue_come_to_their_end(slurm_over_ssh, slurm_env):
    slurm_over_ssh()
    # on different nodes: a job that is requeued while its node goes down is held by Slurm
    requeued, moved = (start(nap, 4, header_extra=[f"#SBATCH -w {node}"])[0] for node in ("node1", "node2"))
    for job in (requeued, moved):
        until_running(slurm_env, job)
    slurm_env.run("scontrol", "requeue", requeued.remote_id)
    slurm_env.set_node_down("node2")
    later(3, lambda: slurm_env.set_node_up("node2")).join()
    outcomes = outcomes_of([requeued, moved], timeout=290, check_interval=1)
    assert [outcome.error for outcome in outcomes] == [None, None]


@pytest.mark.timeout(240)
def test_a_policy_submits_jobs_of_failed_nodes_again(slurm_over_ssh, slurm_env):
    project = slurm_over_ssh(retry={"max_retries": 2, "on": ["NodeFailed"], "partitions": ["gpu"]})
    [job] = start(nap, 4, header_extra=["#SBATCH --no-requeue"])
    until_running(slurm_env, job)
    node = slurm_env.run("squeue", "-h", "-j", job.remote_id, "-o", "%N").strip()
    slurm_env.set_node_down(node)
    [outcome] = outcomes_of([job], check_interval=0.5)
    assert outcome.error is None
    row = project.record.row(job.id)
    assert (row.tries, row.partition) == (1, "gpu")


def test_a_preempted_job_is_named_and_tried_again_elsewhere(slurm_over_ssh, slurm_env):
    node = {"num_cores": slurm_env.cpus, "max_time": "1h", "max_mem": None}
    project = slurm_over_ssh(partitions={"spare": node, "debug": node})
    again, once = (start(nap, seconds, resources={**ONE_CORE, "partitions": "spare"})[0] for seconds in (6, 600))
    for job in (again, once):
        until_running(slurm_env, job)
    urgent = slurm_env.submit("true", "--partition=normal", "-N2", "--exclusive", "--output=/dev/null")
    policy = Retry(1, on=("Preempted",), partitions=("debug",))
    [outcome] = outcomes_of([again], retry=policy, check_interval=0.5)
    assert outcome.error is None
    row = project.record.row(again.id)
    assert (row.tries, row.partition) == (1, "debug")
    [outcome] = outcomes_of([once], check_interval=0.5)
    assert isinstance(outcome.error, Preempted)
    assert slurm_env.wait(urgent, "COMPLETED")


def test_ends_that_python_cannot_tell_of_are_named(slurm_over_ssh, slurm_env):
    slurm_over_ssh()
    cancelled, killed, left = start(nap, 100)[0], start(nap, 101)[0], start(exit_with, 7)[0]
    for job in (cancelled, killed):
        until_running(slurm_env, job)
    slurm_env.run("scancel", cancelled.remote_id)
    slurm_env.run("scancel", "--signal=KILL", "--full", killed.remote_id)
    outcomes = outcomes_of([cancelled, killed, left], check_interval=0.5)
    assert isinstance(outcomes[0].error, Cancelled)
    assert isinstance(outcomes[1].error, ExPyReJobDiedError)
    assert isinstance(outcomes[2].error, ExPyReJobDiedError)
    assert "7" in str(outcomes[2].error)


@pytest.mark.timeout(240)
def test_memory_is_named_and_more_of_it_asked_for(slurm_accounting, tmp_path, monkeypatch):
    from clusters.slurm_ssh import make_project, slurm_system

    for name, value in slurm_accounting.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(config, "_current", None)
    project = make_project(tmp_path, {"slurm": slurm_system(slurm_accounting, tmp_path / "rundir")})
    little = {**ONE_CORE, "max_mem_tot": "150MB"}
    [job] = start(eat, 300, resources=little)
    [outcome] = outcomes_of([job], check_interval=0.5, retry=Retry(1, time_factor=2))
    assert isinstance(outcome.error, OutOfMemory), outcome.error
    [job] = start(eat, 301, resources=little)
    [outcome] = outcomes_of([job], check_interval=0.5, retry=Retry(1, mem_factor=4))
    assert outcome.result() == 301 << 20
    assert project.record.row(job.id).resources_dict["max_mem_tot"] == 4 * 150 * 1024


@pytest.mark.slow  # Slurm counts time limits in whole minutes
@pytest.mark.timeout(500)
def test_time_is_named_and_more_of_it_asked_for(slurm_over_ssh):
    project = slurm_over_ssh()
    again, once = (start(nap, seconds, resources={**ONE_CORE, "max_time": "1m"})[0] for seconds in (80, 79))
    [outcome] = outcomes_of([once], check_interval=5)
    assert isinstance(outcome.error, TimedOut)
    [outcome] = outcomes_of([again], retry=Retry(1, on=("TimedOut",), time_factor=3), check_interval=5)
    assert outcome.error is None
    assert project.record.row(again.id).tries == 1


def test_a_truncated_result_is_refused_and_computed_again(slurm_over_ssh, slurm_env, tmp_path):
    project = slurm_over_ssh()
    [job] = start(nap, 0)
    slurm_env.wait(job.remote_id, "COMPLETED")
    result = Path(project.systems["slurm"].job_dir(job.stage_dir)) / "_expyre_job_succeeded"
    result.write_bytes(result.read_bytes()[:-10])
    [outcome] = outcomes_of([job])
    assert isinstance(outcome.error, AuthenticationError)
    with pytest.raises(AuthenticationError):
        job.finish(outcome, quiet=True)
    [again] = start(nap, 0)
    assert again.id != job.id
    assert outcomes_of([again])[0].error is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_an_error_of_its_job_and_of_the_next_submission(slurm_over_ssh, slurm_env, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk here: {mounted.stderr.decode().strip()}")
    try:
        slurm_over_ssh().systems["slurm"].remote_rundir = str(small / "rundir")
        [job] = start(write_much, 4)
        [outcome] = outcomes_of([job])
        assert isinstance(outcome.error, OSError)
        assert "No space left" in str(outcome.error)
        (small / "filler").write_bytes(b"x" * (os.statvfs(small).f_bavail * os.statvfs(small).f_frsize))
        with pytest.raises(Exception, match=r"[Nn]o space left|full"):
            start(nap, 1)
        (small / "filler").unlink()
        assert outcomes_of(start(nap, 1))[0].error is None
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
