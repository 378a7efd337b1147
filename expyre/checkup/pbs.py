"""PBS, OpenPBS and Torque: what their commands say of queues and nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from expyre.checkup.answers import Answer
from expyre.checkup.queues import NodeGroup, Partition, Queue, kilobytes, seconds

__all__ = ["LONG", "SHORT", "parse"]

SHORT: Final = "have qsub && ! is_ge && part pbs.version 10 sh -c 'qsub --version 2>&1'"
LONG: Final = "\n".join(
    [
        SHORT,
        "have qstat && ! is_ge && part pbs.queues 15 qstat -Q -f",
        "have pbsnodes && ! is_ge && part pbs.nodes 20 pbsnodes -a",
        "have qstat && ! is_ge && part pbs.qstat 15 qstat",
        "have qmgr && ! is_ge && part pbs.server 10 qmgr -c 'print server'",
    ]
)
_OUT = re.compile(r"down|offline|unknown|stale|provisioning|maintenance")
_Block = dict[str, str]


def parse(answers: Mapping[str, Answer]) -> Queue | None:
    """Return what was found; None if there is no PBS."""
    version = answers.get("pbs.version")
    if version is None:
        return None
    nodes = _blocks(answers.get("pbs.nodes"))
    torque = _is_torque(version.text, nodes.values())
    server = answers.get("pbs.server", Answer())
    default = re.search(r"^set server default_queue = (\S+)", server.text, re.MULTILINE)
    queues = {name.removeprefix("Queue: "): block for name, block in _blocks(answers.get("pbs.queues")).items()}
    return Queue(
        "pbs",
        version.lines[0].strip() if version.lines else "",
        {name: _queue(name, block, nodes, default[1] if default else "") for name, block in queues.items()},
        dict(re.findall(r"^set server (max_array_size|max_queued|max_run) = (\S+)", server.text, re.MULTILINE)),
        trouble=_trouble(answers),
        dialect="torque" if torque else "",
    )


def _is_torque(version: str, nodes: Iterable[_Block]) -> bool:
    return "pbs_version" not in version and (
        bool(re.search(r"^\s*(version:|commit:)", version, re.IGNORECASE | re.MULTILINE))
        or any("np" in node for node in nodes)
    )


def _trouble(answers: Mapping[str, Answer]) -> str:
    answer = answers.get("pbs.qstat")
    if answer is None or answer.returncode == 0:
        return ""
    return "qstat gave no answer in time" if answer.timed_out else f"qstat: {answer.last_words}"


def _blocks(answer: Answer | None) -> dict[str, _Block]:
    """Return blocks of ``key = value`` lines by the line that is over them; folded lines are put together."""
    blocks: dict[str, _Block] = {}
    block: _Block = {}
    last = ""
    for line in [] if answer is None else answer.text.splitlines():
        key, equals, value = line.partition(" = ")
        if line.startswith("\t") and last and not (equals and " " not in key.strip()):
            block[last] += line.strip()
        elif line.startswith((" ", "\t")) and equals:
            last = key.strip()
            block[last] = value.strip()
        elif line.strip() and not line.startswith((" ", "\t")):
            block, last = blocks.setdefault(line.strip(), {}), ""
    return {name: found for name, found in blocks.items() if found or name.startswith("Queue: ")}


def _queue(name: str, block: _Block, nodes: Mapping[str, _Block], default: str) -> Partition:
    groups = _groups([node for node in nodes.values() if _serves(node, name, nodes.values())])
    works = all(block.get(key, "True") == "True" for key in ("enabled", "started"))
    routes = block.get("queue_type", "").startswith("Route")
    limit = seconds(block.get("resources_max.walltime", ""))
    return Partition(name, limit, groups, works and not routes, name == default)


def _serves(node: _Block, queue: str, nodes: Iterable[_Block]) -> bool:
    """Tell whether a node runs jobs of a queue: those bound to it or, if none is, those bound to no other."""
    bound = _bound(node)
    return queue in bound if any(queue in _bound(other) for other in nodes) else not bound


def _bound(node: _Block) -> set[str]:
    words = node.get("queue", "") + "," + node.get("resources_available.Qlist", "")
    return {word.strip() for word in words.split(",") if word.strip()}


def _groups(nodes: list[_Block]) -> tuple[NodeGroup, ...]:
    counts: dict[tuple[int, int | None, int], int] = {}
    for node in nodes:
        cores = node.get("resources_available.ncpus") or node.get("np") or ""
        if cores.isdigit() and not _OUT.search(node.get("state", "")):
            kind = (int(cores), _memory(node), _number(node, "resources_available.ngpus", "gpus"))
            counts[kind] = counts.get(kind, 0) + 1
    return tuple(NodeGroup(count, *kind) for kind, count in counts.items())


def _memory(node: _Block) -> int | None:
    """Return kB: what OpenPBS offers, or what Torque's mom has measured."""
    measured = re.search(r"physmem=(\w+)", node.get("status", ""))
    text = node.get("resources_available.mem") or (measured[1] if measured else "")
    return kilobytes(text)


def _number(node: _Block, *keys: str) -> int:
    return next((int(node[key]) for key in keys if node.get(key, "").isdigit()), 0)
