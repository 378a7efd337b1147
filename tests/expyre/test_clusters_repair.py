"""Whatever happens to the queue systems and servers of the tests, the next test finds them whole and empty."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters.fixtures import kill_scripts
from clusters.places import Place, free_ports, port_range
from clusters.sge import GridEngine, sge, sge_env  # noqa: F401
from clusters.slurm import SlurmCluster, running_slurm, until
from clusters.sshd import Sshd

pytest_plugins = ["ssh_fixtures"]

PATIENCE = 2.0  # with what hangs


@pytest.fixture(scope="module")
def own() -> Iterator[SlurmCluster]:
    """A Slurm that may be broken."""
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with running_slurm() as cluster:
        yield cluster


def signalled(name: str, number: int) -> Callable[[SlurmCluster], None]:
    return lambda cluster: os.kill(cluster.daemon(name), number)


def set_nodes_down(cluster: SlurmCluster) -> None:
    for name in cluster.nodes:
        cluster.set_node_down(name)
    cluster.run("scontrol", "update", "nodename=node1", "state=drain", "reason=test")


def requeue(cluster: SlurmCluster) -> None:
    """Put jobs back into the queue that end late: until then they are in no state by which they can be cancelled."""
    cluster.run("scontrol", "requeue", *cluster.run("squeue", "-h", "-t", "R", "-o", "%i").split())


def freeze_step(cluster: SlurmCluster) -> None:
    """Let a job stay in COMPLETING for ever when it is cancelled."""
    for pid in until(lambda: _steps(cluster), "the daemons of the job"):
        os.kill(pid, signal.SIGSTOP)


def _steps(cluster: SlurmCluster) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = os.readlink(process / "cwd").startswith(str(cluster.directory))
            if ours and (process / "comm").read_text() == "slurmstepd\n":
                found.append(int(process.name))
        except OSError:
            continue
    return found


def spoil_state(cluster: SlurmCluster) -> None:
    """Take away what slurmctld has on disk, and it, too."""
    for path in (path for path in (cluster.directory / "state").rglob("*") if path.is_file()):
        path.write_bytes(b"nonsense")
    os.kill(cluster.daemon("slurmctld"), signal.SIGKILL)


FAULTS = {
    "controller stopped": SlurmCluster.stop_controller,
    "nodes down": set_nodes_down,
    "requeued": requeue,
    "step frozen": freeze_step,
    "state spoilt": spoil_state,
    "controller killed": signalled("slurmctld", signal.SIGKILL),
    "node killed": signalled("slurmd.node1", signal.SIGKILL),
    "munged killed": signalled("munged", signal.SIGKILL),
    "controller frozen": signalled("slurmctld", signal.SIGSTOP),
    "node frozen": signalled("slurmd.node2", signal.SIGSTOP),
    "munged frozen": signalled("munged", signal.SIGSTOP),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_slurm_is_whole_again(own: SlurmCluster, fault: str, tmp_path: Path) -> None:
    running = own.submit("trap '' TERM; sleep 600", "--output=/dev/null", "-N2")
    own.submit("sleep 600", "--output=/dev/null", "--begin=now+1hour")
    own.wait(running, "RUNNING")
    before = own.conf, own.port
    FAULTS[fault](own)
    own.repair(PATIENCE)
    assert own.jobs() == []
    assert not _steps(own)
    assert (own.conf, own.port) == before
    job = own.submit("srun -N2 printenv SLURMD_NODENAME", "-N2", f"--output={tmp_path / 'out'}")
    own.wait(job, "COMPLETED")
    assert sorted((tmp_path / "out").read_text().split()) == ["node1", "node2"]


def test_what_is_whole_is_not_started_again(own: SlurmCluster) -> None:
    own.repair()
    daemons = [own.daemon(name) for name in ("slurmctld", "slurmd.node1", "munged")]
    own.submit("sleep 600", "--output=/dev/null")
    own.repair()
    assert daemons == [own.daemon(name) for name in ("slurmctld", "slurmd.node1", "munged")]


def test_accounting_is_whole_again(slurm_accounting: SlurmCluster, tmp_path: Path) -> None:
    for name in ("slurmdbd", "mariadb"):
        signalled(name, signal.SIGSTOP)(slurm_accounting)
        slurm_accounting.repair(PATIENCE)
    slurm_accounting.restarts.clear()  # nothing to tell in the summary
    job = slurm_accounting.submit("exit 3", "--output=/dev/null", f"--chdir={tmp_path}")

    def end() -> str:
        return slurm_accounting.run("sacct", "-nPX", "-j", job, "-o", "State,ExitCode").strip()

    until(lambda: end() == "FAILED|3:0", "the end in the accounts")


def test_what_cannot_be_repaired_is_told_at_once_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with running_slurm(nodes=1) as cluster:
        cluster.conf.unlink()
        monkeypatch.setattr(cluster, "_settings", {"NoSuchSetting": 1})
        with pytest.raises(AssertionError, match="does not start again"):
            cluster.repair(PATIENCE)
        began = cluster.restarts.copy()
        with pytest.raises(AssertionError, match="does not start again"):
            cluster.repair(PATIENCE)
        assert cluster.restarts == began


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_an_ssh_server_is_whole_again(lab: Sshd, fault: str) -> None:
    os.kill(int((lab.path / "pid").read_text()), signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    lab.repair(PATIENCE)
    lab.check()


@pytest.mark.parametrize("pid_file", ["qmaster/qmaster.pid", "execd/*/execd.pid"])
def test_grid_engine_is_whole_again(sge_env: GridEngine, pid_file: str) -> None:  # noqa: F811
    sge_env.run("qsub", "-b", "y", "-wd", "/", "-o", "/dev/null", "-j", "y", "sleep", "600")
    [path] = Path("/var/spool/gridengine").glob(pid_file)
    os.kill(int(path.read_text()), signal.SIGSTOP)
    sge_env.repair(PATIENCE)
    assert sge_env.run("qstat", "-u", "*") == ""
    assert sge_env.restarts
    sge_env.restarts.clear()  # nothing to tell in the summary


def test_scripts_that_a_test_has_left_are_killed(tmp_path: Path) -> None:
    environments = [{**os.environ, "EXPYRE_ROOT": str(tmp_path / name)} for name in (".expyre", "other")]
    left, other = (subprocess.Popen(["sleep", "600"], env=env) for env in environments)
    try:
        kill_scripts(tmp_path)
        assert left.wait(60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_ports_of_a_place_are_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setattr("clusters.places.port_range", lambda: (port, port + 2))
    place = Place("test", ["true"])
    try:
        with free_ports(1, place) as first:
            assert first == port
        # it is free as far as the system is concerned
        with pytest.raises(OSError, match="no 1 free ports"), free_ports(1):
            pass
    finally:
        place.close()
    with free_ports(1) as first:
        assert first == port


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        ("32768\t60999", (20768, 32768)),
        ("16000 65535", (10000, 16000)),
        ("1024 60000", (60001, 65536)),
        ("1024 65535", (20000, 30000)),
        ("", (20768, 32768)),
    ],
)
def test_ports_of_daemons_are_none_that_connections_get(tmp_path: Path, given: str, ports: tuple[int, int]) -> None:
    (tmp_path / "range").write_text(given)
    assert port_range(tmp_path / "range") == ports
    assert port_range(tmp_path / "none") == (20768, 32768)
