"""A system's settings from what was found on its host."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from expyre.checkup.facts import Facts, Interpreter
from expyre.checkup.queues import NodeGroup, Partition, Queue
from expyre.errors import RequestError
from expyre.units import time_to_HMS

__all__ = ["SUPPORTED", "Proposal", "Wish", "guessed_commands", "name_of_host", "propose"]

SUPPORTED: Final = ("slurm", "sge", "pbs", "local")
_UNSUPPORTED: Final = {"bsub": "LSF", "condor_submit": "HTCondor", "flux": "Flux"}
_GENERIC = re.compile(r"((login|head|submit|frontend|front|master|ssh|hpc|cluster|node|gateway|access)[-_]?\d*[-_]?)+")
_OLDEST = (3, 9)
_Lines = Callable[[Partition, NodeGroup], list[str]]


@dataclass(frozen=True)
class Wish:
    """What the user has decided already; None and empty where it is to be found out.

    Attributes
    ----------
    host
        The host, None for this machine.
    scheduler
        Name of the queue system.
    rundir
        Directory under which jobs will run.
    commands
        Lines at the start of job scripts.
    more
        Other settings of the system.
    """

    host: str | None
    scheduler: str | None = None
    rundir: str | None = None
    commands: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """Settings of a system, and what should be said about them."""

    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


def propose(wish: Wish, facts: Facts) -> Proposal:
    """Return settings for a host.

    Raises
    ------
    RequestError
        Its queue system is of a kind that is not supported, has no partition for this user, or is not there.
    """
    scheduler = wish.scheduler or _scheduler(facts)
    settings: dict[str, Any] = {"host": wish.host, "scheduler": scheduler, **wish.more}
    if wish.host is not None or wish.rundir:
        settings["rundir"] = wish.rundir or "run_expyre"
    if wish.commands:
        settings["commands"] = list(wish.commands)
    if scheduler == "local":
        return Proposal({**settings, "partitions": {"local": _node(_machine(facts), None)}})
    queue = facts.queues.get(scheduler)
    usable = [] if queue is None else [p for p in queue.partitions.values() if p.usable and p.nodes]
    if queue is None or not usable:
        raise RequestError(_no_partition(scheduler, facts, queue))
    lines = _lines(queue)
    common = [line for line in lines(usable[0], usable[0].nodes[0]) if _everywhere(line, lines, usable)]
    settings["header"] = common
    settings["partitions"] = _partitions(usable, lambda *place: [x for x in lines(*place) if x not in common])
    if queue.limits.get("gpu_resource", "gpu") != "gpu":
        settings["scheduler_options"] = {"gpu_resource": queue.limits["gpu_resource"]}
    others = [name for name in _found(facts) if name != scheduler and not wish.scheduler]
    also = [f"there is also {', '.join(others)}: choose with --scheduler"] if others else []
    return Proposal(settings, (*also, *_notes(queue, usable)))


def _scheduler(facts: Facts) -> str:
    found = _found(facts)
    others = [title for command, title in _UNSUPPORTED.items() if command in facts.tools]
    if not found and others:
        raise RequestError(f"the queue system of {facts.who.host} is {others[0]}, which is not supported")
    return found[0] if found else next(iter(facts.queues), "local")


def _found(facts: Facts) -> list[str]:
    return [name for name in SUPPORTED if name in facts.queues and facts.queues[name].partitions]


def _no_partition(scheduler: str, facts: Facts, queue: Queue | None) -> str:
    where = facts.host or "this machine"
    if queue is None:
        return f"the commands of {scheduler} are not found on {where}; non-interactive shells need them in PATH"
    if queue.trouble:
        return f"{scheduler} on {where} does not answer: {queue.trouble}"
    closed = ", ".join(queue.partitions) or "none at all"
    return f"{scheduler} on {where} has no partition with nodes that takes your jobs; it has {closed}"


def _machine(facts: Facts) -> NodeGroup:
    return NodeGroup(1, max(facts.who.num_cores, 1), facts.who.mem_kb)


def _everywhere(line: str, lines: _Lines, usable: Sequence[Partition]) -> bool:
    return all(line in lines(partition, group) for partition in usable for group in partition.nodes)


def _lines(queue: Queue) -> _Lines:
    """Return what tells the header lines that jobs on nodes of a partition need."""
    return {"slurm": _slurm_lines, "pbs": _pbs_lines, "sge": _sge_lines}[queue.name](queue)


def _slurm_lines(queue: Queue) -> _Lines:
    plain = [
        "#SBATCH --partition={partition}",
        "#SBATCH --nodes={num_nodes}",
        "#SBATCH --ntasks-per-node={num_cores_per_node}",
        *_account(queue),
    ]
    return lambda partition, group: [*plain, *partition.header]


def _pbs_lines(queue: Queue) -> _Lines:
    size, gpus = "select={num_nodes}:ncpus={num_cores_per_node}:mpiprocs={num_cores_per_node}", ":ngpus={num_gpus}"
    if queue.dialect == "torque":
        size, gpus = "nodes={num_nodes}:ppn={num_cores_per_node}", ":gpus={num_gpus}"
    return lambda partition, group: ["#PBS -q {partition}", f"#PBS -l {size}{gpus if group.gpus else ''}"]


def _sge_lines(queue: Queue) -> _Lines:
    return lambda partition, group: ["#$ -q {partition}", *partition.header]


def _account(queue: Queue) -> list[str]:
    """Return the line for the account, where jobs need one and there is but one."""
    return [f"#SBATCH --account={queue.accounts[0]}"] if _needs_account(queue) and len(queue.accounts) == 1 else []


def _needs_account(queue: Queue) -> bool:
    enforced = queue.limits.get("AccountingStorageEnforce", "none").lower()
    return not queue.default_account and bool(queue.accounts) and enforced not in ("none", "", "0")


def _partitions(usable: Sequence[Partition], own: _Lines) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for partition in sorted(usable, key=lambda p: not p.default):
        kinds = _kinds(partition.nodes)
        for group in kinds:
            key = partition.name if group is kinds[0] else _key(partition.name, group, found)
            found[key] = _node(group, partition.max_time)
            if key != partition.name:
                found[key]["partition"] = partition.name
            if lines := own(partition, group):
                found[key]["header"] = lines
    return found


def _kinds(groups: Sequence[NodeGroup]) -> list[NodeGroup]:
    """Return nodes that differ in cores or GPUs, the most frequent first; of memory the least."""
    kinds: dict[tuple[int, int], list[NodeGroup]] = {}
    for group in groups:
        kinds.setdefault((group.num_cores, group.gpus), []).append(group)
    joined = [
        NodeGroup(
            sum(group.count for group in same), cores, min((g.mem_kb for g in same if g.mem_kb), default=None), gpus
        )
        for (cores, gpus), same in kinds.items()
    ]
    return sorted(joined, key=lambda group: -group.count)


def _key(name: str, group: NodeGroup, taken: Mapping[str, Any]) -> str:
    short = f"{name}_{group.num_cores}"
    return f"{short}_{group.gpus}gpu" if group.gpus or short in taken else short


def _node(group: NodeGroup, max_time: int | None) -> dict[str, Any]:
    node: dict[str, Any] = {
        "num_cores": group.num_cores,
        "max_time": None if max_time is None else time_to_HMS(max_time),
        "max_mem": None if group.mem_kb is None else _memory(group.mem_kb),
    }
    return {**node, "num_gpus": group.gpus} if group.gpus else node


def _memory(kilobytes: int) -> str:
    gigabytes, rest = divmod(kilobytes, 1024 * 1024)
    return f"{kilobytes // 1024} MB" if rest or not gigabytes else f"{gigabytes} GB"


def _notes(queue: Queue, usable: Sequence[Partition]) -> list[str]:
    closed = [name for name, p in queue.partitions.items() if not p.usable or not p.nodes]
    notes = [f"left out, as out of service or not for you: {', '.join(closed)}"] if closed else []
    if _needs_account(queue) and len(queue.accounts) > 1:
        line = "#SBATCH --account=…"
        notes.append(f'jobs must name an account ({", ".join(queue.accounts)}): add a line "{line}" to the header')
    if queue.name == "sge" and not all(p.header for p in usable):
        notes.append("queues without a parallel environment run jobs of one core only")
    return notes


def guessed_commands(python: Interpreter, facts: Facts, version: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Return commands worth trying to get a Python that can run jobs, the best first; none if there is one.

    Parameters
    ----------
    python
        Python without any commands.
    facts
        What was found on the host.
    version
        Version of Python on this side, which is preferred.
    """
    if python.version >= _OLDEST:
        return []
    others = [o for o in facts.others if o.version >= _OLDEST]
    # one with cloudpickle is likely to have been made ready for work
    others.sort(key=lambda o: (not o.cloudpickle, o.version[:2] != version[:2], [-n for n in o.version]))
    guesses = [(f"export PATH={o.path.rsplit('/', 1)[0]}:$PATH",) for o in others]
    modules = sorted(facts.modules, key=lambda name: (f"{version[0]}.{version[1]}" not in name, name))
    return [*guesses, *(("source /etc/profile", f"module load {name}") for name in modules)]


def name_of_host(host: str | None, scheduler: str, hostname: str) -> str:
    """Return a name for a system: the telling part of its host's name."""
    if host is None:
        return "local" if scheduler == "local" else _plain(hostname.split(".")[0])
    labels = host.rpartition("@")[2].split(".")
    telling = [label for label in labels[:2] if not _GENERIC.fullmatch(label)]
    return _plain(host.rpartition("@")[2] if labels[0].isdigit() else (telling or labels)[0])


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "system"
