"""A line on a value, for people."""

from __future__ import annotations

import enum
from collections.abc import Sized
from typing import Any, Final

LENGTH: Final = 120
_PLAIN: Final = frozenset({int, float, complex, bool, type(None), range, slice})


def summarise(value: Any) -> str:
    """Return at most 120 characters on a value, without asking unknown objects for their text."""
    cls = type(value)
    if cls in _PLAIN:
        return _cut(repr(value) if cls is not int or value.bit_length() < 1000 else f"int of {value.bit_length()} bits")
    if cls is str or cls is bytes:
        return _cut(repr(value[:LENGTH]))
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return _container(value)
    return _cut(_object(value))


def _cut(text: str) -> str:
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def _container(value: Any) -> str:
    name = type(value).__name__
    if len(value) <= 8 and set(map(type, value)) <= _PLAIN | {str} and not isinstance(value, (set, frozenset, dict)):
        return _cut(repr(value))
    kinds = {type(item).__name__ for item in value}
    what = kinds.pop() if len(kinds) == 1 else "items"
    return _cut(f"{name} of {len(value)} {what}")


def _object(value: Any) -> str:
    cls = type(value)
    if isinstance(value, enum.Enum):
        return f"{cls.__name__}.{value.name}"
    if hasattr(cls, "dtype") and hasattr(cls, "shape"):
        return _array(value)
    if hasattr(value, "__qualname__") and hasattr(value, "__module__"):
        return f"{value.__module__}.{value.__qualname__}"
    size = f" of {len(value)}" if isinstance(value, Sized) and not isinstance(value, type) else ""
    return f"{cls.__name__}{size}"


def _array(value: Any) -> str:
    if getattr(value, "size", 9) <= 6:
        return f"{value.dtype} {value.tolist()!r}"
    return f"{value.dtype} array of shape {value.shape}"
