"""Engines carry the chunks of a call through an operation: in this process, in a pool, or on any executor."""

from __future__ import annotations

from .base import Done, Engine, WorkerDied, choose_engine

__all__ = ["Done", "Engine", "WorkerDied", "choose_engine"]
