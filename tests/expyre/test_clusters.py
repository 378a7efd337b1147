"""The queue systems that tests bring up: they work, survive faults, and go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters.places import Place, base, sweep
from clusters.slurm import SlurmCluster, running_slurm, until


def test_jobs_run_on_two_nodes_and_see_their_gpus(slurm_env: SlurmCluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = "srun -N2 -n2 printenv SLURMD_NODENAME; echo $CUDA_VISIBLE_DEVICES"
    job = slurm_env.submit(script, *_to(out), "-N2", "--gres=gpu:1")
    slurm_env.wait(job, "COMPLETED")
    assert sorted(out.read_text().split()) == ["0", "node1", "node2"]


def _to(out: Path) -> list[str]:
    return [f"--output={out}", f"--chdir={out.parent}"]


def test_a_node_that_goes_down_takes_its_job_along(slurm_env: SlurmCluster) -> None:
    job = slurm_env.submit("sleep 600", "--no-requeue", "--output=/dev/null")
    slurm_env.wait(job, "RUNNING")
    slurm_env.set_node_down("node1")
    assert slurm_env.wait(job, "NODE_FAIL")
    slurm_env.set_node_up("node1")
    assert slurm_env.node_state("node1") == "idle"


def test_jobs_outlive_the_controller(slurm_env: SlurmCluster) -> None:
    job = slurm_env.submit("sleep 600", "--output=/dev/null")
    slurm_env.wait(job, "RUNNING")
    slurm_env.stop_controller()
    assert "DOWN" in slurm_env.run("scontrol", "ping", check=False)
    slurm_env.start_controller()
    assert slurm_env.state(job) == "RUNNING"


def test_a_job_of_the_spare_partition_is_preempted(slurm_env: SlurmCluster) -> None:
    first = slurm_env.submit("sleep 600", "--partition=spare", "-N2", "--exclusive", "--output=/dev/null")
    slurm_env.wait(first, "RUNNING")
    second = slurm_env.submit("true", "-N2", "--exclusive", "--output=/dev/null")
    assert slurm_env.wait(first, "PREEMPTED")
    assert slurm_env.wait(second, "COMPLETED")


def test_settings_can_be_others() -> None:
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with running_slurm(nodes=1, settings={"MaxArraySize": 5}) as cluster:
        assert "MaxArraySize            = 5" in cluster.run("scontrol", "show", "config")
        directory = cluster.directory
    assert not directory.exists()


def test_accounting_knows_how_jobs_ended(slurm_accounting: SlurmCluster, tmp_path: Path) -> None:
    greedy = "python3 -c 'import time; x = bytearray(300 * 2**20); time.sleep(600)'"
    memory = slurm_accounting.submit(greedy, "--mem=50M", *_to(tmp_path / "memory"))
    failed = slurm_accounting.submit("exit 3", *_to(tmp_path / "failed"))

    def ends() -> dict[str, str]:
        lines = slurm_accounting.run("sacct", "-nPX", "-j", f"{memory},{failed}", "-o", "JobID,State,ExitCode").split()
        return {line.split("|")[0]: line for line in lines if "RUNNING" not in line and "PENDING" not in line}

    until(lambda: len(ends()) == 2, "the end of both")
    assert ends() == {memory: f"{memory}|FAILED|0:9", failed: f"{failed}|FAILED|3:0"}
    assert "exceeded memory limit" in (tmp_path / "memory").read_text()


_OWNER = """
import sys, time
from clusters.slurm import SlurmCluster
cluster = SlurmCluster(nodes=1)
cluster.start()
cluster.submit("sleep 1234", "--output=/dev/null")
print(cluster.directory, cluster._place.watcher.pid, flush=True)
time.sleep(600)
"""


def _owner() -> tuple[subprocess.Popen[str], Path, int]:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], env=env, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory, watcher = owner.stdout.readline().split()
    return owner, Path(directory), int(watcher)


def _daemons(directory: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory) in os.readlink(process / "cwd"):
                found.append((process / "comm").read_text())
        except OSError:
            continue
    return found


def _kill(owner: subprocess.Popen[str]) -> None:
    with owner:
        owner.kill()


def test_nothing_outlives_a_session_that_is_killed() -> None:
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    owner, directory, _ = _owner()
    assert "slurmctld\n" in _daemons(directory)
    _kill(owner)
    until(lambda: not directory.exists() and not _daemons(directory), "the end of the daemons")


def test_what_a_killed_watcher_has_left_is_found_by_the_next_session() -> None:
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    owner, directory, watcher = _owner()
    os.kill(watcher, signal.SIGKILL)
    _kill(owner)
    assert directory.exists()
    sweep()
    assert not directory.exists()
    assert not _daemons(directory)


def test_a_place_in_use_is_left_alone(tmp_path: Path) -> None:
    place = Place("test", ["true"])
    try:
        sweep()
        assert place.path.parent == base()
        assert place.path.exists()
    finally:
        place.close()
    assert not place.path.exists()
