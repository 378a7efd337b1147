"""Futures among the arguments of a call, at any depth of lists, tuples, sets, dicts and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

__all__ = ["futures_in", "with_results"]

_PLAIN = frozenset({int, float, complex, bool, str, bytes, bytearray, type(None), range})


def futures_in(values: Iterable[Any]) -> list[Future[Any]]:
    """Return the futures in some values, each once, in the order in which they are met."""
    found: dict[int, Future[Any]] = {}
    seen: set[int] = set()
    todo = list(values)[::-1]
    while todo:
        value = todo.pop()
        if type(value) in _PLAIN:
            continue
        if isinstance(value, Future):
            found[id(value)] = value
        elif (parts := _parts(value)) and id(value) not in seen:
            seen.add(id(value))
            todo.extend(parts[::-1])
    return list(found.values())


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)]
    return []


def with_results(value: Any) -> Any:
    """Return a value with each future in it replaced by its result; what holds no future is not copied.

    Raises
    ------
    Exception
        What a future that has failed raises.
    """
    return _Replacer().replace(value)


class _Replacer:
    """Replaces futures; what is met twice stays one object, and may hold itself as long as it holds no future."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def replace(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return value
        if isinstance(value, Future):
            return value.result()
        if id(value) in self._done:
            return self._done[id(value)]
        self._done[id(value)] = value
        if futures_in([value]):
            self._done[id(value)] = self._rebuilt(value)
        return self._done[id(value)]

    def _rebuilt(self, value: Any) -> Any:
        if isinstance(value, dict):
            pairs = [(self.replace(key), self.replace(each)) for key, each in value.items()]
            return _refilled(value, lambda new: new.update(pairs))
        if isinstance(value, list):
            return _refilled(value, lambda new: new.extend(map(self.replace, value)))
        if isinstance(value, set):
            return _refilled(value, lambda new: new.update(map(self.replace, value)))
        if isinstance(value, tuple | frozenset):
            parts = map(self.replace, value)
            return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
        new = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):  # frozen ones have to be written to as well
                object.__setattr__(new, field.name, self.replace(getattr(value, field.name)))
        return new


def _refilled(container: Any, fill: Callable[[Any], object]) -> Any:
    """Return an empty copy of a container, of its own kind, that has been filled."""
    new = copy.copy(container)  # keeps what subclasses have besides, such as the factory of a defaultdict
    new.clear()
    fill(new)
    return new
