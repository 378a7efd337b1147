"""Workflows over sets of atomic configurations: the same script in one process, a pool, over MPI, or as queued jobs."""

from __future__ import annotations

__version__ = "0.1.0"
