"""Small things that several parts need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["remsh_cmd"]

T = TypeVar("T", str, Sequence[str])


def remsh_cmd(cmd: T | None) -> T | str:
    """Return the remote shell command: the one given, else the environment variable ``EXPYRE_RSH``, else ``ssh``."""
    return os.environ.get("EXPYRE_RSH", "ssh") if cmd is None else cmd
