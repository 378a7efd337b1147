"""Connections to one SQLite file: one per thread, new after a fork, patient with locks, exact in its errors."""

from __future__ import annotations

import functools
import os
import random
import re
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from expyre.errors import RecordError
from expyre.jobsdb import journal, schema
from expyre.jobsdb.holders import holders

T = TypeVar("T")
_NAP: Final = 0.1
"""Seconds for which SQLite itself waits: it asks ever more rarely, and who asks rarely seldom gets a busy lock."""


@functools.lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.DOTALL)


def _regexp(pattern: str, value: object) -> bool:
    """``value REGEXP pattern`` in SQL: whether the pattern matches the whole value; NULL never matches."""
    return isinstance(value, str) and _pattern(pattern).fullmatch(value) is not None


class Connections:
    """The connections of this process to one file.

    Parameters
    ----------
    path
        The file; made (mode 0600) if it is not there.
    patience
        Seconds to wait for a lock.
    """

    def __init__(self, path: Path, patience: float = 30.0) -> None:
        self.path = path
        self.patience = patience
        self.file_system = journal.file_system(path)
        self.mode = journal.wanted_mode(self.file_system)
        self.read_only = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: dict[int, tuple[sqlite3.Connection, tuple[int, int]]] = {}
        _ALL.add(self)

    def get(self) -> sqlite3.Connection:
        """Return this thread's connection to the file that has the name now.

        Raises
        ------
        RecordError
            The file cannot be opened or is not a record.
        """
        known = self._open.get(threading.get_ident())
        if known is not None:
            if known[0].in_transaction or self._identity() == known[1]:
                return known[0]
            self._discard(threading.get_ident())
        with self._lock:
            self._prune()
            connection = self._patiently(self._connect)
            self._open[threading.get_ident()] = connection, self._identity()
        return connection

    def close(self) -> None:
        """Close all connections of this process; later use opens new ones."""
        for thread in list(self._open):
            self._discard(thread)

    def _discard(self, thread: int) -> None:
        known = self._open.pop(thread, None)
        if known is not None:
            known[0].close()

    def _prune(self) -> None:
        """Close the connections of threads that have ended."""
        living = sys._current_frames().keys()
        for thread in [thread for thread in self._open if thread not in living]:
            self._discard(thread)

    def _identity(self) -> tuple[int, int]:
        try:
            found = os.stat(self.path)
        except OSError:
            return (0, 0)
        return (found.st_dev, found.st_ino)

    def raw(self, path: Path | None = None) -> sqlite3.Connection:
        """Open a connection without looking into the file."""
        target = self.path if path is None else path
        name = f"{target.as_uri()}?mode={'ro' if self.read_only else 'rw'}{self._immutable()}"
        connection = sqlite3.connect(
            name, uri=True, timeout=_NAP, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA cache_size = -16000")  # kB: lookups by hash are spread over the whole index
        connection.create_function("REGEXP", 2, _regexp, deterministic=True)
        return connection

    def _immutable(self) -> str:
        """Return the word that lets a record without a log be read where no lock file can be made beside it."""
        log = Path(f"{self.path}-wal")
        return "&immutable=1" if self.read_only and not log.exists() else ""

    def _connect(self) -> sqlite3.Connection:
        made = self._make_file()
        connection = self.raw()
        try:
            self._set_up(connection, made)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection, made: bool) -> None:
        current = schema.is_current(connection, self.path)
        if self.read_only:
            schema.need_current(current, self.path)
            return
        if not current and not made:
            schema.check_readable(connection, self.path)
        self.mode = journal.set_mode(connection, self.mode, settled=current)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages: fewer waits for the disk in bulk
        if not current:
            journal.check_locks(self.path, self.file_system, self.raw)
            schema.upgrade(connection, self.path)

    def _make_file(self) -> bool:
        """Make an empty file that only its owner can read, unless there is one; find out if it can be written."""
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            self.read_only = not (os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK))
            return os.path.getsize(self.path) == 0
        except OSError as error:
            raise RecordError(f"the record {self.path} cannot be made: {error.strerror}") from error
        return True

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Run a block as one transaction that has the write lock from its start.

        Parameters
        ----------
        durable
            Whether the change has to survive a power failure once the block has ended.

        Raises
        ------
        RecordError
            The lock could not be had, or SQLite failed; nothing of the block was then written.
        """
        connection = self._begin(durable)
        try:
            yield connection
            self._patiently(lambda: connection.execute("COMMIT"))
        except sqlite3.DatabaseError as error:
            self._rollback(connection)
            raise self.explained(error) from error
        except BaseException:
            self._rollback(connection)
            raise
        finally:
            if durable:
                connection.execute("PRAGMA synchronous = NORMAL")

    def _begin(self, durable: bool) -> sqlite3.Connection:
        """Lock the file that has the name now: it may have been replaced while this waited for the lock."""
        while True:
            connection = self.get()
            if self.read_only:
                raise RecordError(f"the record {self.path} can only be read: it or its directory is write-protected")
            if durable:
                connection.execute("PRAGMA synchronous = FULL")
            self._patiently(lambda now=connection: now.execute("BEGIN IMMEDIATE"))  # type: ignore[misc]
            if self._open[threading.get_ident()][1] == self._identity():
                return connection
            connection.rollback()

    @staticmethod
    def _rollback(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.rollback()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Run a block of reads that all see the same state; one lock for all of them.

        Raises
        ------
        RecordError
            The file cannot be read.
        """
        connection = self.get()
        outermost = not connection.in_transaction
        try:
            if outermost:
                self._patiently(lambda: _begin_reading(connection))
            yield connection
        except sqlite3.DatabaseError as error:
            raise self.explained(error) from error
        finally:
            if outermost:
                self._rollback(connection)

    def _patiently(self, call: Callable[[], T]) -> T:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return call()
            except sqlite3.DatabaseError as error:
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise self.explained(error) from error
                time.sleep(random.uniform(0.0, 0.01))

    def explained(self, error: sqlite3.DatabaseError) -> RecordError:
        """Return the error to raise for one of SQLite: the file, what happened, the way out."""
        if _is_busy(error):
            return RecordError(self._locked(error))
        if "readonly" in str(error):
            return RecordError(f"the record {self.path} can only be read: {error}")
        if isinstance(error, sqlite3.OperationalError):
            return RecordError(f"the record {self.path}: {error} (file system {self.file_system}, journal {self.mode})")
        return RecordError(
            f"the record {self.path} is damaged or is not a record of jobs: {error}. `xpr db_unlock` tries to save a "
            "readable copy; if that fails, move the file away: the jobs' directories beside it are not touched"
        )

    def _locked(self, error: sqlite3.DatabaseError) -> str:
        found = [f"process {who}" for who in holders(self.path)]
        who = f"it is in use by {', '.join(found)}" if found else "who holds the lock cannot be seen from this machine"
        return (
            f"the record {self.path} stayed locked for {self.patience:.0f} s ({error}); {who}. Let that finish or stop "
            "it; if nothing that uses the record is running any more, `xpr db_unlock` frees it"
        )

    def leave_to_parent(self) -> None:
        """Forget the connections that were opened before a fork, without closing them.

        SQLite allows neither their use nor their closing in the child; a reference that is never given back keeps
        the interpreter from closing them when it ends.
        """
        if self._pid == os.getpid():
            return
        inherited, self._open = self._open, {}
        self._pid, self._lock = os.getpid(), threading.Lock()
        for connection, _ in inherited.values():
            _never_free(connection)


def _begin_reading(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT 1 FROM jobs LIMIT 1").fetchone()
    except BaseException:
        connection.rollback()
        raise


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "locking protocol" in str(error))


def _never_free(thing: Any) -> None:
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_ALL: weakref.WeakSet[Connections] = weakref.WeakSet()


def _after_fork() -> None:
    for connections in list(_ALL):
        connections.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
