"""Input files of a call: names and contents."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Final

from expyre.errors import RequestError

_BLOCK: Final = 1 << 20
# A file changed this recently (ns) may change again without its time stamp moving.
_SETTLED: Final = 2_000_000_000
_known: dict[tuple[str, int, int, int, int, int], bytes] = {}


@dataclass(frozen=True)
class FileDigest:
    """A file that enters a key: the name it goes by, the digest of its content, its size in bytes."""

    name: str
    digest: bytes
    size: int


def digest_files(patterns: Sequence[str | os.PathLike[str]], root: Path | None) -> list[FileDigest]:
    """Return every file that names, globs and directories stand for, in order of the patterns, then of names.

    Raises
    ------
    RequestError
        Some patterns match nothing, or a file cannot be read; all of them are named.
    """
    base = Path.cwd() if root is None else Path(root)
    found: dict[str, FileDigest] = {}
    mistakes: list[str] = []
    for pattern in patterns:
        try:
            matches = list(_matches(os.path.normpath(pattern), base))
            found.update((name, _digest_entry(name, path)) for name, path in matches)
        except OSError as error:
            mistakes.append(f"input file {os.fspath(pattern)!r} cannot be read: {error}")
            continue
        if not matches:
            mistakes.append(f"input file {os.fspath(pattern)!r} matches nothing in {base}")
    if mistakes:
        raise RequestError("; ".join(mistakes))
    return list(found.values())


def _matches(pattern: str, base: Path) -> Iterator[tuple[str, Path]]:
    names = [pattern] if os.path.lexists(base / pattern) or not has_magic(pattern) else _expand(pattern, base)
    for name in names:
        path = base / name
        if path.is_dir():
            yield from _inside(name.rstrip("/"), path, ())
        elif path.exists() or path.is_symlink():
            yield name, path


def _expand(pattern: str, base: Path) -> list[str]:
    return sorted(glob(pattern, root_dir=base, recursive=True))


def _inside(name: str, path: Path, above: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    real = os.path.realpath(path)
    if real in above:
        return
    yield f"{name}/", path
    for entry in sorted(os.listdir(path)):
        inner = path / entry
        if inner.is_dir():
            yield from _inside(f"{name}/{entry}", inner, (*above, real))
        else:
            yield f"{name}/{entry}", inner


def _digest_entry(name: str, path: Path) -> FileDigest:
    if name.endswith("/"):
        return FileDigest(name, hashlib.sha256(b"directory").digest(), 0)
    return FileDigest(name, digest_file(path), path.stat().st_size)


def digest_file(path: Path) -> bytes:
    """Return the digest (32 bytes) of a file's content, from memory if the file has not changed since.

    Raises
    ------
    OSError
        It cannot be read.
    """
    info = path.stat()
    key = (str(path), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    digest = _known.get(key)
    if digest is None:
        digest = _read(path)
        if time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) > _SETTLED:
            if len(_known) > 100_000:
                _known.clear()
            _known[key] = digest
    return digest


def _read(path: Path) -> bytes:
    total = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for block in iter(functools.partial(file.read, _BLOCK), b""):
            total.update(block)
    return total.digest()
