"""Calls as jobs of a system: each is recorded, submitted exactly once, and found again by later scripts."""

from __future__ import annotations

from expyre.executor.jobs.backend import Jobs, make_jobs

__all__ = ["Jobs", "make_jobs"]
