"""Exceptions that were raised elsewhere, as exceptions here."""

from __future__ import annotations

import importlib
import itertools
import pickle
import struct
from collections.abc import Mapping
from typing import Any

from expyre.errors import RemoteTraceback, StageError
from expyre.pickles.loading import load

__all__ = ["load_exception"]


def load_exception(payload: memoryview, text: str) -> BaseException:
    """Return an exception that was raised elsewhere.

    Where its class cannot be imported, it is of a class of the same name made here, derived from the nearest base class
    that can.

    Parameters
    ----------
    payload
        What `expyre.node.runner.exception_bytes` has made.
    text
        The traceback of the other side, which becomes its cause.
    """
    exc = _loaded(payload)
    exc.__cause__ = RemoteTraceback(text)
    return exc


def _loaded(payload: memoryview) -> BaseException:
    (length,) = struct.unpack(">Q", payload[-8:])
    try:
        exc = load(payload[:length])
    except Exception:
        exc = None
    if isinstance(exc, BaseException):
        return exc
    return _rebuilt(pickle.loads(payload[length:-8]))


def _rebuilt(description: Mapping[str, Any]) -> BaseException:
    """Return an exception made from the plain data in which the job described it."""
    classes: list[tuple[str, str]] = description["classes"]
    text: str = description["text"]
    module, qualname = classes[0]
    body = {"__module__": module, "__qualname__": qualname, "__str__": lambda self: text}
    bodies = (body, {**body, "__init__": _no_init})
    for base, how in itertools.product((*_importable(classes), Exception), bodies):
        try:
            exc: BaseException = type(qualname.rpartition(".")[2], (base,), how)(*description["args"])
            vars(exc).update(description["attributes"])
        except Exception:
            continue
        if description["notes"]:
            exc.__notes__ = list(description["notes"])  # type: ignore[attr-defined]
        return exc
    return StageError(f"{qualname}: {text}")


def _no_init(self: BaseException, *args: Any) -> None:
    """Take the place of an ``__init__`` that wants other arguments."""


def _importable(classes: list[tuple[str, str]]) -> list[type[BaseException]]:
    """Return the classes of the list that can be imported here, nearest first."""
    found: list[type[BaseException]] = []
    for module, qualname in classes:
        try:
            value: Any = importlib.import_module(module)
            for name in qualname.split("."):
                value = getattr(value, name)
        except Exception:
            continue
        if isinstance(value, type) and issubclass(value, Exception):
            found.append(value)
    return found
