"""Bring output files back, empty a job's directory of what is large, make it ready to run again."""

from __future__ import annotations

import os
from pathlib import Path

from expyre.errors import RequestError, StageError
from expyre.stage import names
from expyre.stage.commands import read_list
from expyre.stage.copying import copy_glob


def copy_outputs(directory: str | Path, target: str | Path) -> list[str]:
    """Copy the output files of a job into another directory and return the globs that match nothing."""
    missing = []
    for file_glob in read_list(directory, names.OUTPUT_FILES):
        try:
            copy_glob(directory, target, file_glob)
        except RequestError:
            missing.append(file_glob)
    return missing


def clean(directory: str | Path) -> None:
    """Overwrite the large files of a job with a word, remove those in common with others, leave a marker of that.

    Raises
    ------
    StageError
        A file cannot be written.
    """
    path = Path(directory)
    if not path.is_dir():
        return
    try:
        for name in names.LARGE_FILES:
            if os.path.lexists(path / name):
                (path / name).unlink()  # it may be a link to something that is to stay as it is
                (path / name).write_text("CLEANED\n", "ascii")
        for name in shared_files(path):
            (path / name).unlink()  # other jobs have the same file
        (path / names.CLEANED).touch()
    except OSError as exc:
        raise StageError(f"cannot clean {path}: {exc.strerror or exc} ({exc.filename})") from exc


def shared_files(directory: str | Path) -> list[str]:
    """Return the names of the files in a job's directory that other jobs have as well."""
    try:
        return sorted(name for name in os.listdir(directory) if name.startswith(names.SHARED))
    except FileNotFoundError:
        return []


def reset(directory: str | Path) -> None:
    """Remove what a run has left in a job's directory, except the files of the user's function."""
    for name in names.OF_A_RUN:
        Path(directory, name).unlink(missing_ok=True)
