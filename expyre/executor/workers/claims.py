"""What one executor has for itself among all executors of a user on a machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

__all__ = ["Claims"]


class Claims:
    """Claims to things of one kind, such as cores.

    A claim is a lock on a file, which the system gives up with the process. Without it, two scripts on one workstation
    would use the same few cores and GPUs and leave the others idle.

    Parameters
    ----------
    kind
        ``cores`` or ``gpus``.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._files: dict[str, Any] = {}
        self._line: Any = None
        self._waits = False

    def claim(self, name: str) -> bool:
        """Claim a thing; False if somebody else has.

        Raises
        ------
        OSError
            There is no place for the files.
        """
        file = self._open(name)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError:
            file.close()
            raise
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), str(os.getpid()).encode())
        self._files[name] = file
        return True

    def _open(self, name: str) -> Any:
        directory = os.path.join(tempfile.gettempdir(), f"expyre-{self._kind}-{os.getuid()}")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if os.lstat(directory).st_uid != os.getuid():
            raise PermissionError(f"{directory} belongs to somebody else")
        return open(os.path.join(directory, quote(name, safe="")), "ab+", buffering=0)

    def owner(self, name: str) -> str:
        """Return the id of the process that has claimed a thing; empty if not known."""
        try:
            with self._open(name) as file:
                file.seek(0)
                return str(file.read().decode())
        except OSError:
            return ""

    def release(self, names: Iterable[str] | None = None) -> None:
        """Give up some claims, or all and the place in the line."""
        for name in list(self._files) if names is None else names:
            file = self._files.pop(name, None)
            if file is not None:
                _unlock(file)  # also where a fork of this process has it open
                file.close()
        if names is None and self._line is not None:
            _unlock(self._line)
            self._line.close()
            self._line = None

    # What others have claimed they are asked for by a lock as well: all who wait share one.

    def wait_in_line(self, waits: bool) -> None:
        """Let others know that something is waited for here, or no longer."""
        if waits or self._waits:
            self._waits = waits
            self._stand()

    def others_wait(self) -> bool:
        """Return whether another executor waits for something that is claimed."""
        try:
            fcntl.flock(self._opened_line(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._stand()
        return False

    def _stand(self) -> None:
        """Hold the lock of those who wait if this one does; who looks at it in this moment makes us try later."""
        try:
            fcntl.flock(self._opened_line(), fcntl.LOCK_SH | fcntl.LOCK_NB if self._waits else fcntl.LOCK_UN)
        except OSError:
            return

    def _opened_line(self) -> Any:
        if self._line is None:
            self._line = self._open("waiting")
        return self._line


def _unlock(file: Any) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        return
