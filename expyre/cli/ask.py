"""Questions to the user, asked the same way by all commands."""

from __future__ import annotations

import sys

import click

from expyre.cli.text import clean

__all__ = ["accepted", "confirm_if_watched", "refuse_without_filter"]


def accepted(question: str) -> bool:
    """Ask until the answer is y or n.

    Raises
    ------
    click.Abort
        The input ended without an answer.
    """
    click.echo(clean(question))
    while True:
        answer = click.prompt("Enter n to reject or y to accept", prompt_suffix=": ", default="", show_default=False)
        if answer.strip().lower() in ("y", "n"):
            return answer.strip().lower() == "y"


def confirm_if_watched(question: str, yes: bool) -> None:
    """Ask before a change to many jobs if somebody sits at the terminal; leave the command on anything but y.

    Raises
    ------
    click.Abort
        The answer was not yes.
    """
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True)


def refuse_without_filter(given: bool, what: str) -> None:
    """Leave the command with its help and code 1 if no filter was given.

    Raises
    ------
    click.exceptions.Exit
        No filter was given.
    """
    if given:
        return
    click.echo(f"{what} needs at least one job or filter (-s '*' for all jobs)\n", err=True)
    click.echo(click.get_current_context().get_help(), err=True)
    raise click.exceptions.Exit(1)
