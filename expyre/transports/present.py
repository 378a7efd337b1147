"""Large files that are here already, as inputs of jobs are: they are not fetched again unless they have changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

__all__ = ["Present", "present"]

# Smaller ones cost less to fetch than to compare; more conditions cost more to compare than to fetch.
_WORTH_IT = 1 << 16
_MOST = 100


@dataclass(frozen=True)
class Present:
    """What a file must be like not to be fetched.

    Attributes
    ----------
    path
        Where it is in the directory of its name.
    size, mtime
        In bytes; in seconds.
    name
        The name; None for each of those that are fetched.
    """

    path: str
    size: int
    mtime: int
    name: str | None = None


def present(local_dir: Path, names: Sequence[str]) -> list[Present]:
    """Return what the large files are like that directories have here, as many as are worth it.

    Parameters
    ----------
    local_dir
        Where the directories are.
    names
        Their names.
    """
    found: dict[Present, list[str]] = {}
    for name in names:
        for file in _large_files(os.path.join(local_dir, name)):
            found.setdefault(file, []).append(name)
    flat = [(file, owners) for file, owners in found.items() if not any("/" in owner for owner in owners)]
    flat.sort(key=lambda each: -each[0].size * len(each[1]))
    return list(islice(_conditions(flat, len(names)), _MOST))


def _conditions(found: Iterable[tuple[Present, Sequence[str]]], everybody: int) -> Iterator[Present]:
    for file, owners in found:
        if len(owners) == everybody:
            yield file
        else:
            yield from (replace(file, name=owner) for owner in owners)


def _large_files(directory: str, below: str = "") -> Iterator[Present]:
    try:
        entries = list(os.scandir(os.path.join(directory, below)))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = os.path.join(below, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _large_files(directory, path)
        elif entry.is_file(follow_symlinks=False) and (status := entry.stat()).st_size >= _WORTH_IT:
            yield Present(path, status.st_size, int(status.st_mtime))
