"""Grid Engine and its kin: what their commands say of queues, hosts and parallel environments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from expyre.checkup.answers import Answer
from expyre.checkup.queues import NodeGroup, Partition, Queue, kilobytes, seconds

__all__ = ["LONG", "SHORT", "parse"]

_EACH_QUEUE = 'for q in $(qconf -sql | head -n 60); do echo "== $q"; SGE_SINGLE_LINE=1 qconf -sq "$q"; done'
_EACH_PE = 'for p in $(qconf -spl | head -n 60); do echo "== $p"; SGE_SINGLE_LINE=1 qconf -sp "$p"; done'
_GPUS = 'for g in gpu gpus ngpus; do qhost -F $g 2>/dev/null | grep -q ":$g=" && qhost -q -F $g && exit; done; qhost -q'
SHORT: Final = "is_ge && part sge.version 10 sh -c 'qstat -help 2>&1 | head -n 1'"
LONG: Final = "\n".join(
    [
        SHORT,
        f"is_ge && part sge.queues 30 sh -c '{_EACH_QUEUE}'",
        f"is_ge && part sge.pes 30 sh -c '{_EACH_PE}'",
        f"have qhost && is_ge && part sge.hosts 20 sh -c '{_GPUS}'",
        "is_ge && part sge.config 10 env SGE_SINGLE_LINE=1 qconf -sconf",
        "is_ge && part sge.qstat 15 qstat",
    ]
)
# queue, type, reserved/used/total slots, state: those disabled, suspended, unknown or in error are left out
_INSTANCE = re.compile(r"\s+(\S+)\s+\S+\s+(?:\d+/)?\d+/(\d+)\s*[^udEDsC]*")
_LIMITS = ("max_aj_tasks", "max_aj_instances", "max_u_jobs", "max_jobs")


def parse(answers: Mapping[str, Answer]) -> Queue | None:
    """Return what was found; None if there is no Grid Engine."""
    version = answers.get("sge.version")
    if version is None:
        return None
    rules = {name: block.get("allocation_rule", "") for name, block in _blocks(answers.get("sge.pes")).items()}
    hosts = _hosts(answers.get("sge.hosts"))
    config = dict(line.split(None, 1) for line in answers.get("sge.config", Answer()).lines if len(line.split()) > 1)
    return Queue(
        "sge",
        version.lines[0].strip() if version.lines else "",
        {name: _queue(name, block, hosts, rules) for name, block in _blocks(answers.get("sge.queues")).items()},
        {key: config[key].strip() for key in _LIMITS if key in config} | _gpu_resource(answers.get("sge.hosts")),
        trouble=_trouble(answers),
    )


def _gpu_resource(hosts: Answer | None) -> dict[str, str]:
    """Return what GPUs are called here, if there are any."""
    found = re.search(r"h[lcf]:(n?gpus?)=", hosts.text if hosts else "")
    return {"gpu_resource": found[1]} if found else {}


def _trouble(answers: Mapping[str, Answer]) -> str:
    answer = answers.get("sge.qstat")
    if answer is None or answer.returncode == 0:
        return ""
    return "qstat gave no answer in time" if answer.timed_out else f"qstat: {answer.last_words}"


def _blocks(answer: Answer | None) -> dict[str, dict[str, str]]:
    blocks: dict[str, dict[str, str]] = {}
    block: dict[str, str] = {}
    for line in [] if answer is None else answer.lines:
        if line.startswith("== "):
            block = blocks.setdefault(line[3:].strip(), {})
        else:
            key, *value = line.split(None, 1)
            block[key] = value[0].strip() if value else ""
    return {name: found for name, found in blocks.items() if found}


def _hosts(answer: Answer | None) -> dict[str, list[NodeGroup]]:
    """Return the hosts' instances by queue, from ``qhost -q``: a line per host, below it its resources and queues."""
    found: dict[str, list[NodeGroup]] = {}
    memory, gpus = None, 0
    for line in [] if answer is None else answer.lines:
        words = line.split()
        if not line.startswith(" "):
            memory, gpus = kilobytes(words[7]) if len(words) > 7 else None, 0
        elif resource := re.search(r"h[lcf]:n?gpus?=(\d+)", line):
            gpus = int(resource[1])
        elif slots := _INSTANCE.fullmatch(line):
            found.setdefault(slots[1], []).append(NodeGroup(1, int(slots[2]), memory, gpus))
    return found


def _queue(
    name: str, block: Mapping[str, str], hosts: Mapping[str, list[NodeGroup]], rules: Mapping[str, str]
) -> Partition:
    limits = [limit for limit in (seconds(block.get(key, "")) for key in ("h_rt", "s_rt")) if limit is not None]
    nodes = _counted(hosts.get(name, []))
    environment = _environment(block.get("pe_list", "").split(), rules)
    header = (f"#$ -pe {environment} {{num_cores}}",) if environment else ()
    usable = bool(nodes) and (not block.get("qtype") or "BATCH" in block["qtype"] or bool(environment))
    return Partition(name, min(limits, default=None), nodes, usable, header=header)


def _counted(nodes: list[NodeGroup]) -> tuple[NodeGroup, ...]:
    kinds = [(node.num_cores, node.mem_kb, node.gpus) for node in nodes]
    return tuple(NodeGroup(kinds.count(kind), *kind) for kind in dict.fromkeys(kinds))


def _environment(names: list[str], rules: Mapping[str, str]) -> str:
    """Return the parallel environment for jobs of one node: one that fills a node, by preference called smp."""
    plain = [name for name in names if name in rules]
    one_node = [name for name in plain if rules[name] == "$pe_slots"]
    return next(iter(sorted(one_node, key=lambda name: name != "smp")), plain[0] if plain else "")
