"""The command group ``wfl``."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import click

from wfl import __version__
from wfl.cli.errors import quiet
from wfl.cli.group import Entry, RootGroup

__all__ = ["COMMANDS", "cli"]

COMMANDS = {
    "info": Entry("info:info", "Summarise files of configurations."),
    "convert": Entry("convert:convert", "Write configurations to a file of another format, or a part of them."),
    "eval": Entry("eval:evaluate", "Evaluate configurations with a calculator."),
    "optimize": Entry("optimize:optimize", "Relax configurations."),
    "md": Entry("md:md", "Run molecular dynamics from each configuration."),
}


@click.group(
    cls=RootGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="wfl")
@click.option("-v", "--verbose", is_flag=True, help="Show the log, and warnings in full.")
@click.pass_context
def cli(ctx: click.Context, verbose: bool) -> None:
    """Work with sets of atomic configurations in files.

    The environment decides where operations run, as it does for the functions of the package:
    WFL_NUM_PYTHON_SUBPROCESSES is the number of worker processes, WFL_EXPYRE_INFO says which operations become queued
    jobs. An output that is complete is not computed again.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no error
    ctx.obj = {"verbose": verbose}
    ctx.with_resource(quiet(verbose))
    if os.environ.get("WFL_MPIPOOL"):
        from wfl.autoparallelize import mpipool_support

        mpipool_support.init()
