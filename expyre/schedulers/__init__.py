"""Queue systems by name."""

from __future__ import annotations

from expyre.schedulers.base import Listing, Scheduler, Submission
from expyre.schedulers.local import Local
from expyre.schedulers.pbs import PBS
from expyre.schedulers.sge import SGE
from expyre.schedulers.slurm import Slurm

__all__ = ["PBS", "SGE", "Listing", "Local", "Scheduler", "Slurm", "Submission", "schedulers"]

schedulers: dict[str, type[Scheduler]] = {"local": Local, "pbs": PBS, "sge": SGE, "slurm": Slurm}
