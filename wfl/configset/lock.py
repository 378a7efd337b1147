"""The lock of a writer beside its file: tells two writers of one output apart, and a live one from a dead one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from expyre.owners import owner_alive, owner_token
from wfl.configset.errors import OutputBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["WriterLock"]

# A lock of another machine, whose processes cannot be seen, is believed for this many seconds after its last sign.
FOREIGN_LIFETIME = 24 * 3600.0

# The locks held by this process, by token: an object that is gone holds none, whatever its file says.
_held: weakref.WeakValueDictionary[str, WriterLock] = weakref.WeakValueDictionary()


class WriterLock:
    """A lock file that names its owner: the process, and the writer within the process.

    Parameters
    ----------
    path
        The lock file.
    subject
        The output it protects, for messages.
    """

    def __init__(self, path: Path, subject: Path) -> None:
        self.path = path
        self.subject = subject
        self.token = uuid.uuid4().hex
        self._pid = 0

    def acquire(self) -> None:
        """Take the lock, also from an owner that is dead.

        Raises
        ------
        OutputBusyError
            A live writer holds it.
        """
        with self._exclusive() as file:
            owner = _read_owner(file)
            if owner and self._is_alive(owner):
                raise OutputBusyError(self._busy_message(owner))
            _write_owner(file, self._identity())
        self._pid = os.getpid()
        _held[self.token] = self

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held, or held by the parent of a forked process."""
        if self._pid != os.getpid():
            return
        self._pid = 0
        _held.pop(self.token, None)
        with contextlib.suppress(FileNotFoundError), self._exclusive(create=False) as file:
            if _read_owner(file).get("token") == self.token:
                os.unlink(self.path)

    def refresh(self) -> None:
        """Leave a sign of life for other machines."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def _identity(self) -> dict[str, Any]:
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        return {**who, "owner": owner_token(), "token": self.token}

    def _is_alive(self, owner: dict[str, Any]) -> bool:
        word = str(owner.get("owner", ""))
        if not owner_alive(word, os.stat(self.path).st_mtime, lease=FOREIGN_LIFETIME):
            return False
        return word != owner_token() or owner.get("token") in _held

    def _busy_message(self, owner: dict[str, Any]) -> str:
        where = f"process {owner.get('pid')} on host {owner.get('host')}"
        if owner.get("pid") == os.getpid() and owner.get("host") == socket.gethostname():
            where += " (this process: close() the other OutputSpec first)"
        return (
            f"{self.subject} is being written by {where}; wait for it, write to another file, or, if that process is"
            f" gone, remove {self.path}"
        )

    @contextlib.contextmanager
    def _exclusive(self, *, create: bool = True) -> Iterator[int]:
        """Open the lock file so that nobody else reads or changes it meanwhile."""
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        while True:
            file = os.open(self.path, flags, 0o644)
            try:
                _flock(file)
                if _is_still(file, self.path):
                    yield file
                    return
            finally:
                os.close(file)


def _flock(file: int) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass  # a file system without locks: the file's content alone must do


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _read_owner(file: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(file, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _write_owner(file: int, owner: dict[str, Any]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(owner).encode(), 0)
