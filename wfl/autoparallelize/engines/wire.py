"""What travels between the parent and its workers: pickles, with cloudpickle for what has no importable name."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

from expyre.pickles import loading as sparing
from expyre.util import no_collection

from ..task import Task

__all__ = ["copy_values", "dump_failure", "dump_task", "dump_values", "load", "load_back", "load_failure"]

_UNCHANGEABLE = frozenset({int, float, complex, bool, str, bytes, type(None)})
_MANY_BYTES = 16 * 1024


def load(data: bytes, loads: Callable[[bytes], Any] = pickle.loads) -> Any:
    """Return what was pickled, in a worker."""
    if len(data) < _MANY_BYTES:
        return loads(data)
    with no_collection():
        return loads(data)


def load_back(data: bytes) -> Any:
    """Return what was pickled, in the process of the script, whose own classes stay as they are."""
    return load(data, sparing.load)


def _plainly(value: Any) -> bytes:
    if "ase.atoms" in sys.modules:
        from .compact import dumps

        return dumps(value)
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def _by_value(value: Any) -> bytes:
    import cloudpickle

    return cloudpickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def _uses_main(data: bytes) -> bool:
    return b"__main__" in data


def dump_values(value: Any, *, where: str) -> bytes:
    """Pickle items or results; functions and classes of the script itself, lambdas and closures by value.

    Raises
    ------
    TypeError
        ``value`` cannot be pickled; the message says of what (``where``).
    """
    try:
        data = _plainly(value)
        if not _uses_main(data):
            return data
    except Exception:
        pass  # cloudpickle may know how
    try:
        return _by_value(value)
    except Exception as error:
        raise TypeError(f"{where} cannot be sent to another process: {error}") from error


def copy_values(values: list[Any], *, where: str) -> list[Any]:
    """Return the items of one call as another process would get them; without pickling where that is possible.

    Raises
    ------
    TypeError
        As for ``dump_values``.
    """
    if _UNCHANGEABLE.issuperset(map(type, values)):
        return values
    copies = None
    if "ase.atoms" in sys.modules:
        from . import compact

        copies = compact.copy_values(values)
    if copies is None:
        copies = load_back(dump_values(values, where=where))
    return copies


def dump_task(task: Task) -> bytes:
    """Pickle an operation with its arguments.

    Raises
    ------
    TypeError
        One of them cannot be pickled; the message names it and what to do instead.
    """
    try:
        return dump_values(task, where=task.name)
    except TypeError as error:
        culprits = [name for name, value in _named_parts(task) if not _picklable(value)]
        raise TypeError(
            f"{', '.join(culprits) or 'an argument'} of {task.name} cannot be sent to worker processes: "
            f"{error.__cause__}. Pass calculators as (constructor, args, kwargs), open files and connections inside "
            "the operation, or run it without subprocesses (num_python_subprocesses=0)"
        ) from error.__cause__


def _named_parts(task: Task) -> list[tuple[str, Any]]:
    parts = [("the operation itself", task.op), ("the initializer", task.initializer)]
    parts += [(f"argument {i}", value) for i, value in enumerate(task.args)]
    return parts + [(f"argument {name!r}", value) for name, value in task.kwargs.items()]


def _picklable(value: Any) -> bool:
    try:
        _by_value(value)
    except Exception:
        return False
    return True


def dump_failure(error: BaseException) -> bytes:
    """Pickle an exception together with its traceback as text; a substitute if it cannot be pickled."""
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        data = dump_values((error, text), where="an exception")
        load(data)
    except Exception:
        substitute = RuntimeError(f"{type(error).__qualname__}: {error} (the exception itself could not be pickled)")
        data = pickle.dumps((substitute, text))
    return data


def load_failure(data: bytes) -> BaseException:
    """Return the exception that a worker sent, caused by the traceback of the worker."""
    from expyre.errors import RemoteTraceback

    error, text = load_back(data)
    error.__cause__ = RemoteTraceback(text)
    return error
