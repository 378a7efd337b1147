"""Remote execution of Python functions: cached, hash-keyed jobs on queues, here or across SSH.

Importing this package reads no configuration and opens no file; both happen when a job is first made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from expyre.errors import ExPyReJobDiedError as ExPyReJobDiedError
from expyre.errors import ExPyReTimeoutError as ExPyReTimeoutError

if TYPE_CHECKING:
    from expyre.executor import Executor as Executor
    from expyre.func import ExPyRe as ExPyRe
    from expyre.node.runner import time_left as time_left
    from expyre.resources import Resources as Resources
    from expyre.system import System

    systems: dict[str, System]

__version__ = "0.1.0"
__all__ = [
    "ExPyRe",
    "ExPyReJobDiedError",
    "ExPyReTimeoutError",
    "Executor",
    "Resources",
    "__version__",
    "systems",
    "time_left",
]

_LAZY = {
    "ExPyRe": "expyre.func",
    "Executor": "expyre.executor",
    "Resources": "expyre.resources",
    "systems": "expyre.config",
    "time_left": "expyre.node.runner",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
