"""Run the command line as ``python -m expyre.cli``."""

from __future__ import annotations

from expyre.cli.main import cli

cli(prog_name="xpr")
