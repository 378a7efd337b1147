"""A stream of files from a host, put into place job by job; the host is not trusted with where things go."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol

from expyre.errors import TransportError
from expyre.transports.base import MARKER_PREFIX
from expyre.transports.boxes import Boxes, inner_parts

__all__ = ["Unpacker"]

_MAGIC = b"\x1f\x8b"


_PREFIX = ".expyre_fetch_"
_ABANDONED = 24 * 3600.0


class _Source(Protocol):
    def read(self, size: int = -1) -> bytes: ...


class Unpacker:
    """Takes a stream of files apart.

    Files come into a directory beside, and from there into place when all of a name's files have come; markers go
    last. What a name already has in place is merged with.

    Parameters
    ----------
    local_dir
        Where the names go.
    names
        The names that were asked for; nothing else is taken.
    exclude
        Names of files that are not taken at any depth.
    where
        The host, for messages.

    Attributes
    ----------
    delivered
        The names that are in place.
    """

    def __init__(self, local_dir: Path, names: Iterable[str], exclude: Collection[str], where: str) -> None:
        self._local_dir, self._exclude, self._where = Path(local_dir), frozenset(exclude), where
        self._names = {inner_parts(name): name for name in names}
        self._longest = max(map(len, self._names), default=0)
        self.delivered: set[str] = set()

    def take(self, source: _Source) -> None:
        """Read the stream to its end.

        Parameters
        ----------
        source
            Where it comes from, compressed or not. It raises an error of its own when it breaks off.

        Raises
        ------
        TransportError
            The stream is garbled (transient), wants to go where it must not, or cannot be written here.
        """
        plain = _Plain(source)
        try:
            if not plain.peek():
                return
            self._local_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(self._local_dir)
            with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._local_dir) as beside:
                self._take_all(Boxes(Path(beside), self._local_dir), plain)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise TransportError(f"the files from {self._where} came garbled: {error}") from error
        except OSError as error:
            message = f"cannot write what came from {self._where} into {self._local_dir}: {error}"
            raise TransportError(message, transient=False) from error

    def _take_all(self, boxes: Boxes, plain: _Plain) -> None:
        current: str | None = None
        with tarfile.open(fileobj=plain, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[call-overload]
            for member in tar:
                parts = self._checked(member)
                if parts is None:
                    continue
                name = self._owner(parts, member)
                if current not in (None, name) and not parts[-1].startswith(MARKER_PREFIX):
                    self._deliver(boxes, current)
                if not parts[-1].startswith(MARKER_PREFIX):
                    current = name
                boxes.put(name, member, tar)
        plain.finish()
        for name in boxes.names():
            self._deliver(boxes, name)

    def _deliver(self, boxes: Boxes, name: str | None) -> None:
        if name is not None:
            boxes.deliver(name)
            self.delivered.add(name)

    def _checked(self, member: tarfile.TarInfo) -> tuple[str, ...] | None:
        parts = inner_parts(member.name)
        if member.name.startswith("/") or ".." in parts or not parts or "\0" in member.name:
            raise self._refused(member.name)
        return None if parts[-1] in self._exclude else parts

    def _owner(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> str:
        for length in range(1, self._longest + 1):
            if parts[:length] in self._names:
                return self._names[parts[:length]]
        raise self._refused(member.name)

    def _refused(self, name: str) -> TransportError:
        message = f"{self._where} sent {name!r}, which was not asked for, and is not trusted: nothing more was taken"
        return TransportError(message, transient=False)


def _sweep(directory: Path) -> None:
    """Remove what scripts have left beside that were killed long ago."""
    with os.scandir(directory) as entries:
        left = [entry for entry in entries if entry.name.startswith(_PREFIX)]
    for entry in left:
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > _ABANDONED:
                shutil.rmtree(entry.path)


class _Plain:
    """The stream without its compression, which it may have or not."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._squeezed: zlib._Decompress | None = None
        self._first: memoryview | None = None

    def peek(self) -> memoryview:
        """Return some of the stream, which stays in it; nothing when it is empty."""
        if self._first is None:
            start = self._source.read()
            while len(start) == 1:
                start += self._source.read() or b"\0"
            if start.startswith(_MAGIC):
                self._squeezed = zlib.decompressobj(31)
            self._first = memoryview(self._some(start))
        return self._first

    def read(self, size: int = -1) -> bytes:
        """Return some of the stream, at most ``size`` bytes unless that is negative; nothing at its end."""
        left = self.peek() or memoryview(self._some(self._source.read()))
        # more than was asked for would be copied by tarfile for each of its blocks
        count = len(left) if size < 0 else size
        data, self._first = left[:count], left[count:]
        return bytes(data)

    def finish(self) -> None:
        """Read what follows the last file.

        Raises
        ------
        EOFError
            The compressed stream has no end.
        """
        while self.read():
            pass
        if self._squeezed is not None and not self._squeezed.eof:
            raise EOFError("the compressed stream has no end")

    def _some(self, raw: bytes) -> bytes:
        """Return what these bytes, and the next ones if they are too few, are without compression."""
        if self._squeezed is None:
            return raw
        while raw:
            if data := self._squeezed.decompress(raw):
                return data
            raw = self._source.read()
        return b""
