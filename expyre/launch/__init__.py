"""Submitting recorded jobs, exactly once and as many as the queue takes."""

from __future__ import annotations

from expyre.launch.backlog import Backlog, waits_for_room, withdraw
from expyre.launch.launching import launch
from expyre.launch.options import LaunchOptions, launched_alike

__all__ = ["Backlog", "LaunchOptions", "launch", "launched_alike", "waits_for_room", "withdraw"]
