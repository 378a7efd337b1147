"""Functions that tests of the Executor call in other processes, which import little for them."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Mine(Exception):
    pass


class Result:
    pass


def add(one: int, other: int = 1) -> int:
    return one + other


def fail(text: str) -> None:
    raise Mine(text)


def fail_at(bad: int, number: int) -> int:
    if number == bad:
        raise Mine(number)
    return number


def leave_mark(directory: str, number: int) -> int:
    Path(directory, str(number)).touch()
    time.sleep(0.05)
    return number


def leave(kind: type[BaseException]) -> None:
    raise kind(3)


def await_file(path: str, timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.01)
