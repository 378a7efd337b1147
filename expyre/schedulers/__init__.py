"""Queue systems by name."""

from __future__ import annotations

from expyre.schedulers.base import Listing, Scheduler, Submission
from expyre.schedulers.local import Local
from expyre.schedulers.slurm import Slurm

__all__ = ["Listing", "Local", "Scheduler", "Slurm", "Submission", "schedulers"]

schedulers: dict[str, type[Scheduler]] = {"local": Local, "slurm": Slurm}
