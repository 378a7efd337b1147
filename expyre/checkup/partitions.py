"""Findings on the partitions of a system, compared with those that the queue has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from expyre.checkup.finding import FAILURE, OK, WARNING, Case, Finding, size
from expyre.checkup.queues import Partition, Queue
from expyre.units import time_to_HMS

__all__ = ["partitions"]

_NAMES: Final = {
    "slurm": re.compile(r"^#SBATCH\s+(?:.*\s)?(?:--partition[=\s]\s*|-p\s*)(\S+)"),
    "pbs": re.compile(r"^#PBS\s+(?:.*\s)?-q\s*(\S+)"),
    "sge": re.compile(r"^#\$\s+(?:.*\s)?-q\s*(\S+)"),
}
_LINES: Final = {
    "slurm": "#SBATCH --partition={partition}",
    "pbs": "#PBS -q {partition}",
    "sge": "#$ -q {partition}",
}
_OTHER_WAYS = re.compile(r"--qos|--constraint|-C\s|--account|-A\s|--reservation|-l\s|-P\s|-M\s|--clusters")
_ELSEWHERE = re.compile(r"^#SBATCH\s+(?:.*\s)?(?:--clusters?[=\s]|-M\s)")


def partitions(case: Case) -> Iterator[Finding]:
    """Compare configured partitions with real ones."""
    queue = case.facts.queues.get(case.scheduler)
    if queue is None or queue.trouble:
        return
    if not queue.partitions:
        yield Finding(OK, "partitions", "not compared: the queue system lists none")
        return
    if any(_ELSEWHERE.match(line) for line in case.system.queuing_sys_header):
        yield Finding(OK, "partitions", "not compared: the header sends jobs to another cluster")
        return
    if not _named(case, {}):
        yield from _unnamed(case, queue)
    for key, spec in (case.system.partitions or {}).items():
        yield from _configured(case, queue, key, spec)


def _unnamed(case: Case, queue: Queue) -> Iterator[Finding]:
    """Say so if partitions are told apart but no header line tells the queue which one is meant."""
    specs = case.system.partitions or {}
    header = [*case.system.queuing_sys_header, *(line for spec in specs.values() for line in spec.get("header", ()))]
    if all(_named(case, spec) for spec in specs.values()) or any(_OTHER_WAYS.search(line) for line in header):
        return
    if len(specs) > 1 or not set(specs) & {p.name for p in queue.partitions.values() if p.default}:
        line = _LINES[case.scheduler]
        evidence = "no header line names the partition: all jobs go where the queue system sends them"
        yield Finding(WARNING, "header", evidence, f'{case.key("header")}: add "{line}"')


def _named(case: Case, spec: Mapping[str, Any]) -> list[str]:
    """Return what header lines name as partition."""
    lines = [*case.system.queuing_sys_header, *spec.get("header", ())]
    found = [match[1] for line in lines if (match := _NAMES[case.scheduler].match(line))]
    return found[-1].strip("\"'").split(",") if found else []


def _configured(case: Case, queue: Queue, key: str, spec: Mapping[str, Any]) -> Iterator[Finding]:
    real = str(spec.get("partition", key))
    names = [
        part.split("@")[0]
        for name in _named(case, spec)
        for part in name.replace("{partition}", real).replace("{queue}", real).split(",")
    ]
    what = f"partition {key}"
    missing = [name for name in names if name not in queue.partitions]
    if missing:
        yield _missing(case, queue, key, spec, missing)
        return
    meant = [queue.partitions[name] for name in names or [real] if name in queue.partitions]
    if not meant:
        yield Finding(OK, what, "a name of its own: no header line hands it to the queue")
        return
    wrong = [*_mistakes(case, key, spec, meant), *_gpus_not_asked_for(case, key, spec)]
    closed = [partition.name for partition in meant if not partition.usable]
    if closed and len(closed) == len(meant):
        evidence = f"takes no jobs of yours now: {', '.join(closed)}"
        remedy = f"is it out of service? else remove {case.key('partitions', key)}"
        wrong.append(Finding(WARNING, what, evidence, remedy))
    yield from wrong or [Finding(OK, what, _words(spec))]


def _missing(case: Case, queue: Queue, key: str, spec: Mapping[str, Any], missing: list[str]) -> Finding:
    what = f"partition {key}"
    known = list(queue.partitions)
    near = get_close_matches(missing[0], known, n=1)
    hint = f" (is {near[0]!r} meant?)" if near else ""
    evidence = f"the queue has no partition {', '.join(map(repr, missing))}{hint}; it has {', '.join(known)}"
    literal = "{partition}" not in "".join(_named(case, spec)) and "{queue}" not in "".join(_named(case, spec))
    setting = case.key("header") if literal else case.key("partitions", key)
    way = "name one of these in that line" if literal else 'call it by its real name, or add its key "partition"'
    return Finding(FAILURE, what, evidence, f"{setting}: {way}")


def _mistakes(case: Case, key: str, spec: Mapping[str, Any], meant: list[Partition]) -> Iterator[Finding]:
    for level, setting, evidence, right in (
        _cores(spec, meant), _time(spec, meant), _memory(spec, meant), _gpus(spec, meant)
    ):  # fmt: skip
        if level != OK:
            yield Finding(level, f"partition {key}", evidence, f"{case.key('partitions', key, setting)}: {right}")


_Verdict = tuple[str, str, str, str]
_FINE: Final = (OK, "", "", "")


def _cores(spec: Mapping[str, Any], meant: list[Partition]) -> _Verdict:
    have, said = max(p.num_cores for p in meant), int(spec.get("num_cores") or 0)
    sizes = {group.num_cores for p in meant for group in p.nodes}
    if not have or said in sizes or said * 2 in sizes:  # twice as many: queues that count hardware threads
        return _FINE
    if said > have:
        return FAILURE, "num_cores", f"its nodes have {have} cores, {said} are configured", str(have)
    return WARNING, "num_cores", f"its nodes have {have} cores, only {said} are configured", str(have)


def _time(spec: Mapping[str, Any], meant: list[Partition]) -> _Verdict:
    limits = [p.max_time for p in meant]
    if None in limits:
        return _FINE
    limit, said = max(limit for limit in limits if limit is not None), spec.get("max_time")
    right = f'"{time_to_HMS(limit)}"'
    if said is None:
        return WARNING, "max_time", f"its jobs may run for {time_to_HMS(limit)}, no limit is configured", right
    if said > limit:
        evidence = f"its jobs may run for {time_to_HMS(limit)}, {time_to_HMS(said)} is configured"
        return FAILURE, "max_time", evidence, right
    return _FINE


def _memory(spec: Mapping[str, Any], meant: list[Partition]) -> _Verdict:
    have = max((p.mem_kb for p in meant if p.mem_kb is not None), default=None)
    said = spec.get("max_mem")
    if have is None or said is None or said <= have:
        return _FINE
    # a few percent are kept by the system: only jobs that ask for all of it are refused
    level = WARNING if said <= 1.1 * have else FAILURE
    return level, "max_mem", f"its nodes have {size(have)}, {size(said)} is configured", f'"{have // 1024} MB"'


def _gpus(spec: Mapping[str, Any], meant: list[Partition]) -> _Verdict:
    have, said = max(p.gpus for p in meant), int(spec.get("num_gpus") or 0)
    if said <= have or not any(p.nodes for p in meant):
        return _FINE
    return FAILURE, "num_gpus", f"its nodes have {have} GPUs as the queue knows, {said} are configured", str(have)


def _gpus_not_asked_for(case: Case, key: str, spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Find lines of PBS that ask for nodes and forget their GPUs; nothing can be added to them from outside."""
    lines = [*case.system.queuing_sys_header, *spec.get("header", ())]
    asked = [line for line in lines if re.match(r"#PBS\s+-l\s*(select|nodes)=", line)]
    if case.scheduler == "pbs" and spec.get("num_gpus") and asked and not any("gpus" in line for line in asked):
        more = ":ngpus={num_gpus}" if "select=" in asked[0] else ":gpus={num_gpus}"
        evidence = f"jobs that need GPUs get none: {asked[0]!r} does not ask for them"
        yield Finding(WARNING, f"partition {key}", evidence, f'{case.key("header")}: add "{more}" to that line')


def _words(spec: Mapping[str, Any]) -> str:
    words = [f"{spec.get('num_cores')} cores"]
    words += [size(spec["max_mem"])] if spec.get("max_mem") else []
    words += [f"{spec['num_gpus']} GPUs"] if spec.get("num_gpus") else []
    words += [time_to_HMS(spec["max_time"])] if spec.get("max_time") is not None else []
    return ", ".join(words)
