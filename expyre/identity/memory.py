"""Large values that many calls have in common are hashed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["remembered", "remembering"]

_LARGE: Final = 1 << 16
# By id: the value itself, which keeps the id taken, and its digest.
_known: ContextVar[dict[int, tuple[Any, bytes]] | None] = ContextVar("_known", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Take large arrays and byte strings not to change while the block runs."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def remembered(value: Any, make: Callable[[], bytes]) -> bytes:
    """Return the digest of a value, which ``make`` makes unless it was made of the same object before."""
    known = _known.get()
    if known is None or not _is_large(value):
        return make()
    found = known.get(id(value))
    if found is None:
        found = known[id(value)] = (value, make())
    return found[1]


def _is_large(value: Any) -> bool:
    cls = type(value)
    if cls is bytes:
        return len(value) >= _LARGE
    is_array = cls.__name__ == "ndarray" and cls.__module__ == "numpy"
    return is_array and value.nbytes >= _LARGE and not value.dtype.hasobject
