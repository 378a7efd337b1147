"""Facts about a host, collected in one round trip."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from expyre.checkup import pbs, sge, slurm
from expyre.checkup.answers import Answer, pairs, split
from expyre.checkup.queues import Queue, kilobytes
from expyre.checkup.script import Question, script
from expyre.errors import TransportError
from expyre.system import System
from expyre.transports import Transport

__all__ = ["Facts", "Interpreter", "Space", "Who", "collect", "examine", "interpreter_words", "question_of"]

_QUEUE_SYSTEMS: Final = {"slurm": slurm, "pbs": pbs, "sge": sge}
_LAUNCHERS = frozenset({"srun", "mpirun", "mpiexec", "mpiexec.hydra", "aprun", "jsrun", "ibrun", "prun"})
_TIMEOUT = 240.0


@dataclass(frozen=True)
class Who:
    """Who is logged in, and where."""

    user: str = ""
    groups: frozenset[str] = frozenset()
    host: str = ""
    home: str = ""
    shell: str = ""
    system: str = ""
    scratch: str = ""
    num_cores: int = 0
    mem_kb: int | None = None


@dataclass(frozen=True)
class Space:
    """The directory under which jobs run.

    Attributes
    ----------
    wanted
        The directory.
    path
        The same or, if it is not there, the nearest above it that is; where it really is.
    exists
        Whether it is there.
    writable
        Whether a file of one MiB could be written.
    trouble
        Why not.
    free_kb, free_inodes
        What is free in its file system; None if that is not known.
    kind
        Type of the file system.
    known
        Whether the host has answered this at all.
    """

    wanted: str
    path: str = ""
    exists: bool = False
    writable: bool = False
    trouble: str = ""
    free_kb: int | None = None
    free_inodes: int | None = None
    kind: str = ""
    known: bool = True


@dataclass(frozen=True)
class Interpreter:
    """Python as a job finds it.

    Attributes
    ----------
    command
        What starts it.
    executable
        Its path; empty if it was not found.
    version
        Its version.
    packages
        Versions of packages; ``?`` for those that tell none.
    began
        Whether the shell of job scripts started.
    ready
        Whether the lines before it were run to their end.
    missing
        Whether the shell has found no such command.
    said
        What those lines, or Python, wrote to standard error.
    timed_out
        Whether there was no answer in time.
    """

    command: str
    executable: str = ""
    version: tuple[int, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    began: bool = False
    ready: bool = False
    missing: bool = False
    said: str = ""
    timed_out: bool = False


@dataclass(frozen=True)
class OtherPython:
    """A Python that is not the one that jobs find."""

    path: str
    version: tuple[int, ...]
    cloudpickle: bool


@dataclass(frozen=True)
class Facts:
    """What was found on a host.

    Attributes
    ----------
    seconds
        How long the round trip took, with the connection.
    skew
        By how many s its clock is ahead of ours, as far as the round trip does not explain it.
    tools
        Paths of commands.
    ready_tools
        The same after the commands that come before submission; None if there are none.
    prepared
        Whether these commands succeeded.
    queues
        Queue systems that were asked, by name.
    quota
        What the command ``quota`` said.
    others
        Other Pythons that are there.
    modules
        Names of modules that may bring Python.
    """

    host: str | None
    seconds: float
    skew: float
    who: Who
    tools: Mapping[str, str]
    space: Space
    python: Interpreter
    ready_tools: Mapping[str, str] | None = None
    prepared: bool = True
    queues: Mapping[str, Queue] = field(default_factory=dict)
    quota: str = ""
    others: tuple[OtherPython, ...] = ()
    modules: tuple[str, ...] = ()


def examine(system: System, stage_root: Path, python_cmd: str = "python3", *, brief: bool = False) -> Facts:
    """Return the facts of a system's host.

    Parameters
    ----------
    system
        The system.
    stage_root
        Where jobs are staged; those without a run directory run there.
    python_cmd
        What starts Python in jobs.
    brief
        Leave out partitions, accounts, limits and quota.

    Raises
    ------
    TransportError
        The host was not reached, or something else than its shell has answered.
    """
    return collect(system.transport, question_of(system, stage_root, python_cmd, brief=brief))


def question_of(system: System, stage_root: Path, python_cmd: str = "python3", *, brief: bool = False) -> Question:
    """Return what is to be asked about a system."""
    name = getattr(system.scheduler, "name", "")
    modules = [_QUEUE_SYSTEMS[name]] if name in _QUEUE_SYSTEMS else []
    return Question(
        place=system.remote_rundir or os.path.abspath(stage_root),
        python=_job_python(system, python_cmd),
        commands=tuple(system.commands),
        script_exec=system.script_exec,
        pre_submit_cmds=tuple(system.pre_submit_cmds),
        queues=tuple(module.SHORT if brief else module.LONG for module in modules),
        quota=not brief,
    )


def collect(transport: Transport, question: Question) -> Facts:
    """Ask a host in one round trip.

    Raises
    ------
    TransportError
        The host was not reached, or something else than its shell has answered.
    """
    mark = f"checkup-{secrets.token_hex(8)}"
    text = script(question, mark)
    begin = time.time()
    done = transport.run(text, timeout=_TIMEOUT)
    end = time.time()
    answers = split(done.text, mark)
    if answers.get("who", Answer()).returncode is None:
        said = done.error_text or done.text.strip() or f"exit code {done.returncode} without a word"
        where = transport.host or "this machine"
        raise TransportError(f"{where} does not run shell scripts: {said[-300:]}", transient=False)
    return _facts(transport.host, question, answers, mark, (begin, end))


def _facts(
    host: str | None, question: Question, answers: Mapping[str, Answer], mark: str, times: tuple[float, float]
) -> Facts:
    who = _who(answers["who"])
    ready = pairs(answers.get("ready")) if "ready" in answers else None
    return Facts(
        host=host,
        seconds=times[1] - times[0],
        skew=_skew(pairs(answers["who"]).get("clock", ""), *times),
        who=who,
        tools=pairs(answers.get("tools")),
        space=_space(question.place, answers.get("place")),
        python=_interpreter(question, answers.get("python"), mark),
        ready_tools=ready,
        prepared=ready is None or ready.pop("prepared", "") == "yes",
        queues={queue.name: queue for queue in _queues(answers, who.groups)},
        quota=answers.get("quota", Answer()).text.strip(),
        others=_others(answers.get("others")),
        modules=tuple(line.split("(")[0].strip() for line in answers.get("modules", Answer()).lines),
    )


def _queues(answers: Mapping[str, Answer], groups: frozenset[str]) -> list[Queue]:
    found = (slurm.parse(answers, groups), pbs.parse(answers), sge.parse(answers))
    return [queue for queue in found if queue is not None]


def _who(answer: Answer) -> Who:
    found = pairs(answer)
    names = ("user", "host", "home", "shell", "system", "scratch")
    cores = found.get("cores", "")
    return Who(
        groups=frozenset(found.get("groups", "").split()),
        num_cores=int(cores) if cores.isdigit() else 0,
        mem_kb=kilobytes(found.get("memory", "")),
        **{name: found.get(name, "") for name in names},
    )


def _others(answer: Answer | None) -> tuple[OtherPython, ...]:
    found = []
    for path, words in pairs(answer).items():
        version, _, cloudpickle = words.partition(" ")
        found.append(OtherPython(path, _version(version), cloudpickle == "yes"))
    return tuple(found)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(".") if word.isdigit())


def _skew(clock: str, begin: float, end: float) -> float:
    """Return how far a clock that counts whole seconds is outside of the time in which it was read."""
    if not clock.isdigit():
        return 0.0
    there = float(clock)
    return there - end if there > end else min(there + 1.0 - begin, 0.0)


def _space(wanted: str, answer: Answer | None) -> Space:
    found = pairs(answer)
    trouble = found.get("trouble", "").rpartition(": ")[2]
    if "obstacle" in found:
        trouble = f"{found['obstacle']} is not a directory"
    elif "path" not in found:
        trouble = "no answer in time" if answer is None or answer.timed_out else answer.last_words
    return Space(
        wanted,
        found.get("path", ""),
        "exists" in found,
        "writable" in found and "obstacle" not in found,
        trouble,
        _free(found.get("space", "")),
        _free(found.get("inodes", "")),
        found.get("kind", ""),
        known="path" in found,
    )


def _free(line: str) -> int | None:
    """Return what is free, from the last line of ``df -P``; None where the total is 0: the file system has no limit."""
    words = line.split()
    with contextlib.suppress(ValueError, IndexError, StopIteration):
        at = next(i for i, word in enumerate(words) if word.endswith("%") or (word == "-" and i > 3))
        return int(words[at - 1]) if int(words[at - 3]) > 0 else None
    return None


def _interpreter(question: Question, answer: Answer | None, mark: str) -> Interpreter:
    found = pairs(answer, f"{mark} py ")
    version = _version(found.get("version", ""))
    said = "" if answer is None else answer.error.strip()
    return Interpreter(
        question.python,
        found.get("executable", "") if version else "",
        version,
        {key.removeprefix("has "): value for key, value in found.items() if key.startswith("has ") and value},
        "began" in found,
        "ready" in found,
        "ready" in found and answer is not None and answer.returncode in (126, 127),
        said,
        answer is None or (answer.timed_out and not version),
    )


def _job_python(system: System, python_cmd: str) -> str:
    """Return what starts Python in a job: on this machine, and unless commands prepare another, the one that runs."""
    here = system.host is None and not system.commands
    if python_cmd == "python3" and here and sys.executable:
        return shlex.quote(sys.executable)
    return interpreter_words(python_cmd)


def interpreter_words(python_cmd: str) -> str:
    """Return a command without the launcher of parallel programs in front of it, which works in jobs only."""
    words = _words(python_cmd)
    if not words or os.path.basename(words[0]) not in _LAUNCHERS:
        return python_cmd
    starts = [i for i, word in enumerate(words) if os.path.basename(word).startswith("python")]
    return " ".join(shlex.quote(word) for word in words[starts[0] :]) if starts else "python3"


def _words(command: str) -> Sequence[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []
