"""Forms of output: tables and text for people, JSON for programs, bare ids for pipes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow

__all__ = ["Screen", "count", "echo_ids", "echo_json", "facts", "json_option", "quiet_option", "warn"]

_F = TypeVar("_F", bound=Callable[..., Any])

# Never printed: whoever has them could pass off a result as the job's own.
_SECRETS = frozenset({"hmac_key", "token"})
_COLORS = {"succeeded": "green", "failed": "red", "died": "red", "started": "cyan", "created": "yellow"}


@dataclass(frozen=True)
class Screen:
    """Where output goes: the width of the terminal (None: not a terminal) and whether it shows colours."""

    width: int | None = None
    color: bool = False

    @classmethod
    def current(cls) -> Screen:
        """Return what standard output is now."""
        if not sys.stdout.isatty():
            return cls()
        return cls(shutil.get_terminal_size().columns, "NO_COLOR" not in os.environ)

    def bold(self, text: str) -> str:
        """Return the text, bold where colours are shown."""
        return click.style(text, bold=True) if self.color else text

    def status(self, status: str, text: str | None = None) -> str:
        """Return a status (or a text about it) in its colour where colours are shown."""
        shown = status if text is None else text
        return click.style(shown, fg=_COLORS.get(status)) if self.color and status in _COLORS else shown


def json_option(function: _F) -> _F:
    """Give a command ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def quiet_option(function: _F) -> _F:
    """Give a command ``-q/--quiet``."""
    return click.option("-q", "--quiet", is_flag=True, help="Print ids only, one per line.")(function)


def facts(row: JobRow) -> dict[str, Any]:
    """Return what the record says of a job, without its secrets; times in epoch seconds."""
    known = {name: getattr(row, name) for name in row.__slots__ if name not in _SECRETS}
    for name in ("resources", "options"):
        if known[name] is not None:
            known[name] = json.loads(known[name])
    return known


def echo_json(value: Any) -> None:
    """Print a value as JSON, lists with one item per line; what JSON has no form for is written as text."""
    if isinstance(value, list) and value:
        items = ",\n".join(json.dumps(item, default=str) for item in value)
        click.echo(f"[\n{items}\n]")
    else:
        click.echo(json.dumps(value, indent=2, default=str))


def echo_ids(rows: Iterable[JobRow]) -> None:
    """Print ids, one per line; nothing at all for no jobs."""
    text = "".join(f"{row.id}\n" for row in rows)
    if text:
        click.echo(text, nl=False)


def count(number: int) -> str:
    """Return a number of jobs in words."""
    return "1 job" if number == 1 else f"{number} jobs"


def warn(message: str) -> None:
    """Tell the user something on standard error."""
    click.echo(message, err=True)
