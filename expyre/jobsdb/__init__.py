"""The record of jobs: one SQLite file that says what was asked for, where it runs and what became of it."""

from __future__ import annotations

from expyre.jobsdb.record import JobsDB
from expyre.jobsdb.rows import UNSET, Change, JobRow, NewJob

__all__ = ["UNSET", "Change", "JobRow", "JobsDB", "NewJob"]
