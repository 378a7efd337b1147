"""What calculators that run in directories share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wfl.utils.file_utils import clean_dir

__all__ = ["clean_rundir"]


def clean_rundir(
    rundir: str | Path,
    keep_files: bool | str | Iterable[str] | None,
    default_keep_files: Iterable[str],
    calculation_succeeded: bool,
) -> None:
    """Clean the directory a calculation ran in.

    Parameters
    ----------
    rundir
        The directory.
    keep_files
        True or `"*"` keeps all; None and False keep nothing; `"default"` keeps `default_keep_files`; a list of globs
        keeps what matches. After a failure the default files are kept as well in any case.
    default_keep_files
        Globs of the files from which the results, or the reason of a failure, can be read.
    calculation_succeeded
        Whether the calculation gave results.

    Raises
    ------
    ValueError
        If `keep_files` is another string.
    """
    default = list(default_keep_files)
    keep = _globs(keep_files, default)
    if not calculation_succeeded and not isinstance(keep, bool):
        keep = [*keep, *default]
    clean_dir(rundir, keep)


def _globs(keep_files: bool | str | Iterable[str] | None, default: list[str]) -> bool | list[str]:
    if keep_files is True:
        return True
    if keep_files is None or keep_files is False:
        return []
    if isinstance(keep_files, str):
        if keep_files == "default":
            return default
        if keep_files == "*":
            return True
        raise ValueError(f"keep_files is True, False, None, '*', 'default' or a list of globs, not {keep_files!r}")
    return list(keep_files)
