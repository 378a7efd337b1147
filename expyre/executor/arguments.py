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
    todo = [value for value in values if type(value) not in _PLAIN][::-1]
    if not todo:
        return []
    found: dict[int, Future[Any]] = {}
    seen: set[int] = set()
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
    """Return a value with each future in it replaced by its result.

    What holds no future is not copied, what is met twice stays one object, and what holds itself may do so.

    Raises
    ------
    Exception
        What a future that has failed raises.
    """
    wholes = _parts_first(value)
    holders = _holders(wholes)
    wholes = [(whole, parts) for whole, parts in wholes if id(whole) in holders]
    new = {id(whole): _blank(whole) for whole, _ in wholes if not isinstance(whole, _FINAL)}

    def of(part: Any) -> Any:
        return part.result() if isinstance(part, Future) else new.get(id(part), part)

    _make_final([(whole, parts) for whole, parts in wholes if isinstance(whole, _FINAL)], new, of)
    for whole, _ in wholes:
        if not isinstance(whole, _FINAL):
            _fill(new[id(whole)], whole, of)
    return of(value)


_FINAL = (tuple, frozenset)  # cannot be filled later


def _parts_first(value: Any) -> list[tuple[Any, list[Any]]]:
    """Return all containers in a value, each with its parts and after them (unless they hold it as well)."""
    found: list[tuple[Any, list[Any]]] = []
    seen: set[int] = set()
    todo: list[tuple[Any, list[Any] | None]] = [(value, None)]
    while todo:
        each, parts = todo.pop()
        if parts is not None:
            found.append((each, parts))
        elif type(each) not in _PLAIN and id(each) not in seen and (parts := _parts(each)):
            seen.add(id(each))
            todo.append((each, parts))
            todo += [(part, None) for part in parts]
    return found


def _holders(wholes: list[tuple[Any, list[Any]]]) -> set[int]:
    """Return the ids of containers with a future in them, at any depth; what holds itself takes several rounds."""
    holders: set[int] = set()
    before = -1
    while len(holders) > before:
        before = len(holders)
        for whole, parts in wholes:
            if any(isinstance(part, Future) or id(part) in holders for part in parts):
                holders.add(id(whole))
    return holders


def _blank(whole: Any) -> Any:
    """Return a copy of a container to be filled; it keeps what subclasses have besides, such as a factory."""
    new = copy.copy(whole)
    if isinstance(whole, list | dict | set):
        new.clear()
    return new


def _make_final(wholes: list[tuple[Any, list[Any]]], new: dict[int, Any], of: Callable[[Any], Any]) -> None:
    """Make what cannot be filled later, each after those that it holds; other containers may still be blank."""
    missing = {id(whole) for whole, _ in wholes}
    while wholes:
        later = []
        for whole, parts in wholes:
            if any(id(part) in missing for part in parts):
                later.append((whole, parts))
                continue
            found = map(of, parts)
            new[id(whole)] = whole._make(found) if hasattr(whole, "_make") else type(whole)(found)
            missing.remove(id(whole))
        wholes = later


def _fill(new: Any, whole: Any, of: Callable[[Any], Any]) -> None:
    if isinstance(whole, dict):
        new.update([(of(key), of(each)) for key, each in whole.items()])
    elif isinstance(whole, list):
        new.extend(map(of, whole))
    elif isinstance(whole, set):
        new.update(map(of, whole))
    else:
        for field in dataclasses.fields(whole):
            if hasattr(whole, field.name):  # frozen ones have to be written to as well
                object.__setattr__(new, field.name, of(getattr(whole, field.name)))
