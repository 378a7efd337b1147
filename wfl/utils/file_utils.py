"""Directories of calculations."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = ["clean_dir"]


def clean_dir(directory: str | Path, keep_files: bool | Iterable[str] | None, force: bool = False) -> None:
    """Remove everything from a directory but the files to be kept.

    Parameters
    ----------
    directory
        Directory to clean.
    keep_files
        True keeps everything, False, None or an empty list removes the directory itself, an iterable of globs keeps
        the entries of the directory that match one of them.
    force
        Whether a directory that is not there is an error.

    Raises
    ------
    FileNotFoundError
        If the directory does not exist and `force` is set.
    ValueError
        If `keep_files` is one string, which would be taken letter by letter.
    """
    directory = Path(directory)
    if isinstance(keep_files, (str, bytes)):
        raise ValueError(f"keep_files is a list of globs or a bool, not the string {keep_files!r}")
    if not directory.exists():
        if force:
            raise FileNotFoundError(f"directory to be cleaned does not exist: {directory}")
        return
    if keep_files is True:
        return
    if not keep_files:
        shutil.rmtree(directory)
        return
    _remove_others(directory, {path for glob in keep_files for path in directory.glob(glob)})


def _remove_others(directory: Path, kept: set[Path]) -> None:
    for path in directory.iterdir():
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
