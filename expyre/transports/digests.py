"""Digests of files, each file read once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from expyre.stage.copying import origin

__all__ = ["digest"]

_KNOWN: dict[tuple[int, int, int, int], bytes] = {}
_MANY = 100_000


def digest(path: Path, status: os.stat_result) -> bytes:
    """Return the digest of a file's content; one that has not changed since is not read again.

    Parameters
    ----------
    path
        The file.
    status
        Its status.
    """
    identity = origin(status)  # copies of one file for many jobs are read once
    if identity not in _KNOWN:
        if len(_KNOWN) >= _MANY:
            _KNOWN.clear()
        _KNOWN[identity] = _read(path)
    return _KNOWN[identity]


def _read(path: Path) -> bytes:
    content = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(1 << 20):
            content.update(data)
    return content.digest()
