from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkup_hosts import Host, bare_host  # noqa: F401
from clusters.slurm import SlurmCluster

from expyre.checkup import Facts, Finding, Here, examine, findings, look_here, unreachable
from expyre.checkup.facts import Interpreter, Space, Who
from expyre.checkup.queues import NodeGroup, Partition, Queue
from expyre.errors import TransportError
from expyre.system import System

GB = 1024 * 1024
NODE = {"num_cores": 8, "max_time": "1h", "max_mem": "16GB"}
HEADER = ("#SBATCH --partition={partition}",)
TOOLS = {name: f"/usr/bin/{name}" for name in ("bash", "tar", "gzip", "sbatch", "squeue", "scancel", "scontrol")}
QUEUE = Queue(
    "slurm",
    "slurm 23.02",
    {
        "normal": Partition("normal", 86400, (NodeGroup(2, 8, 16 * GB, 2),), default=True),
        "debug": Partition("debug", 1800, (NodeGroup(2, 8, 16 * GB),)),
        "down": Partition("down", None, (), usable=False),
    },
    {"MinJobAge": "300 sec", "AccountingStorageType": "accounting_storage/none"},
)
PACKAGES = {"cloudpickle": "3.1.0", "numpy": "2.1.0", "ase": "3.23.0", "wfl": "0.1.0"}
PYTHON = Interpreter("python3", "/opt/py/bin/python3", (3, 11, 2), PACKAGES, began=True, ready=True)
HERE = Here((3, 11, 7), PACKAGES, Path("/home/me/.expyre"), "ext4", "wal", "", 10 * GB)
SPACE = Space("run_expyre/x", "/home/u", writable=True, free_kb=100 * GB, free_inodes=10**6, kind="nfs")
GOOD = Facts("host", 0.5, 0.0, Who("u", system="Linux"), TOOLS, SPACE, PYTHON, queues={"slurm": QUEUE})


def system(partitions: dict[str, Any] | None = None, **settings: Any) -> System:
    settings = {"host": "host", "scheduler": "slurm", "header": HEADER, **settings}
    return System(**settings, partitions={"normal": NODE} if partitions is None else partitions)


def bad(facts: Facts = GOOD, made: System | None = None, here: Here = HERE) -> list[Finding]:
    """Return what is not in order."""
    found = findings("hpc", made or system(), facts, here)
    assert all(finding.remedy for finding in found if finding.level != "ok"), "every fault needs a way out"
    assert not any(finding.remedy or finding.certain for finding in found if finding.level == "ok")
    return [finding for finding in found if finding.level != "ok"]


def only(found: Sequence[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def with_python(**changes: Any) -> Facts:
    return replace(GOOD, python=replace(PYTHON, **changes))


def with_space(**changes: Any) -> Facts:
    return replace(GOOD, space=replace(SPACE, **changes))


def with_queue(**changes: Any) -> Facts:
    return replace(GOOD, queues={"slurm": replace(QUEUE, **changes)})


def test_nothing_is_wrong() -> None:
    assert bad() == []


@pytest.mark.parametrize(
    ("settings", "level", "key", "words"),
    [
        ({"num_cores": 16}, "failure", "num_cores", "8 cores, 16 are configured"),
        ({"num_cores": 6}, "warning", "num_cores", "only 6 are configured"),
        ({"num_cores": 4}, "ok", "", ""),  # hardware threads
        ({"max_time": "2d"}, "failure", "max_time", "may run for 24:00:00, 48:00:00 is configured"),
        ({"max_time": None}, "warning", "max_time", "no limit is configured"),
        ({"max_mem": "17GB"}, "warning", "max_mem", "17 GB is configured"),
        ({"max_mem": "64GB"}, "failure", "max_mem", "16 GB, 64 GB is configured"),
        ({"num_gpus": 2}, "ok", "", ""),
        ({"num_gpus": 4}, "failure", "num_gpus", "2 GPUs"),
    ],
)
def test_partitions_are_compared(settings: dict[str, Any], level: str, key: str, words: str) -> None:
    found = bad(made=system({"normal": {**NODE, **settings}}))
    if level == "ok":
        assert found == []
        return
    assert (only(found).level, only(found).what) == (level, "partition normal")
    assert words in only(found).evidence
    assert f"config.json: systems.hpc.partitions.normal.{key}: " in only(found).remedy


def test_a_partition_that_is_not_there() -> None:
    found = only(bad(made=system({"norml": NODE})))
    assert found.level == "failure"
    assert "no partition 'norml' (is 'normal' meant?)" in found.evidence
    assert "systems.hpc.partitions.norml" in found.remedy


def test_real_names_of_partitions() -> None:
    assert (
        bad(made=system({"mine": {**NODE, "partition": "normal"}, "both": {**NODE, "partition": "normal,debug"}})) == []
    )
    found = only(bad(made=system({"mine": {**NODE, "partition": "normal,nowhere"}})))
    assert "'nowhere'" in found.evidence


@pytest.mark.parametrize(
    "line",
    ["#SBATCH -p nowhere", "#SBATCH --partition=nowhere", "#SBATCH -N 1 --partition nowhere", "#SBATCH -pnowhere"],
)
def test_header_lines_that_name_a_partition_that_is_not_there(line: str) -> None:
    found = only(bad(made=system(header=(line,))))
    assert "'nowhere'" in found.evidence
    assert "systems.hpc.header" in found.remedy


def test_header_lines_that_name_no_partition() -> None:
    two = {"a": NODE, "b": NODE}
    found = only(bad(made=system(two, header=("#SBATCH --nodes={num_nodes}",))))
    assert (found.level, found.what) == ("warning", "header")
    assert 'add "#SBATCH --partition={partition}"' in found.remedy
    assert bad(made=system(two, header=("#SBATCH --qos={partition}",))) == []
    assert bad(made=system({"a": {**NODE, "header": ["#SBATCH -p normal"]}}, header=())) == []


def test_lines_of_pbs_that_forget_gpus() -> None:
    queue = replace(QUEUE, name="pbs", limits={})
    tools = TOOLS | {name: name for name in ("qsub", "qstat", "qdel")}
    there = replace(GOOD, queues={"pbs": queue}, tools=tools)
    line = "#PBS -l select={num_nodes}:ncpus={num_cores_per_node}"
    nodes = {"normal": {**NODE, "num_gpus": 2}}
    found = only(bad(there, system(nodes, scheduler="pbs", header=("#PBS -q {partition}", line))))
    assert (found.level, found.what) == ("warning", "partition normal")
    assert '":ngpus={num_gpus}"' in found.remedy
    assert bad(there, system(nodes, scheduler="pbs", header=("#PBS -q {partition}", line + ":ngpus={num_gpus}"))) == []


def test_partitions_of_another_cluster_are_not_compared() -> None:
    assert bad(made=system({"there": NODE}, header=("#SBATCH --clusters=other", *HEADER))) == []


def test_a_queue_that_lists_no_partitions() -> None:
    assert bad(with_queue(partitions={})) == []


def test_a_partition_out_of_service() -> None:
    found = only(bad(made=system({"down": NODE})))
    assert (found.level, found.what) == ("warning", "partition down")


def test_commands_of_the_queue_that_are_not_there() -> None:
    tools = {name: path for name, path in TOOLS.items() if name not in ("sbatch", "squeue")}
    found = only(bad(replace(GOOD, tools=tools | {"qconf": "/usr/bin/qconf"}, queues={})))
    assert found.certain
    assert "sbatch, squeue: not found on host; there is Grid Engine (qconf)" in found.evidence
    ready = replace(GOOD, tools={k: v for k, v in TOOLS.items() if k != "sbatch"}, ready_tools=TOOLS)
    assert bad(ready) == []


def test_commands_before_submission_that_fail() -> None:
    found = only(bad(replace(GOOD, ready_tools=TOOLS, prepared=False), system(pre_submit_cmds=["false"])))
    assert (found.what, found.certain) == ("pre_submit_cmds", False)


def test_a_queue_that_does_not_answer() -> None:
    found = only(bad(with_queue(trouble="squeue: Unable to contact slurm controller")))
    assert (found.level, found.certain) == ("failure", False)
    assert "Unable to contact" in found.evidence


def test_jobs_are_forgotten_soon() -> None:
    assert only(bad(with_queue(limits={"MinJobAge": "5 sec"}))).what == "accounting"


@pytest.mark.parametrize(
    ("changes", "level", "certain", "words"),
    [
        ({"writable": False, "trouble": "Permission denied"}, "failure", True, "Permission denied"),
        ({"writable": False, "trouble": "No space left on device"}, "failure", True, "is full"),
        ({"writable": False, "trouble": "Disk quota exceeded"}, "failure", True, "is full"),
        ({"free_kb": 1000}, "failure", True, "is full: only 1e+03 kB"),
        ({"free_inodes": 0}, "failure", True, "is full"),
        ({"free_kb": 100 * 1024}, "warning", False, "only 100 MB"),
        ({"free_inodes": 99}, "warning", False, "99 inodes"),
        ({"path": "/tmp"}, "warning", False, "nodes have a /tmp of their own"),
        ({"known": False, "trouble": "no answer in time", "path": ""}, "failure", False, "no answer in time"),
    ],
)
def test_run_directories(changes: dict[str, Any], level: str, certain: bool, words: str) -> None:
    found = only(bad(with_space(**changes)))
    assert (found.what, found.level, found.certain) == ("run directory", level, certain)
    assert words in found.evidence.replace("1000 kB", "1e+03 kB")


@pytest.mark.parametrize("rundir", ["/scratch/$USER/run", "$WORK", "~/a/${x}"])
def test_variables_in_run_directories_are_not_filled_in(rundir: str) -> None:
    found = only(bad(made=system(rundir=rundir)))
    assert (found.what, found.level) == ("run directory", "warning")
    assert "variables are not filled in" in found.evidence
    assert "ssh host" in found.remedy


@pytest.mark.parametrize("rundir", ["$HOME/run", "${HOME}/run", "~/run", "/scratch/100$/a$1"])
def test_the_home_in_run_directories_is(rundir: str) -> None:
    assert not bad(made=system(rundir=rundir))


@pytest.mark.parametrize(
    ("changes", "level", "certain", "words"),
    [
        (
            {"executable": "", "missing": True, "said": "bash: python3: not found"},
            "failure",
            True,
            "python3: not found",
        ),
        ({"executable": "", "said": "libpython.so: cannot open"}, "failure", False, "does not start: libpython"),
        ({"executable": "", "timed_out": True}, "failure", False, "no answer in 60 s"),
        ({"version": (3, 6, 8)}, "failure", True, "is Python 3.6.8, jobs need 3.9"),
        ({"version": (3, 9, 1)}, "warning", False, "Python 3.9.1, here it is 3.11.7"),
    ],
)
def test_pythons(changes: dict[str, Any], level: str, certain: bool, words: str) -> None:
    found = only(bad(with_python(**changes)))
    assert (found.what, found.level, found.certain) == ("python", level, certain)
    assert words in found.evidence
    assert "systems.hpc.commands" in found.remedy


def test_shells_and_commands() -> None:
    nowhere = {"began": False, "ready": False, "executable": "", "said": "/bin/zsh: No such file"}
    assert only(bad(with_python(**nowhere), system(script_exec="/bin/zsh"))).what == "script_exec"
    ended = {"ready": False, "executable": "", "said": ""}
    assert only(bad(with_python(**ended), system(commands=["exit 1"]))).what == "commands"
    module = {"said": "/bin/bash: line 3: module: command not found"}
    found = only(bad(with_python(**module), system(commands=["module load x"])))
    assert (found.level, found.what) == ("warning", "commands")
    assert "/bin/bash -l" in found.remedy
    assert bad(with_python(said="Loading x\n  activated"), system(commands=["module load x"])) == []


@pytest.mark.parametrize(
    ("packages", "what", "level", "words"),
    [
        ({"cloudpickle": ""}, "", "ok", ""),
        ({"cloudpickle": "2.2.1"}, "", "ok", ""),
        ({"numpy": "1.26.0"}, "numpy", "warning", "1.26.0, here 2.1.0"),
        ({"numpy": "2.4.0"}, "", "ok", ""),
        ({"wfl": "0.2.0"}, "wfl", "warning", "0.2.0, here 0.1.0"),
        ({"wfl": "?"}, "", "ok", ""),
        ({"wfl": "", "ase": ""}, "packages", "warning", "ase, wfl: not there"),
    ],
)
def test_packages(packages: dict[str, str], what: str, level: str, words: str) -> None:
    there = {name: version for name, version in {**PACKAGES, **packages}.items() if version}
    found = bad(with_python(packages=there))
    if level == "ok":
        assert found == []
        return
    assert (only(found).what, only(found).level) == (what, level)
    assert words in only(found).evidence
    assert "on host: `/opt/py/bin/python3 -m pip install " in only(found).remedy


def test_the_systems_own_python_is_left_alone() -> None:
    found = only(bad(with_python(executable="/usr/bin/python3", packages=PACKAGES | {"numpy": "1.0"})))
    assert "-m venv ~/jobs" in found.remedy


@pytest.mark.parametrize(("skew", "words"), [(60.0, "60 s ahead of ours"), (-9.0, "9 s behind ours")])
def test_clocks(skew: float, words: str) -> None:
    found = only(bad(replace(GOOD, skew=skew)))
    assert (found.what, found.level) == ("clock", "warning")
    assert words in found.evidence


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"trouble": "/home/me: Permission denied"}, "failure", "Permission denied"),
        ({"journal": ""}, "failure", "EXPYRE_DB_JOURNAL"),
        ({"kind": "nfs4", "journal": "wal"}, "warning", "write-ahead log on a network file system"),
        ({"free_kb": 100}, "warning", "only 100 kB free"),
    ],
)
def test_the_record(changes: dict[str, Any], level: str, words: str) -> None:
    found = only(bad(here=replace(HERE, **changes)))
    assert (found.what, found.level) == ("record", level)
    assert words in found.evidence


def test_the_record_on_a_network_file_system_has_its_journal() -> None:
    found = findings("hpc", system(), GOOD, replace(HERE, kind="nfs4", journal="truncate"))
    assert found[-1].evidence == "/home/me/.expyre (nfs4, journal truncate)"


def test_this_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = look_here(tmp_path / "not" / "there")
    assert here.version == sys.version_info[:3]
    assert here.packages["cloudpickle"]
    assert (here.trouble, here.journal != "") == ("", True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("EXPYRE_DB_JOURNAL", "nonsense")
    assert look_here(tmp_path).journal == ""
    assert look_here(Path("/proc/x")).trouble


def test_over_quota() -> None:
    said = "Disk quotas for user u:\n Filesystem blocks quota limit\n /home 1000* 900 1100"
    assert only(bad(replace(GOOD, quota=said))).what == "quota"
    assert bad(replace(GOOD, quota=said.replace("*", ""))) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("cannot connect to host: Host key verification failed.", "host key"),
        ("u@host: Permission denied (publickey).", "authentication"),
        ("Could not resolve hostname host: Name or service not known", "host name"),
        ("cannot connect to host: [Errno 111] Connection refused", "connection"),
    ],
)
def test_hosts_that_cannot_be_reached(text: str, what: str) -> None:
    found = unreachable("hpc", system(), TransportError(text), HERE, lambda path: "/x/config.json")
    assert (found[0].what, found[0].level, found[0].evidence) == (what, "failure", text)
    assert found[0].remedy
    assert [finding.what for finding in found[1:]] == ["record"]


def test_a_real_slurm(slurm_env: SlurmCluster, tmp_path: Path) -> None:
    node = {"num_cores": 8, "max_time": "30m", "max_mem": "15GB", "num_gpus": 2}
    made = system({"debug": node, "nowhere": node}, host=None)
    found = findings("hpc", made, examine(made, tmp_path), look_here(tmp_path))
    levels = {finding.what: finding.level for finding in found}
    assert levels["Slurm"] == levels["partition debug"] == levels["python"] == levels["cloudpickle"] == "ok"
    assert levels["partition nowhere"] == "failure"
    assert "clock" not in levels


def test_a_bare_host(bare_host: Host, tmp_path: Path) -> None:  # noqa: F811
    made = system(host=None, rundir="/proc/nowhere", commands=["true"])
    found = findings("hpc", made, examine(made, tmp_path), look_here(tmp_path))
    assert {finding.what for finding in found if finding.certain} == {"Slurm", "run directory", "python"}
