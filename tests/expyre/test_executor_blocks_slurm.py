"""Workers in jobs of a real Slurm, here and behind a real sshd: calls are served, and end rightly whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from block_tools import Ledger, work
from clusters.slurm_ssh import commands

from expyre import Executor


@pytest.fixture
def cluster(slurm_over_ssh):
    """A function that gives executors on the cluster, whose system is ``cluster``: ``slurm`` means srun.

    What is in `block_tools` can be imported there.
    """
    here = f"export PYTHONPATH={Path(__file__).parent}:$PYTHONPATH"

    def block(transport="paramiko", **options):
        project = slurm_over_ssh(transport, commands=[*commands(), here])
        project.systems["cluster"] = project.systems["slurm"]
        given = {"backend": "cluster", "block_allocation": True, "max_workers": 2, "max_time": "5m"}
        return Executor(**{**given, **options})

    return block


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


@pytest.mark.parametrize("transport", ["local", "paramiko", "openssh"])
def test_calls_are_served_and_nothing_is_left(cluster, ledger, slurm_env, transport, tmp_path):
    from expyre import config

    with cluster(transport) as executor:
        results = list(executor.map(work, [ledger] * 30, range(30), timeout=200))
        assert 1 <= len(slurm_env.jobs()) <= 2
    assert [number for number, _ in results] == list(range(30))
    assert 1 <= len({job for _, job in results}) <= 2
    assert all(ledger.count("begin", i) == ledger.count("end", i) == 1 for i in range(30))
    assert not slurm_env.jobs()
    assert config.project().record.counts() == {}
    assert not list((tmp_path / "rundir").rglob("run_*"))
    assert not list((tmp_path / "rundir").glob("**/_expyre_blocks/*"))
