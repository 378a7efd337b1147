"""Systems: hosts with their queues and partitions; jobs are sent there, looked at, and brought back."""

from __future__ import annotations

from expyre.system.model import Launch, Look, Submitted
from expyre.system.rundir import RunDir
from expyre.system.system import System

__all__ = ["Launch", "Look", "RunDir", "Submitted", "System"]
