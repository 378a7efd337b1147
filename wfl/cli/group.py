"""Command groups that know their commands by name, and load one when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from wfl.cli.errors import explained

__all__ = ["Entry", "LazyGroup", "RootGroup"]


@dataclass(frozen=True)
class Entry:
    """Where a command lives, as ``module:attribute`` below ``wfl.cli.commands``, and its line of help."""

    place: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(import_module(f"wfl.cli.commands.{module}"), attribute)
        return command


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called.

    Parameters
    ----------
    entries
        The commands by name, in the order of the help.
    """

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = dict(entries)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        entry = self.entries.get(cmd_name)
        return None if entry is None else entry.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names; suggest the nearest one if there is none."""
        if args and not args[0].startswith("-") and args[0] not in self.entries:
            near = get_close_matches(args[0], self.entries, n=3, cutoff=0.5)
            hint = f"Did you mean: {', '.join(near)}?" if near else f"There are: {', '.join(self.entries)}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands from their lines of help: nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete names of commands and options, importing no command."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=e.help) for n, e in self.entries.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


class RootGroup(LazyGroup):
    """The outermost group: errors of its commands end as one message."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            with explained():
                return super().invoke(ctx)
        except BrokenPipeError:
            # the reader, head perhaps, has enough: no mistake of anybody
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
