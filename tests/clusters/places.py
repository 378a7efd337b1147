"""Directories for daemons that tests start: who owns one, and the end of the daemons when the owner is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_ENOUGH = 512 * 2**20
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def base() -> Path:
    """Return the directory of all places of this user; in memory where there is room."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and shutil.disk_usage(memory).free > _ENOUGH else Path(tempfile.gettempdir())
    path = parent / f"wfl-tests-{os.getuid()}"
    path.mkdir(mode=0o755, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else")
    return path


class Place:
    """A directory whose daemons do not outlive the process that made it.

    Parameters
    ----------
    name
        What the place is for.
    stop
        Command that stops the daemons in the directory that follows; run by `close`, or by a watcher once this process
        is gone, however it ended.
    """

    def __init__(self, name: str, stop: list[str]) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base()))
        self.path.chmod(0o755)
        self._command = [*stop, str(self.path)]
        self._lock = _locked(_lock_file(self.path))
        (self.path / "stop").write_text("\0".join(self._command))
        # the lock is free when the last process that has it open is gone
        self.watcher = subprocess.Popen(
            ["flock", str(_lock_file(self.path)), "bash", "-c", _CLEAN_UP, "bash", str(self.path), *self._command],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """Stop the daemons and remove the directory."""
        if not self._lock.closed:
            _clean_up(self.path, self._command)
            self._lock.close()
            self.watcher.wait()


_CLEAN_UP = '[ -d "$1" ] && "${@:2}"; rm -rf "$1" "$1.lock"'


def _clean_up(path: Path, stop: list[str]) -> None:
    subprocess.run(stop, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(path, ignore_errors=True)


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _locked(path: Path) -> IO[str]:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def sweep() -> None:
    """Stop what sessions have left that were killed together with their watchers."""
    for path in [path for path in base().iterdir() if (path / "stop").is_file()]:
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(_lock_file(path)):
            _clean_up(path, (path / "stop").read_text().split("\0"))
            _lock_file(path).unlink(missing_ok=True)


@contextlib.contextmanager
def free_ports(count: int, place: Place | None = None) -> Iterator[int]:
    """Give the first of some free ports in a row; no other test looks for ports until the block ends.

    They belong to a place as long as it exists, also while its daemons are stopped.
    """
    with (base() / "ports").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        taken = _taken()
        low, high = port_range()
        for _ in range(200):
            first = random.randrange(low, high - count)
            ports = range(first, first + count)
            if taken.isdisjoint(ports) and all(_is_free(port) for port in ports):
                if place is not None:
                    (place.path / "ports").write_text(f"{first} {count}")
                yield first
                return
        raise OSError(f"no {count} free ports in a row")


def port_range(file: Path = _RANGE) -> tuple[int, int]:
    """Return the first port for daemons, and the one after the last: none that the system gives to anybody who asks."""
    try:
        low, high = map(int, file.read_text().split())
    except (OSError, ValueError):
        low, high = 32768, 60999
    gaps = ((max(10000, low - 12000), low), (high + 1, 65536))
    widest = max(gaps, key=lambda gap: gap[1] - gap[0])
    return widest if widest[1] - widest[0] >= 1000 else (20000, 30000)  # the system gives away all of them


def _taken() -> set[int]:
    """Return the ports of all places."""
    taken: set[int] = set()
    for path in base().glob("*/ports"):
        with contextlib.suppress(OSError, ValueError):
            first, count = map(int, path.read_text().split())
            taken |= set(range(first, first + count))
    return taken


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
