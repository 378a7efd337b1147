"""Log lines of long runs, and streams that mark their lines."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO

__all__ = ["PrefixedStream", "increment_active_iter", "print_log", "process_active_iter"]

ACTIVE_ITER = Path("ACTIVE_ITER")


def print_log(msg: str, show_time: bool = True, logfile: IO[str] | None = None) -> None:
    """Write `LOG [time: ]msg` to `logfile` (default standard output) and flush it."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S: ") if show_time else ""
    stream = sys.stdout if logfile is None else logfile
    stream.write(f"LOG {stamp}{msg}\n")
    stream.flush()


def process_active_iter(i: int | None) -> int:
    """Number of the active iteration: `i` if given, else the one in the file `ACTIVE_ITER`, which is made with 0."""
    if i is not None:
        return i
    if not ACTIVE_ITER.exists():
        ACTIVE_ITER.write_text("0\n")
    return int(ACTIVE_ITER.read_text())


def increment_active_iter(i: int) -> None:
    """Raise the number in the file `ACTIVE_ITER` to `i + 1` if the file exists and has a lower one."""
    if ACTIVE_ITER.exists() and int(ACTIVE_ITER.read_text()) < i + 1:
        ACTIVE_ITER.write_text(f"{i + 1}\n")


class PrefixedStream:
    """Text stream that puts a prefix before each line and flushes after each write.

    Parameters
    ----------
    target
        Open stream, path of a file to append to, or `"-"` for standard output.
    prefix
        Text before each line.
    """

    def __init__(self, target: IO[str] | str | Path, prefix: str = "") -> None:
        self._prefix = prefix
        self._at_line_start = True
        self._owned = isinstance(target, (str, Path)) and target != "-"
        self._stream: IO[str]
        if isinstance(target, (str, Path)):
            self._stream = open(target, "a", encoding="utf-8") if self._owned else sys.stdout  # noqa: SIM115
        else:
            self._stream = target

    def write(self, text: str) -> int:
        """Write text; every line that begins in it gets the prefix."""
        for line in text.splitlines(keepends=True):
            self._stream.write(self._prefix + line if self._at_line_start else line)
            self._at_line_start = line.endswith("\n")
        self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Do nothing: each write is flushed."""

    def close(self) -> None:
        """Close the file if this object opened it."""
        if self._owned:
            self._stream.close()

    def __enter__(self) -> PrefixedStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
