"""File names as users give them: wildcards, a common root, complete messages about what is missing."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

Name = str | os.PathLike[str]


def is_name(value: object) -> bool:
    """Return whether a value is a file name."""
    return isinstance(value, (str, os.PathLike))


def under_root(name: Name, file_root: Name | None) -> Path:
    """Return the path of a name below a root.

    Raises
    ------
    ValueError
        There is a root and the name is absolute.
    """
    path = Path(name)
    if file_root is None:
        return path
    if path.is_absolute():
        raise ValueError(f"file {str(path)!r} is absolute and cannot be below file_root={str(file_root)!r}; drop one")
    return Path(file_root) / path


def expand(name: Name, file_root: Name | None = None) -> tuple[list[Path], bool]:
    """Return the files that a name stands for, sorted, and whether the name is a pattern."""
    path = under_root(name, file_root)
    if not glob.has_magic(str(path)):
        return ([path] if path.exists() else []), False
    found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if not found and path.exists():
        return [path], False
    return found, True


def expand_all(names: Iterable[Name], file_root: Name | None = None) -> list[Path]:
    """Return the files of several names, each pattern expanded in its place.

    Raises
    ------
    ValueError
        Some names match no file; all of them are listed.
    """
    result: list[Path] = []
    missing: list[str] = []
    for name in names:
        found, _ = expand(name, file_root)
        result.extend(found)
        if not found:
            missing.append(str(under_root(name, file_root)))
    if missing:
        raise ValueError(missing_message(missing))
    return result


def missing_message(names: Iterable[str]) -> str:
    """Return what to say about names that match nothing."""
    listed = ", ".join(repr(name) for name in names)
    return f"no file matches {listed} (working directory {os.getcwd()})"
