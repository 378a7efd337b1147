"""Files and directories of this machine as one stream for tar, in which equal files are only once."""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from expyre.transports.digests import digest

__all__ = ["Copies", "Pack"]

# Files smaller than this cost less to send again than to copy over there.
_WORTH_A_COPY = 4096
# Files of ours that no job writes to: where they are one file here they are one file there.
_NEVER_WRITTEN = ("_expyre_script_core", "_expyre_shared")
_READ = 1 << 18
_SAMPLE = 1 << 16
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Copies:
    """Files that are to be made from one that has been sent.

    Attributes
    ----------
    source
        Name of the file that has been sent.
    mode
        Permissions of the others.
    names
        Names of the others.
    parents
        Directories that have to be made for them first.
    """

    source: str
    mode: int
    names: list[str] = field(default_factory=list)
    parents: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Entry:
    name: str
    path: Path
    status: os.stat_result
    link: str = ""

    @property
    def mode(self) -> int:
        """Return permissions, for the owner only."""
        return stat.S_IMODE(self.status.st_mode) & 0o700

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)


class Pack:
    """What is to be sent.

    Parameters
    ----------
    sources
        Pairs of a local path and its name on the other side. Symbolic links are followed.

    Attributes
    ----------
    copies
        What is not in the stream but to be copied from what is.
    """

    def __init__(self, sources: Sequence[tuple[Path, str]]) -> None:
        found = [entry for path, name in sources for entry in _walk(Path(path), name, frozenset())]
        self._directories = {entry.name for entry in found if not entry.is_file}
        self._copies: dict[tuple[str, int], Copies] = {}
        self._linked: dict[tuple[int, int], str] = {}
        self._once: dict[tuple[int, bytes], str] = {}
        self._sizes = _several(entry.status.st_size for entry in found if entry.is_file)
        self._entries = [kept for entry in found if (kept := self._kept(entry)) is not None]

    @property
    def copies(self) -> list[Copies]:
        """Return what is to be copied over there."""
        return list(self._copies.values())

    def shrinks(self) -> bool:
        """Tell whether compression is worth its time, from the largest file."""
        largest = max(self._entries, key=lambda entry: entry.status.st_size * entry.is_file, default=None)
        if largest is None or not largest.is_file or largest.status.st_size < _WORTH_A_COPY:
            return True
        with largest.path.open("rb") as file:
            sample = file.read(_SAMPLE)
        return len(zlib.compress(sample, 1)) < 0.9 * len(sample)

    def chunks(self, compressed: bool) -> Iterator[bytes]:
        """Yield the stream."""
        return _gathered(_compressed(self._blocks()) if compressed else self._blocks())

    def _kept(self, entry: _Entry) -> _Entry | None:
        """Return what of an entry goes into the stream: itself, a link to one that is in it, or nothing."""
        if not entry.is_file:
            return entry
        if entry.status.st_nlink > 1 and os.path.basename(entry.name).startswith(_NEVER_WRITTEN):
            first = self._linked.setdefault((entry.status.st_dev, entry.status.st_ino), entry.name)
            return entry if first == entry.name else _Entry(entry.name, entry.path, entry.status, first)
        return None if self._is_copy(entry) else entry

    def _is_copy(self, entry: _Entry) -> bool:
        size = entry.status.st_size
        if size <= _WORTH_A_COPY or size not in self._sizes:
            return False
        first = self._once.setdefault((size, digest(entry.path, entry.status)), entry.name)
        if first == entry.name:
            return False
        copies = self._copies.setdefault((first, entry.mode), Copies(first, entry.mode))
        copies.names.append(entry.name)
        parent = os.path.dirname(entry.name)
        if parent and parent not in self._directories:
            copies.parents.add(parent)
        return True

    def _blocks(self) -> Iterator[bytes]:
        for entry in self._entries:
            yield from _file(entry) if entry.is_file and not entry.link else [_header(entry, 0)]
        yield b"\0" * (2 * _BLOCK)


def _walk(path: Path, name: str, above: frozenset[tuple[int, int]]) -> Iterator[_Entry]:
    """Yield what is there; what goes away meanwhile is not."""
    name = str(PurePosixPath(name))
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            yield _Entry(name, path, status)
        inode = (status.st_dev, status.st_ino)
        if not stat.S_ISDIR(status.st_mode) or inode in above:
            return
        children = sorted(os.listdir(path))
    except FileNotFoundError:
        return
    yield _Entry(name, path, status)
    for child in children:
        yield from _walk(path / child, f"{name}/{child}", above | {inode})


def _several(sizes: Iterable[int]) -> set[int]:
    """Return the sizes that occur more than once."""
    seen: set[int] = set()
    return {size for size in sizes if size in seen or seen.add(size)}  # type: ignore[func-returns-value]


def _header(entry: _Entry, size: int) -> bytes:
    info = tarfile.TarInfo(f"./{entry.name}")
    info.mode, info.size, info.mtime = entry.mode, size, int(entry.status.st_mtime)
    if entry.link:
        info.type, info.linkname = tarfile.LNKTYPE, f"./{entry.link}"
    elif not entry.is_file:
        info.type, info.mode = tarfile.DIRTYPE, 0o700
    # The format in which any byte may stand in a name, of any length.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _file(entry: _Entry) -> Iterator[bytes]:
    with entry.path.open("rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size
        yield _header(entry, left)
        padding = -left % _BLOCK
        while left:
            data = file.read(min(left, _READ))
            if not data:
                raise OSError(f"{entry.path} became shorter while it was read")
            left -= len(data)
            yield data
    yield b"\0" * padding


def _compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    for chunk in chunks:
        yield squeeze.compress(chunk)
    yield squeeze.flush()


def _gathered(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in fewer pieces."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        if len(held) >= _SAMPLE:
            yield bytes(held)
            held.clear()
    yield bytes(held)
