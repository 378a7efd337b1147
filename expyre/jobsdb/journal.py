"""Which journal a record's file system can bear, and whether its locks work.

The write-ahead log lets readers and a writer work side by side, but needs memory shared by all processes, which a
network file system does not give; there a rollback journal is used.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from expyre.errors import RecordError

MODES: Final = ("wal", "truncate", "delete", "persist")
NETWORK: Final = re.compile(
    r"nfs\d*|lustre\w*|gpfs|beegfs\w*|cifs|smb\w*|fuse\..*|afs|openafs|ceph|glusterfs|panfs|pvfs2|orangefs|dvs|"
    r"wekafs|quobyte|acfs|ocfs2|gfs2|9p|virtiofs|vboxsf|prl_fs|drvfs|coda|ncpfs|xtreemfs|moosefs"
)


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system a path is on, as the kernel calls it (``ext4``, ``nfs4``…).

    Parameters
    ----------
    path
        File, which need not exist yet, in a directory.
    mounts
        Text of ``/proc/mounts``; read from there if None.

    Returns
    -------
    ``"unknown"`` where the system does not tell.
    """
    folder = os.path.realpath(path.parent)
    try:
        os.stat(folder)  # mounts what is mounted on demand
        text = Path("/proc/mounts").read_text(errors="surrogateescape") if mounts is None else mounts
    except OSError:
        return "unknown"
    best, kind = "", "unknown"
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) >= 3 and _holds(point := _unescape(words[1]), folder) and len(point) >= len(best):
            best, kind = point, words[2]
    return kind


def _unescape(word: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), word)


def _holds(point: str, folder: str) -> bool:
    return folder == point or folder.startswith(point.rstrip("/") + "/")


def is_network(kind: str) -> bool:
    """Return whether a type of file system is shared between machines."""
    return NETWORK.fullmatch(kind) is not None


def wanted_mode(kind: str) -> str:
    """Return the journal mode for a type of file system; ``EXPYRE_DB_JOURNAL`` overrides.

    Raises
    ------
    RecordError
        ``EXPYRE_DB_JOURNAL`` is not a journal mode.
    """
    word = os.environ.get("EXPYRE_DB_JOURNAL", "").strip().lower()
    if word and word not in MODES:
        raise RecordError(f"EXPYRE_DB_JOURNAL={word!r} is not a journal mode; it can be {', '.join(MODES)}")
    return word or ("truncate" if is_network(kind) else "wal")


def set_mode(connection: sqlite3.Connection, mode: str, *, settled: bool = False) -> str:
    """Set the journal mode of a connection where it differs, and return the one that holds.

    A file that is ``settled`` without a write-ahead log gets none unless ``EXPYRE_DB_JOURNAL`` says so: the machine
    that has the disk and those that reach it over the network would else change it back and forth.
    """
    now = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    if settled and now != "wal" and mode == "wal" and not os.environ.get("EXPYRE_DB_JOURNAL"):
        mode = "truncate"
    if now != mode:
        now = str(connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0])
    if mode == "wal" and now != "wal":
        now = str(connection.execute("PRAGMA journal_mode = truncate").fetchone()[0])
    return now


_OTHER_PROCESS: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    print("locked" if "locked" in str(error) else error)
else:
    connection.rollback()
    print("not locked")
connection.close()
"""


def check_locks(path: Path, kind: str, connect: Callable[[Path], sqlite3.Connection]) -> None:
    """Make sure that one writer locks out another.

    On a network file system the other one is a process of its own, because locks within one process say nothing
    about the server.

    Raises
    ------
    RecordError
        It does not; says what to do.
    """
    first = connect(path)
    try:
        first.execute("BEGIN IMMEDIATE")
        answer = _from_another_process(path) if is_network(kind) else _from_here(connect(path))
        first.rollback()
    except sqlite3.OperationalError as error:
        answer = "locked" if "locked" in str(error) else str(error)
    finally:
        first.close()
    if answer != "locked":
        raise RecordError(
            f"{path}: file locks do not work here (file system {kind}: {answer}), so two processes could damage the "
            "record. Put it on another file system (configuration key local_stage_dir), or have this one mounted "
            "with locks (Lustre: option flock; NFS: a lock service)"
        )


def _from_here(second: sqlite3.Connection) -> str:
    try:
        second.execute("PRAGMA busy_timeout = 0")
        second.execute("BEGIN IMMEDIATE")
        second.rollback()
    except sqlite3.OperationalError as error:
        return "locked" if "locked" in str(error) else str(error)
    else:
        return "a second writer was let in"
    finally:
        second.close()


def _from_another_process(path: Path) -> str:
    command = [sys.executable, "-S", "-E", "-c", _OTHER_PROCESS, os.fspath(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1] if lines else f"test process ended with {done.returncode}"
