"""Run the command line as ``python -m wfl.cli``."""

from __future__ import annotations

from wfl.cli.cli import cli

if __name__ == "__main__":  # workers may import this file again
    cli(prog_name="wfl")
