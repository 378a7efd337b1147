"""Connections that break while jobs go to a real Slurm and come back: nothing is lost, nothing runs twice."""

import random
import time

import pytest
import slurm_tools
from clusters.slurm_ssh import make_project, slurm_system
from slurm_tools import ONE_CORE, Script, outcomes_of, turn
from ssh_tools import Line, line_to

from expyre.func import Call, create_jobs, start_jobs


def numbers_in(ledger):
    return sorted(int(line) for line in ledger.read_text().split())


def breaks(draw, count):
    """Return after how many bytes connections break: after the first few thousand somebody is logged in."""
    return [4000 + int(draw.expovariate(1 / 60_000)) for _ in range(count)]


def project_over(line: Line, slurm_login, tmp_path, transport):
    system = slurm_system(slurm_login.cluster, tmp_path / "rundir", line.host, transport=transport)
    return make_project(tmp_path, {"slurm": system})


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_connections_break_after_any_number_of_bytes(slurm_over_ssh, slurm_login, tmp_path, monkeypatch, transport):
    slurm_over_ssh(transport).close()
    monkeypatch.setenv("EXPYRE_RETRY", "30 0.1")
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)
    ledger = tmp_path / "ledger"
    with line_to(slurm_login.server, f"cut-{transport}") as line:
        line.host = f"cut-{transport}"
        line.breaks = [draw.randrange(4000), *breaks(draw, 6)]
        project_over(line, slurm_login, tmp_path, transport)
        data = [draw.randbytes(30_000) for _ in range(5)]
        jobs = create_jobs(
            [Call(f"turn {i}", turn, (str(ledger), i, data[i]), input_files=(slurm_tools.__file__,)) for i in range(5)]
        )
        start_jobs(jobs, ONE_CORE, "slurm", partial_node=True)
        line.breaks += breaks(draw, 3)
        outcomes = outcomes_of(jobs, check_interval=0.5)
        assert [outcome.result() for outcome in outcomes] == [x[::-1] for x in data], seed
    assert numbers_in(ledger) == list(range(5)), seed


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_a_script_logs_in_once(slurm_over_ssh, slurm_login, tmp_path, transport):
    slurm_over_ssh(transport).close()
    ledger = tmp_path / "ledger"
    with line_to(slurm_login.server, f"once-{transport}") as line:
        line.host = f"once-{transport}"
        project_over(line, slurm_login, tmp_path, transport)
        jobs = create_jobs(
            [Call(f"turn {i}", turn, (str(ledger), i, b"ab"), input_files=(slurm_tools.__file__,)) for i in range(3)]
        )
        for job in jobs:
            job.start(ONE_CORE, "slurm", partial_node=True)
        assert [job.get_results(quiet=True)[0] for job in jobs] == [b"ba"] * 3
        jobs[0].clean(wipe=True)
        assert line.connections == 1
    assert numbers_in(ledger) == [0, 1, 2]


def test_the_ssh_server_is_away_for_a_while(slurm_over_ssh, slurm_login, tmp_path, monkeypatch):
    slurm_over_ssh().close()
    monkeypatch.setenv("EXPYRE_RETRY", "10 1")
    script = Script(tmp_path, 4, seconds=3)
    process = script.start()
    for delay in (1.5, 3):
        time.sleep(delay)
        slurm_login.server.stop()
        time.sleep(2)
        slurm_login.server.start()
    stdout, stderr = process.communicate(timeout=250)
    assert stdout == "[0, 1, 4, 9]\n", stderr
    assert script.ran() == [0, 1, 2, 3]
