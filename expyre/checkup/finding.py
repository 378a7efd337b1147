"""A finding: one thing that was looked at, whether it is in order, and what to do if it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from expyre.checkup.facts import Facts
from expyre.checkup.here import Here
from expyre.system import System

__all__ = ["FAILURE", "OK", "WARNING", "Case", "Finding", "Source", "in_config_json", "size"]

OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"

Source = Callable[[tuple[str, ...]], str]
"""From a path of keys to the name of the file in which it stands."""


def in_config_json(path: tuple[str, ...]) -> str:
    """Return the name that every file with settings has."""
    return "config.json"


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes
    ----------
    level
        ``ok``, ``warning`` or ``failure``.
    what
        What was looked at.
    evidence
        What was seen.
    remedy
        What to change and where; empty if nothing.
    certain
        Whether with this every job must fail, however it is made.
    """

    level: str
    what: str
    evidence: str
    remedy: str = ""
    certain: bool = False


@dataclass(frozen=True)
class Case:
    """A system with all that was found."""

    name: str
    system: System
    facts: Facts
    here: Here
    source: Source = in_config_json

    @property
    def scheduler(self) -> str:
        """Name of its queue system."""
        return getattr(self.system.scheduler, "name", "")

    @property
    def where(self) -> str:
        """The host, in words."""
        return self.system.host or "this machine"

    def key(self, *path: str) -> str:
        """Return a setting of the system as people find it: file and path of keys."""
        whole = ("systems", self.name, *path)
        return f"{self.source(whole)}: {'.'.join(whole)}"


def size(kilobytes: int) -> str:
    """Return a size for people."""
    amount = float(kilobytes)
    for unit in ("kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TB"
