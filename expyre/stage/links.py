"""Files that all jobs have in common: written once beside the jobs' directories, hard-linked into each."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from expyre.stage import names

# A file without links may be one that another process is about to link.
_OLD_SECONDS = 3600.0


def link(shared: str, target: Path, content: bytes) -> None:
    """Put a file with some content into a job's directory: a link to one for all jobs, or a copy where that fails.

    Parameters
    ----------
    shared
        Path of the file for all jobs; its name says what is in it. Written if it is not there, or has too many links.
    target
        Path in the job's directory.
    content
        What is in it.
    """
    try:
        os.link(shared, target)
    except OSError:
        write(shared, content)
        try:
            os.link(shared, target)
        except OSError:
            _write_private(target, content)


def write(path: str, content: bytes) -> None:
    """Write a file so that whoever looks at it sees all of it; where there is one already, its links keep theirs."""
    temporary = f"{path}.{secrets.token_hex(4)}"
    try:
        _write_private(temporary, content)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _write_private(path: str | Path, content: bytes) -> None:
    """Write a new file that nobody else can write to, whatever the umask is: jobs run, or unpickle, what is in it."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(number, "wb") as file:
        file.write(content)


def is_whole(path: str, size: int) -> bool:
    """Return whether a file is there in its full length."""
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def remove_unused(root: Path) -> None:
    """Remove the files in common of jobs of which there is none any more."""
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(names.SHARED):
                with contextlib.suppress(OSError):
                    status = os.stat(entry.path)
                    if status.st_nlink == 1 and time.time() - status.st_mtime > _OLD_SECONDS:
                        os.unlink(entry.path)
