"""Workers in jobs of a real Slurm, here and behind a real sshd: calls are served, and end rightly whatever happens."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from block_tools import Ledger, work
from clusters.slurm import until
from clusters.slurm_ssh import commands

from expyre import Executor
from expyre.errors import ExPyReJobDiedError, NodeFailed, TimedOut


@pytest.fixture
def cluster(slurm_over_ssh):
    """A function that gives executors on the cluster; what is called ``slurm`` means srun.

    What is in `block_tools` can be imported there.
    """
    here = f"export PYTHONPATH={Path(__file__).parent}:$PYTHONPATH"

    def block(transport="paramiko", more=(), **options):
        slurm_over_ssh(transport, commands=[*commands(), here, *more])
        given = {"backend": "system:slurm", "block_allocation": True, "max_workers": 2, "max_time": "5m"}
        executors.append(Executor(**{**given, **options}))
        return executors[-1]

    executors = []
    yield block
    for executor in executors:  # after a failure something may still run
        executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


@pytest.mark.parametrize("transport", ["local", "paramiko", "openssh"])
def test_calls_are_served_and_nothing_is_left(cluster, ledger, slurm_env, transport, tmp_path):
    from expyre import config

    executor = cluster(transport)
    results = list(executor.map(work, [ledger] * 30, range(30), timeout=200))
    assert 1 <= len(slurm_env.jobs()) <= 2
    executor.shutdown()
    assert [number for number, _ in results] == list(range(30))
    assert 1 <= len({job for _, job in results}) <= 2
    assert all(ledger.count("begin", i) == ledger.count("end", i) == 1 for i in range(30))
    assert not slurm_env.jobs()
    assert config.project().record.counts() == {}
    assert not list((tmp_path / "rundir").rglob("run_*"))
    assert not list((tmp_path / "rundir").rglob("_expyre_blocks/*"))


def begun(ledger, number):
    return until(lambda: ledger.count("begin", number), f"the begin of call {number}")


def test_a_call_whose_worker_is_cancelled_returns_to_the_line(cluster, ledger, slurm_env):
    executor = cluster(max_workers=1)
    first, second = executor.submit(work, ledger, 1, 4), executor.submit(work, ledger, 2)
    begun(ledger, 1)
    slurm_env.scancel_all()
    assert [first.result(timeout=200)[0], second.result(timeout=200)[0]] == [1, 2]
    assert [(ledger.count("begin", i), ledger.count("end", i)) for i in (1, 2)] == [(2, 1), (1, 1)]


@pytest.mark.parametrize("restart_limit", [0, 1])
def test_a_call_whose_job_is_killed_fails_by_name_or_is_tried_again(cluster, ledger, restart_limit):
    executor = cluster(max_workers=1, restart_limit=restart_limit)
    first, second = executor.submit(work, ledger, 1, 2), executor.submit(work, ledger, 2)
    begun(ledger, 1)
    os.kill(ledger.worker(), signal.SIGKILL)
    if restart_limit:
        assert first.result(timeout=200)[0] == 1
    else:
        with pytest.raises(ExPyReJobDiedError, match=r"call .* of work: the job of its worker has ended"):
            first.result(timeout=200)
    assert second.result(timeout=200)[0] == 2
    assert (ledger.count("begin", 1), ledger.count("end", 1)) == (1 + restart_limit, restart_limit)
    assert (ledger.count("begin", 2), ledger.count("end", 2)) == (1, 1)


def running_on(slurm_env):
    [node] = slurm_env.run("squeue", "--noheader", "--states=RUNNING", "--format=%N").split()
    return node


def test_a_call_whose_node_fails_ends_by_name_and_the_others_are_served(cluster, ledger, slurm_env):
    executor = cluster()
    first = executor.submit(work, ledger, 1, 600)
    begun(ledger, 1)
    shell = int(Path(f"/proc/{ledger.worker()}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shell, signal.SIGSTOP)  # the job itself has no chance to say anything
    os.kill(ledger.worker(), signal.SIGKILL)
    slurm_env.set_node_down(running_on(slurm_env))
    others = [executor.submit(work, ledger, i) for i in range(2, 6)]
    with pytest.raises(NodeFailed, match=r"call .* of work"):
        first.result(timeout=200)
    assert [other.result(timeout=200)[0] for other in others] == [2, 3, 4, 5]
    assert [ledger.count("begin", i) for i in range(1, 6)] == [1] * 5
    assert [ledger.count("end", i) for i in range(1, 6)] == [0, 1, 1, 1, 1]


def test_calls_for_which_there_is_no_time_left_return_to_the_line(cluster, ledger):
    margin = "export EXPYRE_TIME_MARGIN=52"  # of the minute, so that a worker has eight seconds
    executor = cluster(max_workers=1, max_time="1m", more=[margin])
    short, long, endless = (executor.submit(work, ledger, i, t) for i, t in ((1, 3), (2, 5.1), (3, 600)))
    assert short.result(timeout=200)[0] == 1
    assert long.result(timeout=200)[0] == 2
    with pytest.raises(TimedOut, match="a worker has no more than"):
        endless.result(timeout=200)
    assert short.result()[1] != long.result()[1], "the second call got a new worker"
    assert [ledger.count("begin", i) for i in (1, 2, 3)] == [1, 2, 1]
    assert [ledger.count("end", i) for i in (1, 2, 3)] == [1, 1, 0]


def test_a_connection_that_breaks_is_made_again(cluster, ledger, slurm_login, monkeypatch, caplog):
    monkeypatch.setenv("EXPYRE_RETRY", "2 0.1")
    executor = cluster()
    futures = [executor.submit(work, ledger, i, 0.2) for i in range(20)]
    begun(ledger, 0)
    slurm_login.server.stop()
    try:
        until(lambda: ledger.count("end") >= 10, "work without a connection")
    finally:
        slurm_login.server.start()
    futures += [executor.submit(work, ledger, i) for i in range(20, 25)]
    assert [future.result(timeout=200)[0] for future in futures] == list(range(25))
    assert all(ledger.count("begin", i) == 1 for i in range(25))
    assert "trying again" in caplog.text


@pytest.mark.slow
def test_a_whole_minute_of_a_time_limit_is_used_and_no_more(cluster, ledger, slurm_env):
    """Takes longer than a minute: the shortest time limit of Slurm."""
    executor = cluster(max_workers=1, max_time="1m")
    short, endless = executor.submit(work, ledger, 1, 15), executor.submit(work, ledger, 2, 600)
    assert short.result(timeout=200)[0] == 1
    with pytest.raises(TimedOut, match="a worker has no more than"):
        endless.result(timeout=250)
    executor.shutdown()
    assert [ledger.count("begin", i) for i in (1, 2)] == [1, 2]
    assert "TIMEOUT" not in slurm_env.run("squeue", "--noheader", "--states=all", "--format=%T")
