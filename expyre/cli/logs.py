"""``xpr logs``: what a job has printed, once or as it comes."""

from __future__ import annotations

import codecs
import contextlib
import os
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from expyre.cli.complete import complete_id
from expyre.cli.output import Screen, echo_json, json_option, warn
from expyre.cli.resolve import one
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean
from expyre.errors import ExPyReError
from expyre.states import GROUPS

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow
    from expyre.system import System

__all__ = ["STREAMS", "Tail", "job_directory", "log_files", "logs", "system_of"]

STREAMS = ("stdout", "stderr", "job stdout", "job stderr")
_PAUSE = 0.2
_REMOTE_PAUSE = 2.0
_LOOKS = 10  # the queue is asked at every tenth look at the files
_BLOCK = 1 << 16


@click.command()
@click.argument("job", shell_complete=complete_id)
@click.option("-f", "--follow", is_flag=True, help="Go on printing while the job runs.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each file.")
@click.option("--only", type=click.Choice([name.replace(" ", "-") for name in STREAMS]), help="Only this file.")
@click.option("--no-fetch", is_flag=True, help="Print what is here; ask no other host for more.")
@json_option
@pass_session
def logs(
    session: Session, job: str, follow: bool, lines: int | None, only: str | None, no_fetch: bool, as_json: bool
) -> None:
    """Print the output of JOB: of its function (stdout, stderr) and of its script (job stdout, job stderr)."""
    row = one(session.record, job)
    system = system_of(session, row)
    if not no_fetch:
        _fetch(system, row)
    wanted = [name for name in STREAMS if only is None or name == only.replace("-", " ")]
    found = log_files(job_directory(system, row), row.id)
    tails = {name: Tail(found[name]) for name in wanted}
    if as_json:
        echo_json({name: tail.last(lines) for name, tail in tails.items()})
        return
    shown = _print_all(tails, lines, headed=only is None)
    if follow:
        _follow(session, system, row, tails, shown, headed=only is None)
    elif not any(path.exists() for path in found.values()):
        warn(f"{clean(row.id)} ({row.status}) has left no output in {clean(str(job_directory(system, row)))}")


def system_of(session: Session, row: JobRow) -> System | None:
    """Return the system of a job; None if it has none, or one that is not configured any more."""
    if not row.system:
        return None
    try:
        return session.system(row.system)
    except ExPyReError:
        return None


def job_directory(system: System | None, row: JobRow) -> Path:
    """Return the directory on this machine where a job's output appears first."""
    stage_dir = Path(row.from_dir or "")
    if system is None or system.host is not None or row.status not in GROUPS["ongoing"]:
        return stage_dir
    return Path(os.path.expandvars(os.path.expanduser(system.job_dir(stage_dir))))


def log_files(directory: Path, job_id: str) -> dict[str, Path]:
    """Return the files of a job's output by the names of `STREAMS`."""
    return {name: _as_written(directory, file) for name, file in zip(STREAMS, _file_names(job_id), strict=True)}


def _file_names(job_id: str) -> tuple[str, ...]:
    from expyre.stage import names

    return names.STDOUT, names.STDERR, names.job_stdout(job_id), names.job_stderr(job_id)


def _as_written(directory: Path, file: str) -> Path:
    """Return the path of a log file; PBS writes ``EQ`` for ``=`` in its name."""
    other = directory / file.replace("=", "EQ")
    return other if other.exists() else directory / file


def _fetch(system: System | None, row: JobRow) -> None:
    """Bring the output of a running job on another host here; say so if that fails."""
    if system is None or system.host is None or row.status not in GROUPS["ongoing"] or not row.remote_id:
        return
    names = _file_names(row.id)
    try:
        system.collect_files(Path(row.from_dir or ""), [*names, *(name.replace("=", "EQ") for name in names)])
    except (ExPyReError, OSError) as exc:
        warn(f"the output as it is on {system.host} could not be fetched: {exc}")


class Tail:
    """A text file that is read as far as it goes, again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def last(self, lines: int | None) -> str:
        """Return the last lines of what is there now (None: all of it)."""
        if lines is not None:
            self._skip(lines)
        text = self.more()
        return text if lines is None else "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""

    def _skip(self, lines: int) -> None:
        """Go to a place with at least so many lines after it."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            position, newlines = os.fstat(file.fileno()).st_size, 0
            while position > 0 and newlines <= lines:
                start = max(position - _BLOCK, 0)
                newlines += os.pread(file.fileno(), position - start, start).count(b"\n")
                position = start
            self._at = position

    def more(self) -> str:
        """Return what was added since the last look; nothing if the file is not there."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return ""
        self._at += len(data)
        return self._decoder.decode(data)


def _heading(name: str, path: Path) -> str:
    return Screen.current().bold(f"==> {name}: {clean(str(path))} <==")


def _print_all(tails: dict[str, Tail], lines: int | None, *, headed: bool) -> str:
    """Print files; return the name of the last."""
    shown = ""
    for name, tail in tails.items():
        text = tail.last(lines)
        if text:
            if headed:
                click.echo(_heading(name, tail.path))
            click.echo(text, nl=headed and not text.endswith("\n"))
            shown = name
    return shown


def _follow(
    session: Session, system: System | None, row: JobRow, tails: dict[str, Tail], shown: str, *, headed: bool
) -> None:
    for name, text in _growth(session, system, row, tails):
        if headed and name != shown:
            click.echo(_heading(name, tails[name].path))
        click.echo(text, nl=False)
        shown = name


def _growth(session: Session, system: System | None, row: JobRow, tails: dict[str, Tail]) -> Iterator[tuple[str, str]]:
    """Yield what is added to files until the job has ended, and once more after it."""
    far = system is not None and system.host is not None
    for look in count():
        over = _ended(session, row, ask=far or look % _LOOKS == 0)
        if far and not over:
            _fetch(system, row)
        for name, tail in tails.items():
            if text := tail.more():
                yield name, text
        if over:
            return
        time.sleep(_REMOTE_PAUSE if far else _PAUSE)


def _ended(session: Session, row: JobRow, *, ask: bool) -> bool:
    """Tell whether a job has ended: by the record, or, if the queue is to be asked, by all there is to know."""
    from expyre import gather

    if ask:
        gather.sync(session.project, [session.record.row(row.id)])
    return session.record.row(row.id).status not in GROUPS["ongoing"]
