"""Results that are there before those of the items before them: kept in a file, so that a crash does not cost them.

Outputs are written in the order of the input. When one chunk takes much longer than those after it, or its worker
has died, the results after it wait; the file beside the output keeps them for the next run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["Ahead"]

_log = logging.getLogger(__name__)



class Ahead:
    """The file of results that wait, and what an interrupted run has left in it.

    The file is private to the user, and not read if it is not, since it is a series of pickles.

    Parameters
    ----------
    path
        The file; made when the first result is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._call = ""
        self._file: IO[bytes] | None = None
        self._known: dict[int, tuple[bytes, Any]] = {}

    def load(self, call: str) -> None:
        """Read what an interrupted run of the same call has left, up to the first damaged record."""
        self._call = call
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
                    _log.warning("%s is not read: others could have written it", self._path)
                elif self._read(file):
                    return
        except FileNotFoundError:
            return
        self.close(remove=True)

    def _read(self, file: IO[bytes]) -> bool:
        """Read results; return whether they are of this call."""
        with contextlib.suppress(EOFError, pickle.UnpicklingError, AttributeError, ImportError, ValueError, TypeError):
            if pickle.load(file) != self._call:
                return False
            while True:
                first, digests, results = pickle.load(file)
                for i, (digest, result) in enumerate(zip(digests, results, strict=True), first):
                    self._known[i] = (digest, result)
        return True

    def check(self, index: int, digest: bytes) -> None:
        """Forget the result of an item if the item is not what it was."""
        if index in self._known and self._known[index][0] != digest:
            del self._known[index]

    def has(self, index: int) -> bool:
        """Return whether the result of an item is there."""
        return index in self._known

    def pop(self, index: int) -> Any:
        """Return the result of an item, and forget it."""
        return self._known.pop(index)[1]

    def keep(self, first: int, digests: Sequence[bytes], results: Sequence[Any]) -> None:
        """Append the results of consecutive items."""
        try:
            data = pickle.dumps((first, list(digests), list(results)), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            _log.info("results of %d items after number %d are not kept for a next run: %s", len(results), first, error)
            return
        if self._file is None:
            self._file = self._open()
        self._file.write(data)
        self._file.flush()

    def _open(self) -> IO[bytes]:
        file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
        if os.fstat(file.fileno()).st_size == 0:
            file.write(pickle.dumps(self._call))
        return file

    def close(self, *, remove: bool) -> None:
        """Close the file, and with ``remove`` delete it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove:
            self._known.clear()
            self._path.unlink(missing_ok=True)
