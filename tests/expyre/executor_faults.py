"""What tests let go wrong in workers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from typing import Any


def pid() -> int:
    return os.getpid()


def die(way: str, child: str = "") -> None:
    if child:
        process = subprocess.Popen(["sleep", "600"])
        with open(child, "w") as file:
            file.write(str(process.pid))
    if way == "exit":
        os._exit(7)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), getattr(signal, way))
    signal.pause()


def die_once(counts: str, number: int, dies: bool, *, always: bool = False) -> int:
    """Note that this was called, and die the first time, or each time."""
    first = not os.path.exists(counts) or str(number) not in open(counts).read().split()  # noqa: SIM115
    fd = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    if dies and (first or always):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def eat_memory() -> None:
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 1024**2, limits[1]))
    try:
        hoard = []
        while True:
            hoard.append(bytes(16 * 1024**2))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def open_everything() -> int:
    """Leave no descriptor to this process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    count = 0
    try:
        while True:
            os.dup(0)
            count += 1
    except OSError:
        return count


def stop_myself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def setup() -> dict[str, int]:
    return {"other": 10, "more": 1}


def setup_fails() -> None:
    1 / 0  # noqa: B018


def setup_no_dict() -> list[int]:
    return [1]


def setup_dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(text: str) -> None:
    raise ValueError(text)


class BadThere:
    """Can be pickled, but not be read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return refuse, ("cannot be read there",), self.data


class Bad:
    def __reduce__(self) -> Any:
        return refuse, ("cannot be read",)


class BadExit:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def bad_result() -> Any:
    return {"a": [1, threading.Lock()]}


def bad_error() -> None:
    class WithLock(Exception):
        pass

    error = WithLock("text")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


class Unreadable(Exception):
    """Cannot be made from its args."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def exhaust(kind: Any) -> None:
    raise kind("one", "two")
