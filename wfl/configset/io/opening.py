"""Opening files for reading, decompressed."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from wfl.configset.io.names import compression_of

if TYPE_CHECKING:
    from pathlib import Path


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, compressed or not, for reading bytes."""
    compression = compression_of(path)
    if compression is None:
        return open(path, "rb")
    return _OPENERS[compression](path)


def _gzip(path: Path) -> Any:
    import gzip

    return gzip.open(path, "rb")


def _bzip2(path: Path) -> Any:
    import bz2

    return bz2.open(path, "rb")


def _xz(path: Path) -> Any:
    import lzma

    return lzma.open(path, "rb")


def _zstd(path: Path) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        return zstd.open(path, "rb")
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        message = f"reading {path} needs Python 3.14 or the package 'zstandard'"
        raise ModuleNotFoundError(message) from None
    return zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True, closefd=True)


_OPENERS = {"gz": _gzip, "bz2": _bzip2, "xz": _xz, "zst": _zstd}
