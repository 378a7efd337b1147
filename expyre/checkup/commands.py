"""Findings on the commands of a host: those of its queue system, and those that move files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from expyre.checkup.finding import FAILURE, OK, WARNING, Case, Finding

__all__ = ["accounting", "queue_commands", "tools"]

_SUBMIT: Final = {"slurm": "sbatch", "pbs": "qsub", "sge": "qsub"}
_OTHERS: Final = {
    "slurm": ("squeue", "scancel", "scontrol"),
    "pbs": ("qstat", "qdel"),
    "sge": ("qstat", "qdel"),
}
_TITLES: Final = {"slurm": "Slurm", "pbs": "PBS", "sge": "Grid Engine"}
_SHORT_MEMORY = 60


def queue_commands(case: Case) -> Iterator[Finding]:
    """Look for the commands of the queue system, and whether it answers."""
    submit = _SUBMIT.get(case.scheduler)
    if submit is None:
        return
    title = _TITLES[case.scheduler]
    ready = case.facts.tools if case.facts.ready_tools is None else case.facts.ready_tools
    missing = [submit] if submit not in ready else []
    missing += [name for name in _OTHERS[case.scheduler] if name not in case.facts.tools]
    if not case.facts.prepared:
        remedy = f"{case.key('pre_submit_cmds')}: mend them; nothing is submitted unless they succeed"
        yield Finding(FAILURE, "pre_submit_cmds", "they fail", remedy)
    if missing:
        evidence = f"{', '.join(missing)}: not found on {case.where}{_instead(case.scheduler, case.facts.tools)}"
        yield Finding(FAILURE, title, evidence, _how_to_find(case, title), certain=True)
        return
    yield from _answer(case, title)


def _how_to_find(case: Case, title: str) -> str:
    return (
        f"let non-interactive shells on {case.where} find the commands of {title} (PATH in ~/.bashrc, before any line "
        f"that returns early), or {case.key('scheduler')}: name the queue system that is there"
    )


def _instead(scheduler: str, tools: Mapping[str, str]) -> str:
    others = [f"{_TITLES[name]} ({command})" for name, command in _MARKS.items() if name != scheduler
              and command in tools]  # fmt: skip
    return f"; there is {' and '.join(others)}" if others else ""


_MARKS: Final = {"slurm": "sbatch", "sge": "qconf", "pbs": "pbsnodes"}


def _answer(case: Case, title: str) -> Iterator[Finding]:
    queue = case.facts.queues.get(case.scheduler)
    if queue is None:
        kin = "Grid Engine" if case.scheduler == "pbs" else "another queue system"
        evidence = f"qsub and qstat on {case.where} belong to {kin}"
        yield Finding(FAILURE, title, evidence, f"{case.key('scheduler')}: name the queue system that is there")
    elif queue.trouble:
        yield Finding(FAILURE, title, queue.trouble, "try the command by hand; is the queue system down for service?")
    else:
        dialect = " (Torque)" if queue.dialect == "torque" else ""
        yield Finding(OK, title, (queue.version or "commands found") + dialect)


def accounting(case: Case) -> Iterator[Finding]:
    """Say how it will be known why jobs ended, where that is in doubt."""
    queue = case.facts.queues.get(case.scheduler)
    if queue is None or case.scheduler != "slurm" or not queue.limits:
        return
    kept = queue.limits.get("MinJobAge", "").split(" ")[0]
    if "sacct" in case.facts.tools and "none" not in queue.limits.get("AccountingStorageType", "none"):
        yield Finding(OK, "accounting", "sacct tells how jobs ended")
    elif kept.isdigit() and int(kept) < _SHORT_MEMORY:
        evidence = f"no sacct, and jobs are forgotten {kept} s after their end: why a job died may stay unknown"
        yield Finding(WARNING, "accounting", evidence, "ask the administrators for accounting, or a larger MinJobAge")
    else:
        yield Finding(OK, "accounting", f"no sacct; scontrol tells how jobs ended for {kept or 'some'} s")


def tools(case: Case) -> Iterator[Finding]:
    """Look for what moves files and runs scripts."""
    if case.system.host is None:
        return
    missing = [name for name in ("bash", "tar", "gzip") if name not in case.facts.tools]
    if missing:
        remedy = f"have them installed on {case.where}, or put them into the PATH of non-interactive shells"
        yield Finding(FAILURE, "tools", f"{', '.join(missing)}: not found", remedy)
