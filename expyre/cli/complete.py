"""What the shell offers for ids, systems and statuses, from the record in use; nothing rather than an error."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from functools import wraps

import click

from expyre.cli.session import Session
from expyre.states import GROUPS, STATUSES

__all__ = ["complete_configured", "complete_id", "complete_id_filter", "complete_status", "complete_system"]

_MOST = 200
_Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _quietly(completer: _Completer) -> _Completer:
    """Make a completer give nothing where it would fail: an error message in the middle of typing helps nobody."""

    @wraps(completer)
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            return completer(ctx, param, incomplete)
        return []

    return complete


def _session(ctx: click.Context) -> Session:
    return Session(ctx.find_root().params.get("dbfile"))


def _last_item(choices: Iterable[str], incomplete: str) -> list[str]:
    """Complete the last item of a comma-separated list."""
    done, comma, item = incomplete.rpartition(",")
    return [f"{done}{comma}{choice}" for choice in choices if choice.startswith(item)]


@_quietly
def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ids that begin so, newest first."""
    rows = _session(ctx).record.query(id=[re.escape(incomplete) + ".*"], limit=_MOST, newest_first=True)
    return [row.id for row in rows]


@_quietly
def complete_id_filter(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return regular expressions for ids whose text begins so."""
    item = incomplete.rpartition(",")[2]
    rows = _session(ctx).record.query(id=[re.escape(item) + ".*"], limit=_MOST, newest_first=True)
    return _last_item((re.escape(row.id) if "+" in row.id else row.id for row in rows), incomplete)


@_quietly
def complete_status(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return statuses and groups that begin so."""
    return _last_item((*STATUSES, *GROUPS), incomplete)


@_quietly
def complete_system(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return systems of the record that begin so."""
    return _last_item(sorted({system for system, _ in _session(ctx).record.counts() if system}), incomplete)


@_quietly
def complete_configured(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return configured systems that begin so."""
    return [name for name in _session(ctx).project.systems if name.startswith(incomplete)]
