"""Facts about this side: Python, its packages, and where the record of jobs is."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from expyre.checkup.script import PACKAGES
from expyre.errors import RecordError
from expyre.jobsdb import journal

__all__ = ["Here", "look_here"]


@dataclass(frozen=True)
class Here:
    """What was found on this side.

    Attributes
    ----------
    version
        Version of Python.
    packages
        Versions of packages; ``?`` for those that tell none.
    stage_dir
        Where jobs are staged and the record is.
    kind
        Type of its file system.
    journal
        Journal that the record uses there; empty if ``EXPYRE_DB_JOURNAL`` is none.
    trouble
        Why nothing can be written there; empty if it can.
    free_kb
        What is free there; None if unknown.
    """

    version: tuple[int, ...]
    packages: Mapping[str, str] = field(default_factory=dict)
    stage_dir: Path = Path()
    kind: str = "unknown"
    journal: str = "wal"
    trouble: str = ""
    free_kb: int | None = None


def look_here(stage_dir: Path) -> Here:
    """Return the facts of this side; nothing is made that stays."""
    place = _nearest(Path(os.path.abspath(stage_dir)))
    kind = journal.file_system(place / "jobs.db")
    return Here(
        sys.version_info[:3],
        {name: version for name in PACKAGES if (version := _version(name))},
        stage_dir,
        kind,
        _journal(kind),
        _trouble(place),
        _free(place),
    )


def _nearest(path: Path) -> Path:
    return next(found for found in (path, *path.parents) if found.is_dir())


def _version(name: str) -> str:
    from importlib import metadata, util  # takes as long to import as all of this package

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return "?" if util.find_spec(name) else ""


def _journal(kind: str) -> str:
    try:
        return journal.wanted_mode(kind)
    except RecordError:
        return ""


def _trouble(place: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(65536))
    except OSError as error:
        return f"{place}: {error.strerror or error}"
    return ""


def _free(place: Path) -> int | None:
    with contextlib.suppress(OSError):
        found = os.statvfs(place)
        return found.f_bavail * found.f_frsize // 1024
    return None
