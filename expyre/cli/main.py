"""The command group ``xpr``: knows every command by name and one line of help, and loads it when it is called."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from expyre import __version__
from expyre.errors import ExPyReError

__all__ = ["COMMANDS", "cli"]


@dataclass(frozen=True)
class Entry:
    """Where a command lives: its section of the help, its module, the name there, and its line of help."""

    section: str
    module: str
    attribute: str
    help: str


COMMANDS: dict[str, Entry] = {
    "ls": Entry("Look", "listing", "ls", "List jobs."),
    "show": Entry("Look", "show", "show", "Show everything known of one job."),
    "why": Entry("Look", "why", "why", "Say why a job waits, was computed again, or failed."),
    "logs": Entry("Look", "logs", "logs", "Print the output of one job."),
    "stats": Entry("Look", "stats", "stats", "Report times, core-hours and waste."),
    "plan": Entry("Look", "plan", "plan", "Say what a script would submit, without submitting."),
    "config": Entry("Look", "config", "config", "Show the configuration files, systems and record in use."),
    "doctor": Entry("Set up", "doctor", "doctor", "Check what jobs on a system need, and say what to change."),
    "init": Entry("Set up", "init", "init", "Write a configuration for a host from what is found there."),
    "sync": Entry("Act", "sync", "sync", "Fetch statuses and results of jobs."),
    "cancel": Entry("Act", "queue", "cancel", "Take jobs out of the queue, or stop them."),
    "hold": Entry("Act", "queue", "hold", "Keep queued jobs from starting."),
    "release": Entry("Act", "queue", "release", "Let held jobs start."),
    "retry": Entry("Act", "retry", "retry", "Submit failed and died jobs again."),
    "rm": Entry("Act", "remove", "rm", "Remove jobs from the record, and their files."),
    "reset_status": Entry("Mend", "mend", "reset_status", "Set the recorded status of jobs by hand."),
    "create_job": Entry("Mend", "mend", "create_job", "Record a job whose directory exists."),
    "fail_job": Entry("Mend", "fail", "fail_job", "Make jobs count as failed."),
    "db_unlock": Entry("Mend", "mend", "db_unlock", "Free the record of a lock left by a dead process."),
    "completion": Entry("Shell", "completion", "completion", "Print the code that completes xpr in a shell."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        entry = COMMANDS.get(cmd_name) or COMMANDS.get(cmd_name.replace("-", "_"))
        if entry is None:
            return None
        command: click.Command = getattr(import_module(f"expyre.cli.{entry.module}"), entry.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names; suggest the nearest one if there is none."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], COMMANDS, n=3, cutoff=0.5)
            hint = f" Did you mean: {', '.join(near)}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, from their lines of help: nothing is imported."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(n, e.help) for n, e in COMMANDS.items() if e.section == section], col_max=16)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete names of commands and options, importing no command."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(n, help=e.help) for n, e in COMMANDS.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a mistake or fault that has a message ends as that message, not as a traceback."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # the reader, head perhaps, has enough: no mistake of anybody
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except (ExPyReError, OSError) as exc:
            if os.environ.get("EXPYRE_TRACEBACK"):
                raise
            raise click.ClickException(message_of(exc)) from exc


def message_of(exc: BaseException) -> str:
    """Return the text of an error for people, never empty."""
    text = str(exc).strip()
    return text if text and isinstance(exc, ExPyReError) else f"{type(exc).__name__}: {text}".rstrip(": ")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="xpr")
@click.option(
    "--dbfile",
    type=click.Path(dir_okay=False),
    help="Work on this record (jobs.db) instead of the project's own, which is then not opened.",
)
@click.pass_context
def cli(ctx: click.Context, dbfile: str | None) -> None:
    """Look at and manage the jobs of a project.

    A job is named by its id, by a unique beginning of it, by its last 8 characters, by its name, or by its id in
    the queue. Commands over many jobs take the filters -i, -n, -s and -S, which must all apply: comma-separated lists
    one item of which must fit. Items of -i, -n and -S are regular expressions for the whole text (a comma in brackets
    or after a backslash belongs to the expression). EXPYRE_TRACEBACK=1 in the environment makes errors show where they
    arose.
    """
    from expyre.cli.session import Session

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no error
    ctx.obj = Session(dbfile)
