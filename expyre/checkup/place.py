"""Findings on directories and clocks: where jobs run, where the record is, what time it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from expyre.checkup.finding import FAILURE, OK, WARNING, Case, Finding, size
from expyre.jobsdb import journal

__all__ = ["clock", "quota", "record", "run_directory"]

_VARIABLE: Final = re.compile(r"(?!^\$HOME\b|^\$\{HOME\})\$\{?[A-Za-z_]\w*\}?")
_LEAST_KB = 1024
_LITTLE_KB = 512 * 1024
_FEW_INODES = 10_000
_LARGEST_SKEW = 5.0


def run_directory(case: Case) -> Iterator[Finding]:
    """Look at the directory under which jobs run."""
    space = case.facts.space
    setting = case.key("rundir")
    if found := _VARIABLE.search(case.system.remote_rundir or ""):
        evidence = f"{case.system.remote_rundir}: variables are not filled in, but `~` and `$HOME` at the beginning"
        remedy = f"""{setting}: write {found[0]} out; `ssh {case.where} 'echo "{found[0]}"'` may tell what it is"""
        yield Finding(WARNING, "run directory", evidence, remedy)
    name = "run directory" if case.system.remote_rundir else "stage directory"
    what = f"{space.wanted}" + ("" if space.exists or not space.path else f" (not there yet, below {space.path})")
    free = "" if space.free_kb is None else f", {size(space.free_kb)} free"
    elsewhere = f"{setting}: name a directory on {case.where} that you may write to and that its nodes see"
    cleared = f"free some space there (`xpr rm --clean -s processed`), or {setting}: name another directory"
    if not space.known:
        yield Finding(FAILURE, name, f"{what}: {space.trouble}", f"is the file system in order? else {elsewhere}")
    elif _is_full(space.free_kb, space.free_inodes, space.trouble):
        yield Finding(FAILURE, name, f"{what} is full: {space.trouble or _left(case)}", cleared, certain=True)
    elif not space.writable:
        yield Finding(FAILURE, name, f"{what}: {space.trouble or 'not writable'}", elsewhere, certain=True)
    elif _is_little(space.free_kb, _LITTLE_KB) or _is_little(space.free_inodes, _FEW_INODES):
        yield Finding(WARNING, name, f"{what}: {_left(case)}", cleared)
    elif case.scheduler != "local" and (space.path == "/tmp" or space.path.startswith("/tmp/")):
        yield Finding(WARNING, name, f"{what}: nodes have a /tmp of their own as a rule{free}", elsewhere)
    else:
        yield Finding(OK, name, f"{what} is writable{free}" + (f" ({space.kind})" if space.kind else ""))


def _is_full(free_kb: int | None, free_inodes: int | None, trouble: str) -> bool:
    words = ("no space left", "quota exceeded", "disk full")
    return _is_little(free_kb, _LEAST_KB) or free_inodes == 0 or any(word in trouble.lower() for word in words)


def _is_little(free: int | None, least: int) -> bool:
    return free is not None and free < least


def _left(case: Case) -> str:
    space = case.facts.space
    left = [] if space.free_kb is None else [size(space.free_kb)]
    left += [] if space.free_inodes is None else [f"{space.free_inodes} inodes"]
    return f"only {' and '.join(left)} free"


def quota(case: Case) -> Iterator[Finding]:
    """Look for limits of the user that are exceeded, which the command quota marks with a star."""
    over = [line.strip() for line in case.facts.quota.splitlines() if "*" in line and any(c.isdigit() for c in line)]
    if over:
        yield Finding(WARNING, "quota", f"over quota: {'; '.join(over)}", f"remove files on {case.where}")


def clock(case: Case) -> Iterator[Finding]:
    """Compare the clocks."""
    skew = case.facts.skew
    if case.system.host is None:
        return
    if abs(skew) > _LARGEST_SKEW:
        way = "ahead of" if skew > 0 else "behind"
        evidence = f"the clock of {case.where} is {abs(skew):.0f} s {way} ours: times in `xpr stats` will be wrong"
        yield Finding(WARNING, "clock", evidence, "set the clock that is wrong (NTP), or tell the administrators")
    else:
        yield Finding(OK, "clock", "agrees with ours")


def record(case: Case) -> Iterator[Finding]:
    """Look at where the record of jobs is."""
    here = case.here
    what = f"{here.stage_dir} ({here.kind}"
    other = f"{case.source(('local_stage_dir',))}: local_stage_dir: name a directory that you may write to"
    if here.trouble:
        yield Finding(FAILURE, "record", f"{here.stage_dir} cannot be written: {here.trouble}", other, certain=True)
    elif not here.journal:
        modes = ", ".join(journal.MODES)
        remedy = f"environment variable EXPYRE_DB_JOURNAL: unset it, or one of {modes}"
        yield Finding(FAILURE, "record", "EXPYRE_DB_JOURNAL is not a journal mode", remedy)
    elif here.journal == "wal" and journal.is_network(here.kind):
        evidence = f"{what}): a write-ahead log on a network file system can damage the record"
        yield Finding(WARNING, "record", evidence, "environment variable EXPYRE_DB_JOURNAL: unset it")
    elif _is_little(here.free_kb, _LITTLE_KB):
        evidence = f"{what}): only {size(here.free_kb or 0)} free"
        yield Finding(WARNING, "record", evidence, f"free some space, or {other}")
    else:
        yield Finding(OK, "record", f"{what}, journal {here.journal})")
