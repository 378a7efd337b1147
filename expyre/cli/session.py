"""What one call of the command line works on: the record, and the project behind it, opened when first needed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from expyre.errors import RecordError, RequestError

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.func import ExPyRe
    from expyre.jobsdb import JobRow, JobsDB
    from expyre.system import System

__all__ = ["Session", "by_system", "pass_session"]


class Session:
    """The record and the project of one call.

    Parameters
    ----------
    dbfile
        Record to use instead of the project's own.
    """

    def __init__(self, dbfile: str | Path | None = None) -> None:
        self.dbfile = None if dbfile is None else Path(dbfile)

    @cached_property
    def project(self) -> Project:
        """The project; the configuration is read on first use. ``--dbfile`` takes the place of its record."""
        from expyre.config import project

        found = project()
        if self.dbfile is not None:
            found.record = self.record
            found.stage_dir = self.dbfile.absolute().parent
        return found

    @cached_property
    def record(self) -> JobsDB:
        """The record of jobs; with ``--dbfile`` no configuration is read for it."""
        if self.dbfile is None:
            return self.project.record
        if not self.dbfile.is_file():
            raise RecordError(f"--dbfile: there is no file {str(self.dbfile)!r}")
        from expyre.jobsdb import JobsDB

        return JobsDB(self.dbfile)

    def create_record(self) -> JobsDB:
        """Return the record; make the file if ``--dbfile`` names one that is not there yet."""
        if self.dbfile is not None and not self.dbfile.exists():
            from expyre.jobsdb import JobsDB

            self.__dict__["record"] = JobsDB(self.dbfile)
        return self.record

    def system(self, name: str | None) -> System:
        """Return a configured system.

        Raises
        ------
        RequestError
            No system of that name is configured; the message names the nearest.
        """
        systems = self.project.systems
        if name is not None and name in systems:
            return systems[name]
        near = get_close_matches(name or "", systems, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; configured are: {', '.join(systems) or 'none'}"
        raise RequestError(f"system {name!r} is not in the configuration{hint} (see `xpr config`)")

    def jobs(self, rows: Iterable[JobRow]) -> list[ExPyRe]:
        """Return job objects of rows of the record."""
        from expyre.func import ExPyRe

        _ = self.project  # the job objects belong to the default project, whose record may have to be replaced first
        return ExPyRe.from_jobsdb(rows)


pass_session = click.make_pass_decorator(Session)


def by_system(rows: Iterable[JobRow]) -> dict[str, list[JobRow]]:
    """Return rows by the system they were submitted to."""
    groups: dict[str, list[JobRow]] = {}
    for row in rows:
        groups.setdefault(row.system or "", []).append(row)
    return groups
