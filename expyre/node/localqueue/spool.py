"""The spool directory: the table of jobs, how to wake the supervisor, how to start it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

DIRECTORY_VARIABLE = "EXPYRE_LOCAL_DIR"
JOB_VARIABLE = "EXPYRE_LOCAL_JOB"
QUEUED, HELD, RUNNING, DONE = "queued", "held", "running", "done"
KEEP_DAYS = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE, name TEXT NOT NULL, directory TEXT NOT NULL,
    command TEXT NOT NULL, environment TEXT NOT NULL, cores INTEGER NOT NULL, mem INTEGER NOT NULL,
    gpus INTEGER NOT NULL, max_time REAL, partition TEXT NOT NULL, cap INTEGER, grace REAL NOT NULL,
    state TEXT NOT NULL, boot TEXT, pid INTEGER, pid_start TEXT, gpu_ids TEXT, kill TEXT, kill_detail TEXT,
    t_submit REAL, t_start REAL, t_end REAL, exit_code INTEGER, reason TEXT, detail TEXT);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, id);
CREATE TABLE IF NOT EXISTS environments (digest TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# Where shared memory between hosts is not what SQLite needs for its write-ahead log.
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "panfs", "orangefs", "gfs2")
_PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
from expyre_node.localqueue.supervisor import main
main(sys.argv[2], int(sys.argv[3]))
"""
# The shell returns at once and leaves the supervisor without a parent; $0 is its log.
_DETACH = '"$@" >> "$0" 2>&1 < /dev/null &'


def default_directory() -> Path:
    """Return the spool directory of this user on this machine: ``EXPYRE_LOCAL_DIR``, else one below the home."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state) / "expyre" / f"local-{socket.gethostname()}"


class Spool:
    """A spool directory, made (mode 0700) when it is first needed.

    Parameters
    ----------
    directory
        Where; None for the one of this user on this machine.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(directory) if directory is not None else default_directory()
        self.fifo = self.path / "wake"
        self.log = self.path / "supervisor.log"
        self.leaving = self.path / "leaving"
        self.exits = self.path / "exits"

    @property
    def mark(self) -> str:
        """What tells this spool's jobs from those of others in the environment of a process."""
        return hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]

    @contextlib.contextmanager
    def connect(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the table for one use.

        Parameters
        ----------
        durable
            Make each transaction survive a loss of power.
        """
        connection = self.open()
        if durable:
            connection.execute("PRAGMA synchronous = FULL")
        try:
            yield connection
        finally:
            connection.close()

    def open(self) -> sqlite3.Connection:
        """Return a new connection; makes directory and tables where they are missing."""
        path = self.path / "queue.db"
        new = not path.exists()
        if new:
            self.exits.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self.path, 0o700)
        _refuse_foreign(self.path)
        connection = sqlite3.connect(os.fspath(path), timeout=30.0, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            self._set_up(connection, new)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection, new: bool) -> None:
        if on_network(self.path):
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = FULL")
        else:
            if new:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        if new or not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            self._create(connection)

    def _create(self, connection: sqlite3.Connection) -> None:
        os.chmod(self.path / "queue.db", 0o600)
        with transaction(connection):
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            # Ids go on from the clock: those of a spool that was deleted must not come back as other jobs.
            if not connection.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'jobs'").fetchone():
                start = int(time.time() - 1_700_000_000)
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", [start])

    def wake(self, word: bytes = b"w") -> bool:
        """Make the supervisor look at the table; False if there is no supervisor."""
        try:
            number = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in (errno.ENXIO, errno.ENOENT):
                return False
            raise
        try:
            if word:
                os.write(number, word)
        except (BlockingIOError, BrokenPipeError):
            pass  # full: it will wake up anyway; broken: it is going away and has looked after us
        finally:
            os.close(number)
        return True

    def ensure_supervisor(self, *, wake: bool = True) -> None:
        """Wake the supervisor (or with ``wake`` False only see that it is there), or start one.

        Whoever starts a supervisor holds its lock already and hands it down, so that only one is started however many
        want one. Where the lock is taken and nobody listens, a supervisor is on its way up, and will look at the table
        after that, or it is leaving: then its lock will be free in a moment.
        """
        for _ in range(400):
            if self.wake(b"w" if wake else b""):
                return
            lock = self.lock()
            if lock is not None:
                try:
                    self._start_supervisor(lock)
                finally:
                    os.close(lock)
                return
            if not self.leaving.exists():
                return
            time.sleep(0.005)

    def lock(self) -> int | None:
        """Return the open and locked file that makes its holder the only supervisor; None if somebody has it."""
        number = os.open(self.path / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(number)
            if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        return number

    def _start_supervisor(self, lock: int) -> None:
        """Start a supervisor in a session of its own, without a parent.

        It runs from a copy of this package, with the plain interpreter: neither a change of the sources, nor the
        packages and variables of a virtual environment reach it.
        """
        self.leaving.unlink(missing_ok=True)
        words = [sys.executable or "python3", "-I", "-S", "-c", _PROGRAM, os.fspath(self._code()), os.fspath(self.path)]
        words.append(str(lock))
        not_for_it = (JOB_VARIABLE, "EXPYRE_KILL_AT")
        environment = {name: value for name, value in os.environ.items() if name not in not_for_it}
        command = ["/bin/sh", "-c", _DETACH, os.fspath(self.log), *words]
        subprocess.run(command, env=environment, cwd="/", start_new_session=True, pass_fds=[lock], check=True)

    def _code(self) -> Path:
        """Return the directory with the copy of this package, writing it if it is not there."""
        files = sources()
        digest = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:12]
        directory = self.path / f"code-{digest}"
        if not directory.exists():
            temporary = self.path / f".code-{digest}-{os.getpid()}"
            for name, text in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_text(text, "utf-8")
            with contextlib.suppress(OSError):  # somebody else was faster
                os.rename(temporary, directory)
        return directory


def sources() -> dict[str, str]:
    """Return the files that the queue consists of, to be written on another host or beside the spool."""
    here = Path(__file__).parent
    files = {f"expyre_node/localqueue/{path.name}": path.read_text("utf-8") for path in sorted(here.glob("*.py"))}
    files["expyre_node/machine.py"] = (here.parent / "machine.py").read_text("utf-8")
    files["expyre_node/__init__.py"] = ""
    return files


def _refuse_foreign(path: Path) -> None:
    """Refuse a directory into which others could put jobs that this user would run."""
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path} must belong to you and be writable by nobody else (chmod 700)")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@lru_cache(maxsize=16)
def on_network(path: Path, mounts: str = "/proc/self/mounts") -> bool:
    """Return whether a directory is on a file system that other hosts see too."""
    best, kind = "", ""
    real = os.path.realpath(path)
    try:
        with open(mounts) as file:
            lines = [line.split() for line in file]
    except OSError:
        return False
    for line in lines:
        point = line[1].replace("\\040", " ")
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, line[2]
    return kind.startswith(_NETWORK)


def save_environment(connection: sqlite3.Connection, environment: Mapping[str, str], umask: int, stack: str) -> str:
    """Store an environment, once for all jobs that share it, and return its digest."""
    value: dict[str, Any] = {"env": dict(environment), "umask": umask, "stack": stack}
    text = json.dumps(value, sort_keys=True).encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(text).hexdigest()
    row = [digest, zlib.compress(text, 1)]
    connection.execute("INSERT OR IGNORE INTO environments (digest, value) VALUES (?, ?)", row)
    return digest


def load_environment(connection: sqlite3.Connection, digest: str) -> dict[str, Any]:
    """Return a stored environment: ``env``, ``umask``, ``stack`` (soft limit in kB or ``unlimited``)."""
    row = connection.execute("SELECT value FROM environments WHERE digest = ?", [digest]).fetchone()
    value: dict[str, Any] = json.loads(zlib.decompress(row[0]))
    return value
