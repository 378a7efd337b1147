"""``xpr doctor``: whether everything is there that jobs on a system need, and what to change if not."""

from __future__ import annotations

import os
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import click

from expyre.cli.complete import complete_configured
from expyre.cli.output import Screen, echo_json, json_option
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean
from expyre.cli.times import AGE
from expyre.errors import TransportError

if TYPE_CHECKING:
    from expyre.checkup import Finding, Here
    from expyre.system import System

__all__ = ["Examined", "doctor", "print_findings"]

_PATIENCE = 300.0
_COLORS = {"ok": "green", "warning": "yellow", "failure": "red"}


@dataclass
class Examined:
    """A system with what was found."""

    name: str
    host: str | None
    scheduler: str
    seconds: float
    findings: list[Finding]

    @property
    def failed(self) -> bool:
        """Whether something does not work."""
        return any(finding.level == "failure" for finding in self.findings)

    @property
    def hopeless(self) -> bool:
        """Whether no job can run."""
        return any(finding.certain for finding in self.findings)


@click.command()
@click.argument("systems", nargs=-1, metavar="[SYSTEM]...", shell_complete=complete_configured)
@click.option("--submit", is_flag=True, help="Also run a small job, and say how long each step takes.")
@click.option("--timeout", type=AGE, default="10m", show_default=True, help="How long to wait for that job.")
@click.option("--python", "python_cmd", default="python3", show_default=True, help="What starts Python in jobs.")
@json_option
@pass_session
def doctor(
    session: Session, systems: tuple[str, ...], submit: bool, timeout: float, python_cmd: str, as_json: bool
) -> None:
    """Check what jobs on SYSTEM (default: all systems) need, and say what to change.

    Connection, queue system, partitions, directories, Python and its packages on both sides, clocks, the file system
    of the record. Nothing is changed. Systems whose name begins with _ are left out unless they are named. The exit
    code is 1 if anything does not work.
    """
    names = systems or tuple(name for name in session.project.systems if not name.startswith("_"))
    chosen = {name: session.system(name) for name in names}
    done: list[Examined] = []
    for examined in _all(session, chosen, python_cmd):
        if submit and not examined.hopeless:
            examined.findings += _try_out(session, examined.name, timeout, python_cmd)
        done.append(examined)
        if not as_json:
            _print(examined, Screen.current())
    if as_json:
        echo_json([asdict(one) for one in sorted(done, key=lambda one: names.index(one.name))])
    if any(one.failed for one in done):
        raise click.exceptions.Exit(1)


def _try_out(session: Session, name: str, timeout: float, python_cmd: str) -> list[Finding]:
    from expyre.cli.tryout import try_out

    return _safely(lambda: try_out(session.project, name, timeout, python_cmd), "job")


def _all(session: Session, systems: dict[str, System], python_cmd: str) -> Iterator[Examined]:
    """Examine systems side by side and yield each when it is done; a host that never answers holds up no other."""
    from expyre.checkup import look_here
    from expyre.config.files import read_settings

    here = look_here(session.project.stage_dir)
    source = read_settings(session.project.config_dirs).source
    answers: SimpleQueue[Examined] = SimpleQueue()

    def work(name: str, system: System) -> None:
        begin = time.monotonic()
        found = _safely(lambda: _examine(name, system, here, python_cmd, source), "xpr doctor")
        answers.put(_examined(name, system, time.monotonic() - begin, found))

    for name, system in systems.items():
        threading.Thread(target=work, args=(name, system), daemon=True).start()
    yield from _collect(answers, systems)


def _collect(answers: SimpleQueue[Examined], systems: dict[str, System]) -> Iterator[Examined]:
    from expyre.checkup import Finding

    waiting, deadline = dict(systems), time.monotonic() + _PATIENCE
    while waiting:
        try:
            examined = answers.get(timeout=max(deadline - time.monotonic(), 0.01))
        except Empty:
            silent = Finding(
                "failure", "connection", f"no answer in {_PATIENCE:.0f} s", "is the host in order?", certain=True
            )
            yield from (_examined(name, system, _PATIENCE, [silent]) for name, system in waiting.items())
            return
        del waiting[examined.name]
        yield examined


def _examined(name: str, system: System, seconds: float, found: list[Finding]) -> Examined:
    return Examined(name, system.host, type(system.scheduler).__name__, round(seconds, 3), found)


def _examine(
    name: str, system: System, here: Here, python_cmd: str, source: Callable[[tuple[str, ...]], str]
) -> list[Finding]:
    from expyre.checkup import examine, findings, unreachable

    try:
        facts = examine(system, here.stage_dir, python_cmd)
    except TransportError as error:
        return unreachable(name, system, error, here, source)
    return findings(name, system, facts, here, source)


def _safely(find: Callable[[], list[Finding]], what: str) -> list[Finding]:
    """Return findings; whatever goes wrong on the way is one itself."""
    from expyre.checkup import Finding

    try:
        return find()
    except Exception as error:  # a check that breaks must not hide what the others have found
        if os.environ.get("EXPYRE_TRACEBACK"):
            raise
        text = f"{type(error).__name__}: {error}"
        return [Finding("failure", what, text, "EXPYRE_TRACEBACK=1 in the environment shows where this arose")]


def _print(examined: Examined, screen: Screen) -> None:
    where = f"{examined.scheduler} on {examined.host or 'this machine'}"
    click.echo(f"{screen.bold(clean(examined.name))}: {clean(where)}")
    print_findings(examined.findings, screen)


def print_findings(findings: list[Finding], screen: Screen, *, err: bool = False) -> None:
    """Print findings, the columns aligned, to standard output or error."""
    width = max([len(finding.what) for finding in findings], default=0)
    for finding in findings:
        lead = f"  {finding.level:<7}  {clean(finding.what):<{width}}  "
        lines = _wrapped(finding.evidence, len(lead), screen)
        lines += [f"-> {line}" if i == 0 else f"   {line}" for i, line in enumerate(_remedy(finding, lead, screen))]
        for i, line in enumerate(lines):
            click.echo((_colored(lead, finding.level, screen) if i == 0 else " " * len(lead)) + line, err=err)


def _remedy(finding: Finding, lead: str, screen: Screen) -> list[str]:
    return _wrapped(finding.remedy, len(lead) + 3, screen) if finding.remedy else []


def _wrapped(text: str, indent: int, screen: Screen) -> list[str]:
    lines = [clean(line) for line in text.splitlines()] or [""]
    if screen.width is None or screen.width - indent < 30:
        return lines
    room = screen.width - indent
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""]
    ]


def _colored(lead: str, level: str, screen: Screen) -> str:
    if not screen.color:
        return lead
    return lead.replace(level, click.style(level, fg=_COLORS[level]), 1)
