"""Pickles of functions, so that each is made once and sent once to each worker."""

from __future__ import annotations

import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from expyre.node.serving.messages import ONCE, Payload, dump

__all__ = ["Functions", "Pickled"]

_MOST = 256
_CLASSES = b"_class_setstate"  # in pickles with classes, of which a worker has one copy that each pickle changes
_MOST_BYTES = 1024**2  # of a pickle that is kept here and by workers
_UNCHANGEABLE = frozenset(
    {int, float, complex, bool, str, bytes, type(None), types.ModuleType, types.BuiltinFunctionType, types.CodeType}
)


class Pickled(NamedTuple):
    """A function, pickled, and the number by which workers know it; 0 if it is sent with each call."""

    token: int
    payload: Payload


class Functions:
    """Numbers functions, and keeps their pickles.

    A function that is pickled by value (of the script itself, a lambda, a closure) takes with it what it refers to. Its
    pickle is used again only as long as all of that is unchangeable and still the same objects; otherwise it is made
    anew, and if it has changed the function gets a new number. One that is large, or takes classes with it, gets none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_content: dict[bytes, Pickled] = {}
        self._known: dict[int, tuple[Callable[..., Any], list[Any] | None, Pickled]] = {}
        self._numbers = itertools.count(1)
        self.generation = 0

    def pickled(self, function: Callable[..., Any]) -> Pickled:
        """Return a function's pickle and number.

        Raises
        ------
        Exception
            It cannot be pickled.
        """
        known = self._known.get(id(function))
        if known is not None and known[0] is function and (known[1] is None or _same(known[1], _referred(function))):
            return known[2]
        payload = dump(function)
        if payload.buffers or payload.nbytes > _MOST_BYTES or _CLASSES in payload.data:
            return Pickled(ONCE, payload)
        with self._lock:
            found = self._number(payload)
            self._remember(function, found)
        return found

    def _number(self, payload: Payload) -> Pickled:
        content = payload.data
        if content not in self._by_content:
            if len(self._by_content) >= _MOST:
                self._by_content.clear()
                self._known.clear()
                self.generation += 1  # workers may forget as well
            self._by_content[content] = Pickled(next(self._numbers), payload)
        return self._by_content[content]

    def _remember(self, function: Callable[..., Any], found: Pickled) -> None:
        """Note how a function is recognised, if it can be told whether it has changed."""
        if len(self._known) >= _MOST:
            self._known.clear()
        if _has_a_name(function) and b"cloudpickle" not in found.payload.data:
            self._known[id(function)] = (function, None, found)
        elif (referred := _referred(function)) and all(map(_is_unchangeable, referred)):
            self._known[id(function)] = (function, referred, found)


def _has_a_name(function: Callable[..., Any]) -> bool:
    """Return whether a function that pickle takes is found by its name alone: no state goes with it."""
    if isinstance(function, types.BuiltinFunctionType):
        return isinstance(function.__self__, types.ModuleType | None)
    return isinstance(function, types.FunctionType | type)


def _is_unchangeable(value: Any) -> bool:
    return type(value) in _UNCHANGEABLE or (isinstance(value, types.FunctionType) and _is_importable(value))


def _is_importable(function: types.FunctionType) -> bool:
    """Return whether a function goes by its name alone."""
    module = sys.modules.get(function.__module__ or "")
    return function.__module__ != "__main__" and getattr(module, function.__qualname__, None) is function


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _referred(function: Any) -> list[Any]:
    """Return all that a function refers to, also through other functions; empty if that cannot be told."""
    if not isinstance(function, types.FunctionType):
        return []
    found: list[Any] = []
    seen = {id(function)}
    todo = [function]
    while todo:
        each = todo.pop()
        found.append(each.__code__)
        for value in _values(each):
            if not isinstance(value, types.FunctionType) or _is_importable(value):
                found.append(value)
            elif id(value) not in seen:
                seen.add(id(value))
                todo.append(value)
    return found


def _values(function: types.FunctionType) -> Iterator[Any]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # still empty
            yield object()
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
