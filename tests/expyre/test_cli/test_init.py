from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkup_hosts import Host, bare_host  # noqa: F401
from click.testing import Result
from clusters.pbs_standin import StandIn
from clusters.sge import GridEngine, sge, sge_env  # noqa: F401
from clusters.slurm import SlurmCluster
from clusters.slurm_ssh import SlurmOverSsh

from expyre import config
from expyre.checkup.facts import Facts, Interpreter, OtherPython, Space, Who
from expyre.checkup.proposal import Wish, guessed_commands, name_of_host, propose
from expyre.checkup.queues import NodeGroup, Partition, Queue
from expyre.config import Project
from expyre.errors import RequestError
from expyre.transports import LocalTransport

GB = 1024 * 1024
Xpr = Callable[..., Result]


def written(project: Project) -> dict[str, Any]:
    assert project.root is not None
    systems = json.loads((project.root / "config.json").read_text())["systems"]
    assert isinstance(systems, dict)
    return systems


def facts(*queues: Queue, **changes: Any) -> Facts:
    python = Interpreter("python3", "/usr/bin/python3", (3, 11, 0), {"cloudpickle": "3"}, began=True, ready=True)
    given = {"who": Who("u", host="vm", num_cores=4, mem_kb=8 * GB), "python": python, "tools": {}, **changes}
    return Facts("h", 0.1, 0.0, space=Space("run"), queues={queue.name: queue for queue in queues}, **given)


def slurm(*partitions: Partition, **more: Any) -> Queue:
    return Queue("slurm", "slurm 23", {p.name: p for p in partitions}, **more)


PLAIN = Partition("p", 3600, (NodeGroup(1, 8, 16 * GB),))


def test_a_real_slurm(slurm_env: SlurmCluster, project: Project, xpr: Xpr) -> None:
    result = xpr("init", "local", "--name", "here", "--scheduler", "slurm")
    assert "System 'here' is now in .expyre/config.json" in result.stdout
    system = written(project)["here"]
    assert system["scheduler"] == "slurm"
    assert system["host"] is None
    assert system["partitions"]["debug"] == {
        "num_cores": 8,
        "max_time": "0:30:00",
        "max_mem": "16000 MB",
        "num_gpus": 2,
    }
    loaded = Project.discover(project.root or "")
    assert loaded.systems["here"].partitions["debug"]["max_time"] == 1800  # type: ignore[index]
    assert "Next: xpr doctor here" in result.stderr
    config.init(project.root or "")
    assert "ok       Slurm" in xpr("doctor", "here").stdout


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_over_ssh_up_to_the_first_job(
    slurm_env: SlurmCluster,
    slurm_login: SlurmOverSsh,
    project: Project,
    xpr: Xpr,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    transport: str,
) -> None:
    for name, value in slurm_login.environment.items():
        monkeypatch.setenv(name, value)
    python = f"export PATH={Path(sys.executable).parent}:$PATH"
    words = ["--transport", transport, "--rundir", str(tmp_path / "run"), "--command", python]
    xpr("init", slurm_login.host, "--name", "cluster", "--scheduler", "slurm", *words)
    monkeypatch.setattr("expyre.config._current", None)
    result = xpr("doctor", "cluster", "--submit", "--timeout", "4m")
    lines = {line.split()[1]: line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert "failure" not in lines.values(), result.stdout
    assert lines["result"] == "ok"


def test_grid_engine_up_to_the_first_job(sge_env: GridEngine, project: Project, xpr: Xpr) -> None:  # noqa: F811
    xpr("init", "local", "--scheduler", "sge", "--name", "sge")
    system = written(project)["sge"]
    assert system["header"][0] == "#$ -q {partition}"
    assert system["header"][1].startswith("#$ -pe ")
    assert all(node["num_cores"] > 0 for node in system["partitions"].values())
    config.init(project.root or "")
    found = xpr("doctor", "sge", "--submit", "--timeout", "4m").stdout
    assert "failure" not in found
    assert "ok       result" in found


def test_openpbs(bare_host: Host, project: Project, xpr: Xpr) -> None:  # noqa: F811
    bare_host.openpbs()
    result = xpr("init", "local", "--name", "pbs", "--print")
    system = json.loads(result.stdout)["systems"]["pbs"]
    assert system["scheduler"] == "pbs"
    assert system["header"] == ["#PBS -q {partition}"]
    line = "#PBS -l select={num_nodes}:ncpus={num_cores_per_node}:mpiprocs={num_cores_per_node}"
    workq = {"num_cores": 32, "max_time": "48:00:00", "max_mem": "125 GB", "header": [line]}
    gpuq = {"num_cores": 16, "max_time": "12:00:00", "max_mem": "250 GB", "num_gpus": 4}
    assert system["partitions"] == {"workq": workq, "gpuq": {**gpuq, "header": [line + ":ngpus={num_gpus}"]}}
    assert "left out" in result.stderr
    assert "old, router" in result.stderr


def test_torque(bare_host: Host, project: Project, xpr: Xpr) -> None:  # noqa: F811
    bare_host.torque()
    system = json.loads(xpr("init", "local", "--name", "pbs", "--print").stdout)["systems"]["pbs"]
    assert system["header"][1] == "#PBS -l nodes={num_nodes}:ppn={num_cores_per_node}:gpus={num_gpus}"


@pytest.mark.parametrize("dialect", ["openpbs", "torque"])
def test_pbs_up_to_the_first_job(
    project: Project, xpr: Xpr, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dialect: str
) -> None:
    pbs = StandIn(tmp_path / "pbs", dialect=dialect)
    monkeypatch.setenv("PATH", pbs.path)
    try:
        xpr("init", "local", "--name", "pbs", "--scheduler", "pbs")
        config.init(project.root or "")
        found = xpr("doctor", "pbs", "--submit", "--timeout", "4m").stdout
    finally:
        pbs.stop()
    assert "failure" not in found
    assert "ok       result" in found


def test_a_machine_without_a_queue(bare_host: Host, project: Project, xpr: Xpr) -> None:  # noqa: F811
    xpr("init", "local")
    assert written(project)["local"]["scheduler"] == "local"
    assert written(project)["local"]["partitions"]["local"]["num_cores"] >= 1
    Project.discover(project.root or "")


def test_other_systems_stay(bare_host: Host, project: Project, xpr: Xpr) -> None:  # noqa: F811
    assert project.root is not None
    other = {"host": None, "scheduler": "local", "partitions": {}}
    (project.root / "config.json").write_text(json.dumps({"systems": {"other": other}, "local_stage_dir": None}))
    xpr("init", "local", "--name", "new")
    assert list(written(project)) == ["other", "new"]
    assert written(project)["other"] == other
    refused = xpr("init", "local", "--name", "other", code=1)
    assert "has a system 'other' already" in refused.stderr
    assert written(project)["other"] == other
    xpr("init", "local", "--name", "other", "--force")
    assert written(project)["other"]["partitions"] != {}
    assert [file.name for file in project.root.iterdir() if "config" in file.name] == ["config.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"systems": 3}'])
def test_a_file_that_is_no_configuration_is_left_alone(project: Project, xpr: Xpr, text: str) -> None:
    assert project.root is not None
    (project.root / "config.json").write_text(text)
    assert "mend it first" in xpr("init", "local", "--name", "new", code=1).stderr
    assert (project.root / "config.json").read_text() == text


def test_mistakes_elsewhere_in_the_file_are_said(bare_host: Host, project: Project, xpr: Xpr) -> None:  # noqa: F811
    assert project.root is not None
    text = '{"systems": {"wrong": {"host": null, "schedular": "local", "partitions": {}}}}'
    (project.root / "config.json").write_text(text)
    assert "systems.wrong" in xpr("init", "local", "--name", "new", code=1).stderr
    assert (project.root / "config.json").read_text() == text


def test_where_it_is_written(
    bare_host: Host,  # noqa: F811
    project: Project,
    xpr: Xpr,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    xpr("init", "local", "--dir", str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b" / "config.json").is_file()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c")
    xpr("init", "local")
    assert (tmp_path / "c" / ".expyre" / "config.json").is_file()
    (tmp_path / "d" / "_expyre").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "d")
    xpr("init", "local")
    assert (tmp_path / "d" / "_expyre" / "config.json").is_file()
    (tmp_path / "d" / ".expyre").mkdir()
    assert "keep one" in xpr("init", "local", code=1).stderr


def test_only_printed(bare_host: Host, project: Project, xpr: Xpr) -> None:  # noqa: F811
    result = xpr("init", "local", "--name", "new", "--print")
    assert json.loads(result.stdout)["systems"]["new"]["host"] is None
    assert written(project) == {}


def test_python_is_found_in_the_home_directory(
    bare_host: Host,  # noqa: F811
    project: Project,
    xpr: Xpr,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("expyre.transports.connect", lambda *_: LocalTransport())
    bare_host.openpbs()
    where = Path(os.environ["HOME"]) / "miniconda3" / "bin"
    where.mkdir(parents=True)
    bare_host.python()
    (bare_host.bin / "python3").rename(where / "python3")
    bare_host.add("python3", "echo libpython3.so is missing >&2; exit 127")
    result = xpr("init", "cluster", "--print")
    assert json.loads(result.stdout)["systems"]["cluster"]["commands"] == [f"export PATH={where}:$PATH"]
    assert "  python  " not in result.stderr
    (where / "python3").unlink()
    result = xpr("init", "cluster", "--print", "--command", "true")
    assert json.loads(result.stdout)["systems"]["cluster"]["commands"] == ["true"]
    assert "failure  python" in result.stderr


def test_a_queue_system_that_is_not_supported(bare_host: Host, project: Project, xpr: Xpr) -> None:  # noqa: F811
    bare_host.add("bsub", "exit 1")
    assert "is LSF, which is not supported" in xpr("init", "local", code=1).stderr


def test_a_host_that_cannot_be_reached(project: Project, xpr: Xpr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", "1 0")
    assert "nowhere.invalid" in xpr("init", "u@nowhere.invalid", code=1).stderr
    assert written(project) == {}


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        (slurm(PLAIN, trouble=""), ""),
        (slurm(trouble="squeue: down"), "does not answer: squeue: down"),
        (slurm(Partition("p", usable=False)), "no partition with nodes that takes your jobs; it has p"),
        (slurm(), "it has none at all"),
    ],
)
def test_queues_without_a_place_for_jobs(queue: Queue, words: str) -> None:
    if not words:
        assert propose(Wish("h"), facts(queue)).settings["partitions"]["p"]["num_cores"] == 8
        return
    with pytest.raises(RequestError, match=words):
        propose(Wish("h", "slurm"), facts(queue))


def test_a_queue_that_is_named_but_not_there() -> None:
    with pytest.raises(RequestError, match="commands of slurm are not found on h"):
        propose(Wish("h", "slurm"), facts())


def test_a_remote_machine_without_a_queue() -> None:
    settings = propose(Wish("u@h"), facts()).settings
    assert settings["scheduler"] == "local"
    assert settings["rundir"] == "run_expyre"
    assert settings["partitions"] == {"local": {"num_cores": 4, "max_time": None, "max_mem": "8 GB"}}


def test_partitions_with_nodes_that_differ() -> None:
    nodes = (
        NodeGroup(2, 64, 256 * GB),
        NodeGroup(10, 32, 128 * GB),
        NodeGroup(5, 32, 100 * GB),
        NodeGroup(1, 32, 128 * GB, 4),
    )
    found = propose(Wish("h"), facts(slurm(PLAIN, Partition("big", None, nodes, default=True)))).settings["partitions"]
    assert list(found) == ["big", "big_64", "big_32_4gpu", "p"], "the default comes first"
    assert found["big"] == {"num_cores": 32, "max_time": None, "max_mem": "100 GB"}
    assert found["big_64"] == {"num_cores": 64, "max_time": None, "max_mem": "256 GB", "partition": "big"}
    assert found["big_32_4gpu"]["num_gpus"] == 4


def test_accounts_are_named_only_if_they_must_and_can_be() -> None:
    enforced = {"AccountingStorageEnforce": "associations,limits"}

    def header(**more: Any) -> list[str]:
        return propose(Wish("h"), facts(slurm(PLAIN, **more))).settings["header"][3:]  # type: ignore[no-any-return]

    assert header() == []
    assert header(accounts=("a",), limits=enforced) == ["#SBATCH --account=a"]
    assert header(accounts=("a",), limits=enforced, default_account="a") == []
    assert header(accounts=("a",)) == []
    assert header(accounts=("a", "b"), limits=enforced) == []
    assert "a, b" in propose(Wish("h"), facts(slurm(PLAIN, accounts=("a", "b"), limits=enforced))).notes[0]


def test_lines_of_partitions() -> None:
    long = Partition("long", 3600, (NodeGroup(1, 8),), header=("#SBATCH --qos=long",))
    settings = propose(Wish("h"), facts(slurm(PLAIN, long))).settings
    assert len(settings["header"]) == 3
    assert settings["partitions"]["long"]["header"] == ["#SBATCH --qos=long"]
    assert propose(Wish("h"), facts(slurm(long))).settings["header"][3:] == ["#SBATCH --qos=long"]


def test_several_queue_systems() -> None:
    found = propose(Wish("h"), facts(slurm(PLAIN), replace(slurm(PLAIN), name="pbs")))
    assert found.settings["scheduler"] == "slurm"
    assert found.notes == ("there is also pbs: choose with --scheduler",)


def test_what_gpus_are_called() -> None:
    queue = Queue("sge", "SGE", {"p": PLAIN}, {"gpu_resource": "ngpus"})
    assert propose(Wish("h"), facts(queue)).settings["scheduler_options"] == {"gpu_resource": "ngpus"}


def test_guesses_for_python() -> None:
    there = facts().python
    assert guessed_commands(there, facts(), (3, 11, 0)) == []
    old = Interpreter("python3", "/usr/bin/python3", (3, 6, 8), ready=True)
    others = (
        OtherPython("/opt/a/bin/python3", (3, 12, 1), cloudpickle=False),
        OtherPython("/home/u/b/bin/python3", (3, 10, 1), cloudpickle=True),
        OtherPython("/home/u/c/bin/python3", (3, 11, 1), cloudpickle=True),
        OtherPython("/usr/bin/python3", (3, 6, 8), cloudpickle=True),
    )
    found = guessed_commands(old, facts(others=others, modules=("python/3.9", "python/3.11.3")), (3, 11, 0))
    assert found == [
        ("export PATH=/home/u/c/bin:$PATH",),
        ("export PATH=/home/u/b/bin:$PATH",),
        ("export PATH=/opt/a/bin:$PATH",),
        ("source /etc/profile", "module load python/3.11.3"),
        ("source /etc/profile", "module load python/3.9"),
    ]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("me@archer.ac.uk", "archer"),
        ("login1.juwels.de", "juwels"),
        ("fakecluster", "fakecluster"),
        ("login", "login"),
        ("10.0.0.7", "10_0_0_7"),
        ("me@hpc-login.x", "x"),
    ],
)
def test_names_of_systems(host: str, name: str) -> None:
    assert name_of_host(host, "slurm", "vm") == name


def test_names_of_systems_here() -> None:
    assert name_of_host(None, "local", "vm.org") == "local"
    assert name_of_host(None, "slurm", "vm.org") == "vm"
