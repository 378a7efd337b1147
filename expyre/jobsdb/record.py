"""The record of jobs as the rest of the package uses it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre import states
from expyre.errors import JobNotFoundError
from expyre.jobsdb import brief as brief_rows
from expyre.jobsdb import filters, inserting, kinship, paging, rescue, stepping, submission
from expyre.jobsdb.classic import ClassicMethods
from expyre.jobsdb.connection import Connections
from expyre.jobsdb.rows import COLUMNS, SELECT, Change, JobRow, NewJob

if TYPE_CHECKING:
    from expyre.identity import Identity

_LIVE = f"{SELECT} WHERE j.rowid = (SELECT position FROM live WHERE scope = ? AND key = ? ORDER BY position LIMIT 1)"
_HISTORY = """
SELECT time, status, remote_status, note FROM (
    SELECT 0 AS seq, t_created AS time, :created AS status, NULL AS remote_status, NULL AS note
    FROM details WHERE id = :id
    UNION ALL
    SELECT seq, time, status, remote_status, note FROM history
    WHERE num = (SELECT num FROM details WHERE id = :id)
) ORDER BY seq
"""


class JobsDB(ClassicMethods):
    """A record of jobs in one SQLite file, safe to use from many processes and threads at once.

    Parameters
    ----------
    db_filename
        The file. Made if it is not there; brought up to date in place if an older program made it, which can then
        still read and write it.
    busy_timeout
        Seconds to wait for another process's lock.

    Attributes
    ----------
    db_filename
        Absolute path of the file.
    columns
        Names of the columns of the ``jobs`` table.
    possible_status, status_group
        The statuses of a job, and the groups of them that filters know.

    Raises
    ------
    RecordError
        The file cannot be made or opened, is damaged, is no record, is of a newer version, or its file system has no
        working locks.
    """

    possible_status = list(states.STATUSES)
    status_group = {group: list(statuses) for group, statuses in states.GROUPS.items()}

    def __init__(self, db_filename: str | os.PathLike[str], *, busy_timeout: float = 30.0) -> None:
        self.db_filename = Path(os.path.abspath(db_filename))
        self.columns = list(COLUMNS)
        self._connections = Connections(self.db_filename, busy_timeout)
        self._connections.get()

    @property
    def db(self) -> sqlite3.Connection:
        """The connection of this thread to the file (autocommit)."""
        return self._connections.get()

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._connections.close()

    def __enter__(self) -> JobsDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_connections"):
            self._connections.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (JobsDB, (os.fspath(self.db_filename),))

    def journal(self) -> tuple[str, str]:
        """Return the journal mode in use and the type of the file system it was chosen for."""
        return self._connections.mode, self._connections.file_system

    def insert_jobs(self, rows: Sequence[NewJob]) -> dict[str, str]:
        """Put new jobs into the record, each only if no live job has its scope and key; one transaction.

        Returns
        -------
        For each new id the id that owns its scope and key: itself if it was inserted, else that of the job that was
        there first.

        Raises
        ------
        ValueError
            Ids that the record has, or statuses that do not exist; nothing was inserted.
        """
        inserting.check(rows)
        if not rows:
            return {}
        blobs = inserting.compress(rows)
        with self._connections.writing() as connection:
            return inserting.insert(connection, rows, blobs)

    def find_live(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], JobRow]:
        """Return, by (scope, key), the jobs that can still produce results; pairs without one are left out."""
        return {pair: JobRow(*row) for pair, row in self._fetch_each(_LIVE, pairs)}

    def rows(self, ids: Iterable[str]) -> dict[str, JobRow]:
        """Return jobs by id; ids that the record does not have are left out."""
        wanted = list(ids)
        # one statement for all: ten thousand jobs are looked at in every round of waiting for them
        sql = f"{SELECT} WHERE j.id IN (SELECT value FROM json_each(?))"
        with self._connections.reading() as connection:
            found = {row[0]: row for row in connection.execute(sql, (json.dumps(wanted),))}
        return {id: JobRow(*found[id]) for id in wanted if id in found}

    def _fetch_each(self, sql: str, keys: Iterable[tuple[str, ...]]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """Return the first row for each key, all seen at one moment."""
        with self._connections.reading() as connection:
            found = [(key, connection.execute(sql, key).fetchone()) for key in keys]
        return ((key, row) for key, row in found if row is not None)

    def row(self, id: str) -> JobRow:
        """Return one job.

        Raises
        ------
        JobNotFoundError
            There is none of this id.
        """
        try:
            return self.rows([id])[id]
        except KeyError:
            raise JobNotFoundError(f"the record {self.db_filename} has no job {id!r}; `xpr ls` lists them") from None

    def step(self, changes: Sequence[Change], *, force: bool = False) -> set[str]:
        """Move jobs on, all in one transaction.

        A change is made if the job has one of the statuses the change expects and the step is in
        `expyre.states.STEPS`; what another process has moved on meanwhile is left alone.

        Parameters
        ----------
        changes
            The steps.
        force
            Whether steps outside the table are made as well.

        Returns
        -------
        The ids of the jobs that were changed. A change to what is there already is none.

        Raises
        ------
        ValueError
            Statuses or fields that do not exist; nothing was changed.
        """
        stepping.check(changes)
        if not changes:
            return set()
        with self._connections.writing() as connection:
            return stepping.step(connection, changes, force=force)

    def claim_submission(
        self,
        ids: Sequence[str],
        token_of: Mapping[str, str],
        owner: str,
        *,
        expect: Collection[str] = (states.CREATED,),
    ) -> dict[str, str]:
        """Write down, before the queue hears of it, that ``owner`` is about to submit jobs.

        Parameters
        ----------
        ids
            The jobs.
        token_of
            For each the word under which the queue will know the submission.
        owner
            `owner_token` of the caller.
        expect
            Statuses from which a job may be submitted (another one to submit a job that has died again).

        Returns
        -------
        For each id ``"claimed"``: go ahead; ``"taken"``: a living process is submitting it; ``"stale"``: one that
        died may or may not have submitted it, the claim is now the caller's but ``row(id).token`` is still the old
        word, which has to be looked up in the queue and, if not found there, used for the submission; or
        ``"submitted"``: it has been.

        Raises
        ------
        JobNotFoundError
            Some are not in the record; nothing was claimed.
        """
        with self._connections.writing(durable=True) as connection:
            return submission.claim(connection, ids, token_of, owner, tuple(expect))

    def renew_submission(self, ids: Iterable[str], owner: str) -> set[str]:
        """Give a sign of life for claims; return the ids whose claim is still this owner's.

        A claim by a process on another machine counts as abandoned after ten minutes without one.
        """
        with self._connections.writing() as connection:
            return submission.renew(connection, list(ids), owner)

    def release_submission(self, ids: Iterable[str], *, owner: str | None = None, in_doubt: bool = False) -> None:
        """Give claims back.

        Parameters
        ----------
        ids
            The jobs; those that are not claimed are left alone.
        owner
            Only claims of this owner; None for any.
        in_doubt
            Whether the queue may have heard of the job: the next claim is then ``"stale"``.
        """
        with self._connections.writing() as connection:
            submission.release(connection, list(ids), owner, in_doubt)

    def parts(self, id: str) -> Identity | None:
        """Return what entered the key of a job, if it was recorded."""
        with self._connections.reading() as connection:
            return kinship.parts(connection, id)

    def nearest(self, id: str) -> tuple[JobRow, Identity] | None:
        """Return the earlier job of the same function, with another key, that differs least from a job.

        Of several the most recent; jobs put into the record together with it do not count.

        Raises
        ------
        JobNotFoundError
            There is no job of this id.
        """
        row = self.row(id)
        with self._connections.reading() as connection:
            return kinship.nearest(connection, row)

    def query(
        self,
        *,
        status: filters.Words = None,
        id: filters.Words = None,
        name: filters.Words = None,
        system: filters.Words = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[JobRow]:
        """Return the jobs that match all filters, in the order in which they were recorded.

        Parameters
        ----------
        status
            Statuses and groups of them.
        id, name, system
            Regular expressions for the whole string, any of which has to match.
        limit
            At most so many.
        newest_first
            Whether the order is reversed.

        Returns
        -------
        Iterator that reads page by page and holds no lock in between.

        Raises
        ------
        ValueError
            Unknown status or bad regular expression.
        """
        chosen = filters.where(status=status, id=id, name=name, system=system)
        rows = paging.pages(self._connections, chosen, limit=limit, newest_first=newest_first)
        return self._each(rows)

    def _each(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[JobRow]:
        """Yield rows of the record; who reads them keeps it open, which nobody else may refer to any more."""
        for row in rows:
            yield JobRow(*row)

    def counts(self) -> dict[tuple[str | None, str], int]:
        """Return how many jobs there are by (system, status)."""
        with self._connections.reading() as connection:
            found = connection.execute("SELECT system, status, count(*) FROM jobs GROUP BY system, status").fetchall()
        return {(system, status): number for system, status, number in found}

    def listing(
        self,
        *,
        statuses: Collection[str] | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        brief: bool = False,
    ) -> list[JobRow]:
        """Return jobs as `query` does, four times faster, with only what the ``jobs`` table knows of them.

        Parameters
        ----------
        statuses
            Statuses let through; None for all.
        limit, newest_first
            As for `query`.
        brief
            Leave out directories and times of creation, which take a quarter of the time.
        """
        with self._connections.reading() as connection:
            return brief_rows.read(connection, statuses, limit, newest_first, brief)

    def history(self, id: str) -> list[tuple[float, str | None, str | None, str | None]]:
        """Return what happened to a job: (seconds since 1970, status, remote status, note), oldest first.

        The first line is the job's creation; changes that older programs make are there without notes.
        """
        with self._connections.reading() as connection:
            return connection.execute(_HISTORY, {"id": id, "created": states.CREATED}).fetchall()

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Write a checked copy of the record as it is at this moment; others may go on using it.

        Raises
        ------
        RecordError
            The copy could not be made or is damaged.
        """
        rescue.copy(self.db_filename, Path(target))

    def unlock(self, *, force: bool = False) -> None:
        """Replace the file by a checked copy of itself, free of whatever locked it; keeps the old one as ``.old``.

        Parameters
        ----------
        force
            Whether this is done even though a living process holds the lock.

        Raises
        ------
        RecordError
            A process of this machine holds the lock, or no readable copy could be made; nothing was replaced.
        """
        rescue.unlock(self._connections, force)
