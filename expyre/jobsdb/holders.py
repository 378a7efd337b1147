"""Which processes of this machine hold locks on a file."""

from __future__ import annotations

import os
from pathlib import Path


def holders(path: Path) -> list[str]:
    """Return ``"<pid> (<command>)"`` of the processes, other than this one, that hold a lock on a record.

    Known on Linux, for processes of this machine; empty elsewhere. Files beside the record in which SQLite keeps
    locks count as well. A lock for reading of the record itself is held by everybody who has it open, and only
    shown if nobody holds one for writing.
    """
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    found = [lock for line in lines if (lock := _lock(line.split())) is not None and lock[2] in _files(path)]
    writers = {pid for kind, pid, _ in found if kind == "WRITE"}
    readers = {pid for _, pid, _ in found}
    return [_describe(pid) for pid in sorted(writers - {os.getpid()} or readers - {os.getpid()})]


def _files(path: Path) -> set[tuple[int, int]]:
    result = set()
    for name in (f"{path}", f"{path}-shm"):
        try:
            found = os.stat(name)
        except OSError:
            continue
        result.add((found.st_dev, found.st_ino))
    return result


def _lock(words: list[str]) -> tuple[str, int, tuple[int, int]] | None:
    """Return (READ or WRITE, pid, file) of a line ``1: POSIX ADVISORY WRITE 123 fd:01:456 0 EOF``."""
    if len(words) < 6 or words[1] == "->":
        return None
    major, minor, inode = words[5].split(":")
    return words[3], int(words[4]), (os.makedev(int(major, 16), int(minor, 16)), int(inode))


def _describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return str(pid)
    command = " ".join(b" ".join(words).decode(errors="replace").split())
    return f"{pid} ({command[:80]})"
