from __future__ import annotations

from dataclasses import replace

import pytest
from checkup_hosts import Host, bare_host  # noqa: F401
from clusters.sge import GridEngine, sge, sge_env  # noqa: F401
from clusters.slurm import SlurmCluster
from hypothesis import given
from hypothesis import strategies as st

from expyre.checkup import pbs, slurm
from expyre.checkup import sge as ge
from expyre.checkup.answers import Answer
from expyre.checkup.facts import Facts, collect
from expyre.checkup.queues import NodeGroup, Partition, Queue
from expyre.checkup.script import Question
from expyre.transports import connect

GB = 1024 * 1024


def look(*queues: str) -> Facts:
    return collect(connect(None), replace(Question("run_expyre"), queues=queues))


def partition(sinfo: str, name: str = "p") -> Partition:
    queue = slurm.parse({"slurm.version": Answer("slurm 23", "", 0), "slurm.sinfo": Answer(sinfo, "", 0)})
    assert queue is not None
    return queue.partitions[name]


def with_rules(rule: str, associations: str = "", groups: frozenset[str] = frozenset()) -> Queue:
    answers = {
        "slurm.version": "slurm 23",
        "slurm.sinfo": "p|p|up|1:00|4|1000|(null)|1|idle",
        "slurm.partitions": f"PartitionName=p {rule}",
        "slurm.assoc": associations,
    }
    queue = slurm.parse({key: Answer(text, "", 0) for key, text in answers.items()}, groups)
    assert queue is not None
    return queue


def test_a_real_slurm(slurm_env: SlurmCluster) -> None:
    queue = look(slurm.LONG).queues["slurm"]
    assert queue.trouble == ""
    assert queue.version.startswith("slurm")
    assert int(queue.limits["MaxArraySize"]) > 0
    default = [p for p in queue.partitions.values() if p.default]
    assert len(default) == 1
    assert default[0].usable
    assert (default[0].num_cores, default[0].gpus) == (8, 2)
    assert default[0].mem_kb == 16000 * 1024


def test_a_slurm_whose_controller_is_gone(slurm_env: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = slurm_env.conf.read_text().replace(str(slurm_env.port), "1")
    other = slurm_env.conf.with_name("gone.conf")
    other.write_text(conf + "\nMessageTimeout=2\n" * ("MessageTimeout" not in conf))
    monkeypatch.setenv("SLURM_CONF", str(other))
    short = (
        slurm.SHORT
        + "\n"
        + next(line for line in slurm.LONG.splitlines() if "squeue" in line).replace("squeue 15", "squeue 2")
    )
    assert look(short).queues["slurm"].trouble.startswith("squeue")


def test_a_real_grid_engine(sge_env: GridEngine) -> None:  # noqa: F811
    queues = look(ge.LONG, pbs.LONG).queues
    assert list(queues) == ["sge"]
    assert "GE" in queues["sge"].version
    found = next(iter(queues["sge"].partitions.values()))
    assert found.usable
    assert found.num_cores > 0
    assert found.mem_kb
    assert found.header[0].startswith("#$ -pe ")
    assert int(queues["sge"].limits["max_aj_tasks"]) > 0


def test_openpbs(bare_host: Host) -> None:  # noqa: F811
    bare_host.openpbs()
    queues = look(slurm.LONG, pbs.LONG, ge.LONG).queues
    assert list(queues) == ["pbs"]
    queue = queues["pbs"]
    assert (queue.version, queue.dialect) == ("pbs_version = 23.06.06", "")
    assert queue.limits == {"max_array_size": "10000"}
    assert list(queue.partitions) == ["workq", "gpuq", "old", "router"]
    assert queue.partitions["workq"] == Partition(
        "workq", 48 * 3600, (NodeGroup(2, 32, 131072000),), usable=True, default=True
    )
    assert queue.partitions["gpuq"].nodes == (NodeGroup(1, 16, 262144000, 4),)
    assert [p.usable for p in queue.partitions.values()] == [True, True, False, False]


def test_torque(bare_host: Host) -> None:  # noqa: F811
    bare_host.torque()
    queue = look(pbs.LONG).queues["pbs"]
    assert (queue.version, queue.dialect) == ("Version: 6.1.2", "torque")
    assert queue.partitions["workq"].nodes == (NodeGroup(1, 12, 24641536, 1),)


def test_nodes_of_one_partition_that_differ() -> None:
    found = partition(
        "p|p*|up|1-00:00:00|8|16000|gpu:2|2|idle\np|p*|up|1-00:00:00|64+|256000+|gpu:a100:4(S:0-1),craynetwork:4|3|mix\n"
        "p|p*|up|1-00:00:00|8|16000|(null)|1|drain\np|p*|up|1-00:00:00|8|16000|(null)|1|down*"
    )
    assert found.nodes == (NodeGroup(2, 8, 16000 * 1024, 2), NodeGroup(3, 64, 256000 * 1024, 4))
    assert (found.default, found.usable, found.max_time) == (True, True, 86400)
    assert (found.num_cores, found.mem_kb, found.gpus) == (64, 256000 * 1024, 4)


@pytest.mark.parametrize("state", ["down", "drain", "drng", "maint", "down*", "fail", "inval", "unk*"])
def test_nodes_out_of_service(state: str) -> None:
    assert not partition(f"p|p|up|infinite|8|16000|(null)|1|{state}").usable


@pytest.mark.parametrize("state", ["idle", "mix", "alloc", "comp", "resv", "idle~", "mix-", "plnd", "boot"])
def test_nodes_in_service(state: str) -> None:
    found = partition(f"p|p|up|infinite|8|16000|(null)|1|{state}")
    assert found.usable
    assert found.max_time is None


@pytest.mark.parametrize("word", ["down", "inact", "drain"])
def test_partitions_out_of_service(word: str) -> None:
    assert not partition(f"p|p|{word}|infinite|8|16000|(null)|1|idle").usable


def test_noise_among_partitions() -> None:
    found = partition("Welcome!\np|p|up|30:00|8|16000|(null)|1|idle\n|||\nCLUSTER: a")
    assert found.max_time == 1800


def test_partitions_of_other_accounts() -> None:
    assert not with_rules("AllowAccounts=chem", "phys|normal|").partitions["p"].usable
    assert with_rules("AllowAccounts=chem,phys", "phys|normal|").partitions["p"].usable
    assert with_rules("AllowAccounts=ALL", "phys|normal|").partitions["p"].usable
    assert with_rules("AllowAccounts=chem").partitions["p"].usable, "nothing known of the user's accounts"


def test_partitions_of_other_groups() -> None:
    assert not with_rules("AllowGroups=chem", groups=frozenset({"phys"})).partitions["p"].usable
    assert with_rules("AllowGroups=chem", groups=frozenset({"chem"})).partitions["p"].usable
    assert not with_rules("RootOnly=YES").partitions["p"].usable


def test_partitions_with_a_quality_of_service() -> None:
    assert with_rules("AllowQos=long", "a|normal,long|normal").partitions["p"].header == ("#SBATCH --qos=long",)
    assert with_rules("AllowQos=long,xl", "a|normal,long,xl|normal").partitions["p"].header == ()
    assert with_rules("AllowQos=normal", "a|normal,long|normal").partitions["p"].header == ()
    assert not with_rules("AllowQos=vip", "a|normal,long|normal").partitions["p"].usable


def test_queues_of_grid_engine() -> None:
    hosts = """HOSTNAME                ARCH         NCPU NSOC NCOR NTHR  LOAD  MEMTOT  MEMUSE  SWAPTO  SWAPUS
----------------------------------------------------------------------------------------------
global                  -               -    -    -    -     -       -       -       -       -
n1                      lx-amd64       16    2    8   16  4.78   62.0G    1.2G     0.0     0.0
    Host Resource(s):      hc:gpu=2.000000
   all.q                BIP   0/2/16
   long.q               BIP   0/0/4         d
n2                      lx-amd64       32    2    8   16  4.78   62.0G    1.2G     0.0     0.0
   all.q                BIP   0/2/32        au
   long.q               BP    0/0/8         a
"""
    queues = "== all.q\nqname all.q\nqtype BATCH INTERACTIVE\npe_list mpi smp\nh_rt 24:00:00\n== long.q\nh_rt INFINITY"
    answers = {
        "sge.version": "UGE 8.6",
        "sge.hosts": hosts,
        "sge.queues": queues,
        "sge.pes": "== mpi\nallocation_rule $fill_up\n== smp\nallocation_rule $pe_slots",
    }
    queue = ge.parse({key: Answer(text, "", 0) for key, text in answers.items()})
    assert queue is not None
    assert queue.partitions["all.q"] == Partition(
        "all.q", 86400, (NodeGroup(1, 16, 62 * GB, 2),), header=("#$ -pe smp {num_cores}",)
    )
    assert queue.partitions["long.q"].nodes == (NodeGroup(1, 8, 62 * GB),)
    assert queue.partitions["long.q"].header == ()


@given(
    st.dictionaries(st.sampled_from(["version", "sinfo", "config", "partitions", "squeue", "assoc", "user"]), st.text())
)
def test_garbage_of_slurm_is_survived(texts: dict[str, str]) -> None:
    slurm.parse({f"slurm.{key}": Answer(text, text, 0) for key, text in texts.items()})


@given(st.dictionaries(st.sampled_from(["version", "queues", "nodes", "qstat", "server"]), st.text()))
def test_garbage_of_pbs_is_survived(texts: dict[str, str]) -> None:
    pbs.parse({f"pbs.{key}": Answer(text, text, 0) for key, text in texts.items()})


@given(st.dictionaries(st.sampled_from(["version", "queues", "pes", "hosts", "config", "qstat"]), st.text()))
def test_garbage_of_grid_engine_is_survived(texts: dict[str, str]) -> None:
    ge.parse({f"sge.{key}": Answer(text, text, 0) for key, text in texts.items()})
