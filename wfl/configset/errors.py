"""Errors of sets of configurations, each with one sentence on when."""

from __future__ import annotations

__all__ = ["MixedItemsError", "OutputBusyError", "UnstreamableFormatError"]


class MixedItemsError(ValueError, AssertionError):
    """Raised when a list of file names contains something else."""


class OutputBusyError(RuntimeError):
    """Raised when another live writer is writing the same output."""


class UnstreamableFormatError(ValueError, NotImplementedError):
    """Raised when a file format cannot hold a growing series of configurations."""

