"""Bytes on their way into a file, plain or compressed, without buffers that a forked process could write again."""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Sink"]

_FLUSH_AT = 1 << 18


class Sink:
    """Appends bytes to a file; a compressed one becomes a series of members that decompress as one.

    Parameters
    ----------
    path
        The file.
    compression
        None, ``gz``, ``bz2``, ``xz`` or ``zst``.
    resume
        Append to what is there instead of starting anew.
    """

    def __init__(self, path: Path, compression: str | None, *, resume: bool) -> None:
        self._new_member = _compressor_maker(compression)
        self._member: Any = None
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._broken: OSError | None = None  # part of what was written is lost
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if resume else os.O_TRUNC)
        self._file = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._written = os.fstat(self._file).st_size

    @property
    def offset(self) -> int:
        """Bytes of the file when all that was written arrives; -1 within a compressed member."""
        return self._written + self._waiting if self._member is None else -1

    def write(self, data: bytes) -> None:
        """Append bytes."""
        if self._new_member is not None:
            if self._member is None:
                self._member = self._new_member()
            data = self._member.compress(data)
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting >= _FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system, except for what an unfinished compressed member holds back."""
        if self._broken:
            raise self._broken
        data = memoryview(b"".join(self._pieces))
        self._pieces, self._waiting = [], 0
        try:
            while data:
                count = os.write(self._file, data)
                self._written += count
                data = data[count:]
        except OSError as error:
            self._broken = error
            raise

    def boundary(self) -> int:
        """Finish the compressed member, hand everything to the operating system, and return the bytes of the file."""
        if self._member is not None:
            data = self._member.flush()
            self._member = None
            self._pieces.append(data)
            self._waiting += len(data)
        self.flush()
        return self._written

    def close(self) -> None:
        """Finish and close; can be repeated."""
        if self._file < 0:
            return
        try:
            if self._new_member is not None and self._member is None and self.offset == 0:
                self.write(b"")  # an empty file is not a compressed one
            self.boundary()
        finally:
            os.close(self._file)
            self._file = -1


def _compressor_maker(compression: str | None) -> Callable[[], Any] | None:
    if compression is None:
        return None
    if compression == "zst":
        return _zstd_maker()
    makers: dict[str, Callable[[], Any]] = {
        "gz": lambda: zlib.compressobj(6, zlib.DEFLATED, 31),
        "bz2": bz2.BZ2Compressor,
        "xz": lzma.LZMACompressor,
    }
    return makers[compression]


def _zstd_maker() -> Callable[[], Any]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        return zstd.ZstdCompressor  # type: ignore[no-any-return,unused-ignore]
    import_error = "writing .zst files needs Python 3.14 or the package 'zstandard'; use .gz, .bz2 or .xz"
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ModuleNotFoundError(import_error) from None
    return lambda: zstandard.ZstdCompressor().compressobj()
