"""Calls served by workers that live in queue jobs, also of hosts that only SSH leads to: no sockets, files in bulk."""

from expyre.executor.blocks.backend import make_blocks

__all__ = ["make_blocks"]
