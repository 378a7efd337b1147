"""Slurm: what its commands say of partitions, limits and accounts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from expyre.checkup.answers import Answer
from expyre.checkup.queues import NodeGroup, Partition, Queue, seconds

__all__ = ["LONG", "SHORT", "parse"]

_FIELDS = "%R|%P|%a|%l|%c|%m|%G|%D|%t"
_ASSOCIATIONS = "sacctmgr -n -P show assoc where user=$(id -un) format=Account,QOS,DefaultQOS"
_USER = "sacctmgr -n -P show user where name=$(id -un) format=DefaultAccount"
SHORT: Final = "have sbatch && part slurm.version 10 sbatch --version"
LONG: Final = "\n".join(
    [
        SHORT,
        f"have sinfo && part slurm.sinfo 20 sinfo -h -e -o '{_FIELDS}'",
        "have scontrol && part slurm.config 10 scontrol show config",
        "have scontrol && part slurm.partitions 10 scontrol show partition -o",
        "have squeue && part slurm.squeue 15 sh -c 'squeue -h -u \"$(id -un)\" -o %i'",
        f"have sacctmgr && part slurm.assoc 10 sh -c '{_ASSOCIATIONS}'",
        f"have sacctmgr && part slurm.user 10 sh -c '{_USER}'",
    ]
)
_LIMITS = ("MaxArraySize", "MaxJobCount", "MinJobAge", "AccountingStorageType", "AccountingStorageEnforce")
_UNUSABLE = re.compile(r"(down|drain|drng|drained|fail|maint|unk|inval|futr|pow_dn|planned_down)\w*[*~#!%$@^-]*$")


def parse(answers: Mapping[str, Answer], groups: frozenset[str] = frozenset()) -> Queue | None:
    """Return what was found; None if there is no Slurm. ``groups`` are those of the user, empty if unknown."""
    version = answers.get("slurm.version")
    if version is None:
        return None
    sinfo = answers.get("slurm.sinfo", Answer())
    associations = _rows(answers.get("slurm.assoc"), 3)
    accounts = tuple(dict.fromkeys(row[0] for row in associations if row[0]))
    rules = _partition_rules(answers.get("slurm.partitions"))
    found = _partitions(sinfo)
    qos = frozenset(word for row in associations for word in row[1].split(",") if word)
    default_qos = next((row[2] for row in associations if row[2]), "")
    return Queue(
        "slurm",
        version.last_words,
        {p.name: _under_rules(p, rules.get(p.name, {}), accounts, qos, default_qos, groups) for p in found},
        _limits(answers.get("slurm.config")),
        accounts,
        next((row[0] for row in _rows(answers.get("slurm.user"), 1) if row[0]), ""),
        _trouble(answers),
    )


def _trouble(answers: Mapping[str, Answer]) -> str:
    for command in ("squeue", "sinfo"):
        answer = answers.get(f"slurm.{command}")
        if answer is not None and answer.timed_out:
            return f"{command} gave no answer in time"
        if answer is not None and answer.returncode != 0:
            return f"{command}: {answer.last_words}"
    return ""


def _rows(answer: Answer | None, columns: int) -> list[list[str]]:
    if answer is None or answer.returncode != 0:
        return []
    rows = [[word.strip() for word in line.split("|")] for line in answer.lines]
    return [row for row in rows if len(row) == columns]


def _partitions(sinfo: Answer) -> list[Partition]:
    rows: dict[str, list[list[str]]] = {}
    for line in sinfo.lines:
        words = [word.strip() for word in line.split("|")]
        if len(words) == len(_FIELDS.split("|")):
            rows.setdefault(words[0], []).append(words)
    return [_partition(name, lines) for name, lines in rows.items()]


def _partition(name: str, rows: list[list[str]]) -> Partition:
    nodes = tuple(filter(None, (_nodes(*row[4:]) for row in rows)))
    first = rows[0]
    return Partition(name, seconds(first[3]), nodes, first[2] == "up" and bool(nodes), first[1].endswith("*"))


def _nodes(cores: str, memory: str, gres: str, count: str, state: str) -> NodeGroup | None:
    """Return the nodes of one line; None if they are out of service, or the line is not about nodes."""
    numbers = [word.rstrip("+") for word in (cores, memory, count)]
    if not all(word.isdigit() for word in numbers) or _UNUSABLE.match(state.lower()) or int(numbers[2]) == 0:
        return None
    return NodeGroup(int(numbers[2]), int(numbers[0]), int(numbers[1]) * 1024, _gpus(gres))


def _gpus(gres: str) -> int:
    """Return the GPUs in ``gpu:2``, ``gpu:a100:4(S:0-1),craynetwork:4``."""
    plain = re.sub(r"\([^)]*\)", "", gres)
    words = [word.split(":") for word in plain.split(",") if word.split(":")[0] == "gpu"]
    return sum(int(word[-1]) if word[-1].isdigit() else 1 for word in words)


def _limits(config: Answer | None) -> dict[str, str]:
    lines = [] if config is None else config.lines
    found = [line.partition("=") for line in lines]
    return {key.strip(): value.strip() for key, _, value in found if key.strip() in _LIMITS}


def _partition_rules(answer: Answer | None) -> dict[str, dict[str, str]]:
    lines = [] if answer is None else answer.lines
    rules = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return {rule["PartitionName"]: rule for rule in rules if "PartitionName" in rule}


def _under_rules(
    partition: Partition,
    rule: Mapping[str, str],
    accounts: tuple[str, ...],
    qos: frozenset[str],
    default_qos: str,
    groups: frozenset[str],
) -> Partition:
    """Return the partition, not usable if its rules exclude the user, and with the header lines that they ask for."""
    allowed = {key: _names(rule.get(f"Allow{key}", "ALL")) for key in ("Accounts", "Groups", "Qos")}
    excluded = [
        rule.get("RootOnly") == "YES",
        bool(accounts and allowed["Accounts"] and not allowed["Accounts"] & set(accounts)),
        bool(groups and allowed["Groups"] and not allowed["Groups"] & groups),
    ]
    header = partition.header
    if allowed["Qos"] and qos and default_qos not in allowed["Qos"]:
        mine = sorted(allowed["Qos"] & qos)
        excluded.append(not mine)
        header = (f"#SBATCH --qos={mine[0]}",) if len(mine) == 1 else ()
    usable = partition.usable and not any(excluded)
    return Partition(partition.name, partition.max_time, partition.nodes, usable, partition.default, header)


def _names(text: str) -> set[str]:
    """Return the names in a list; empty for all."""
    return set() if text in ("ALL", "(null)", "N/A", "") else set(text.split(","))
