"""The engine that gives its chunks to a ``concurrent.futures.Executor``."""
from __future__ import annotations

from typing import Any


def shared_executor(n: int | None) -> Any:
    return None
