"""Dry runs: what a script's calls would do, without submitting anything.

``EXPYRE_DRY_RUN`` switches it on: ``1`` shows the plan on standard error when the script ends, any other value names a
file to which each planned call is appended as one line of JSON (``xpr plan`` uses this).
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from expyre import stage
from expyre.errors import ExPyReError, PlanEnd

if TYPE_CHECKING:
    from expyre.launch import LaunchOptions
    from expyre.starting import Startable

__all__ = ["PlannedCall", "active", "end", "note", "note_jobs", "run_script"]


@dataclass
class PlannedCall:
    """Where one call of a script would go.

    Attributes
    ----------
    op
        Name of the called function or job.
    route
        ``serial``, ``pool``, or the name of a system.
    key_matched
        Key of the routing table that sent it there, if one did.
    jobs, hits, misses
        Number of jobs, of those known already, of those that would be submitted.
    partition, num_nodes, num_cores, max_time
        What would be asked of the queue; time in s.
    script
        The job script that would be submitted for the first of the jobs.
    note
        What else there is to know, e.g. why no partition fits.
    """

    op: str
    route: str
    key_matched: str | None = None
    jobs: int = 0
    hits: int = 0
    misses: int = 0
    partition: str | None = None
    num_nodes: int | None = None
    num_cores: int | None = None
    max_time: int | None = None
    script: str | None = None
    note: str = ""


ENDS = "(the plan ends here)"
STOPPED = "(the script stopped)"

_noted: list[PlannedCall] = []


def active() -> bool:
    """Tell whether this is a dry run."""
    return os.environ.get("EXPYRE_DRY_RUN", "") not in ("", "0")


def note(call: PlannedCall) -> None:
    """Add a call to the plan."""
    target = os.environ.get("EXPYRE_DRY_RUN", "1")
    if target == "1":
        if not _noted:
            atexit.register(_show)
        _noted.append(call)
        return
    with Path(target).open("a") as out:
        out.write(json.dumps(asdict(call)) + "\n")


def end(why: str) -> NoReturn:
    """End the script: it cannot go on without results.

    Raises
    ------
    PlanEnd
        Always.
    """
    note(PlannedCall(op=ENDS, route="", note=why))
    raise PlanEnd(0)


def note_jobs(
    jobs: Sequence[Startable], options: LaunchOptions, *, op: str | None = None, key: str | None = None
) -> PlannedCall:
    """Add the submission of jobs to the plan and return what was added."""
    hits = sum(not job.planned for job in jobs)
    call = PlannedCall(
        op=op or jobs[0].row.name,
        route=options.system_name,
        key_matched=key,
        jobs=len(jobs),
        hits=hits,
        misses=len(jobs) - hits,
    )
    missing = next((job for job in jobs if job.planned), None)
    _describe(call, missing or jobs[0], options)
    note(call)
    return call


def _describe(call: PlannedCall, job: Startable, options: LaunchOptions) -> None:
    from expyre.system import Launch

    system = job.project.systems[options.system_name]
    commands = tuple(stage.planned_commands(options.python_cmd))
    directory = job.project.stage_root / f"run_{job.id}"
    shape = (options.header_extra, options.exact_fit, options.partial_node)
    try:
        partition, submission = system.prepare(Launch(job.id, directory, options.resources, commands, "", *shape))
    except ExPyReError as error:
        call.note = str(error)
        return
    call.partition = partition
    call.num_nodes, call.num_cores = submission.nodes.get("num_nodes"), submission.nodes.get("num_cores")
    call.max_time = submission.max_time
    call.script = system.scheduler.script(submission)


def _show() -> None:
    lines = ["Plan (nothing was submitted):"]
    for call in _noted:
        where = f"{call.route}/{call.partition}" if call.partition else call.route
        counts = f"{call.jobs} jobs, {call.hits} known, {call.misses} to submit" if call.jobs else ""
        lines.append("  " + "  ".join(word for word in (call.op, where, counts, call.note) if word))
    sys.stderr.write("\n".join(lines) + "\n")


def run_script(argv: Sequence[str]) -> list[PlannedCall]:
    """Run a Python script as a dry run and return its plan.

    Parameters
    ----------
    argv
        The script and its arguments.

    Returns
    -------
    list of PlannedCall
        If the script ended with an error, the last entry, `ENDS` or `STOPPED`, says so: `ENDS` where the reason may be
        that earlier calls have given no results.
    """
    with tempfile.TemporaryDirectory(prefix="xpr_plan_") as directory:
        target = Path(directory) / "plan.jsonl"
        target.touch()
        env = {**os.environ, "EXPYRE_DRY_RUN": str(target)}
        done = subprocess.run(
            # what the script prints is not part of the plan: it goes to standard error
            [sys.executable, *argv], env=env, check=False, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        names = {field.name for field in fields(PlannedCall)}
        lines = target.read_text().splitlines()
    calls = [PlannedCall(**{k: v for k, v in json.loads(line).items() if k in names}) for line in lines]
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if any(call.misses or call.route in ("serial", "pool") for call in calls):
            # it went on with its inputs in place of results, as far as they go
            why = f"the script needs results that are not there yet ({last})"
            calls.append(PlannedCall(op=ENDS, route="", note=why))
        else:
            calls.append(PlannedCall(op=STOPPED, route="", note=last))
    return calls
