"""Functions whose calls are timed; workers of every executor can import them."""

from __future__ import annotations

import time
from typing import Any


def nothing(value: Any) -> Any:
    """Return the argument."""
    return value


def busy(value: Any) -> Any:
    """Return the argument after 1 ms of work."""
    end = time.perf_counter() + 1e-3
    while time.perf_counter() < end:
        pass
    return value


def asleep(value: Any) -> Any:
    """Return the argument after a wait of 1 ms."""
    time.sleep(1e-3)
    return value
