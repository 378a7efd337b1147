"""Why a call cannot be sent to a worker, in words."""

from __future__ import annotations

import inspect
import types
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from expyre.errors import UnpicklableError
from expyre.executor.arguments import futures_in
from expyre.executor.calls import Call
from expyre.node.runner import parts_of
from expyre.pickles.pickling import refusals

__all__ = ["refused"]

_MOST_LOOKED_AT = 10_000


def refused(call: Call, dump: Callable[[Any], object], error: Exception) -> UnpicklableError:
    """Return what to say of a call that a function which pickles has refused, and of a future in it."""
    reasons = refusals(dump, call.function, call.args, call.kwargs) or str(error)
    return UnpicklableError(f"{call} cannot be sent to a worker: {reasons}{_about_a_future(call)}")


def _about_a_future(call: Call) -> str:
    where = _place_of_a_future(call)
    if where is None:
        return ""
    if futures_in((*call.args, *call.kwargs.values())):  # which would have been replaced
        return (
            f"; {where} is a future: with disable_dependencies=True futures are passed on as they are, and cannot be "
            "sent; leave that out, or pass its result()"
        )
    return (
        f"; {where} is a future: they are looked for only among arguments and in lists, tuples, sets, dicts and "
        "dataclasses of them; pass it there, or its result()"
    )


def _place_of_a_future(call: Call) -> str | None:
    """Return where in a call a future is, the one with the shortest way to it; None if none is found."""
    todo: deque[tuple[str, Any]] = deque([("the function", call.function)])
    todo.extend((f"args[{i}]", value) for i, value in enumerate(call.args))
    todo.extend((f"kwargs[{name!r}]", value) for name, value in call.kwargs.items())
    seen: set[int] = set()
    while todo and len(seen) < _MOST_LOOKED_AT:
        name, value = todo.popleft()
        if isinstance(value, Future):
            return name
        if id(value) not in seen:
            seen.add(id(value))
            todo.extend((name + further, part) for further, part in _parts(value))
    return None


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, types.FunctionType):
        return [(f", variable {name!r}", part) for name, part in _variables(value).items()]
    if isinstance(value, types.ModuleType | type):
        return []
    if isinstance(value, set | frozenset):
        return [(f" (in {{{part!r}}})", part) for part in value]
    return parts_of(value)


def _variables(function: types.FunctionType) -> dict[str, Any]:
    """Return what goes with a function of the script itself, or within another one."""
    try:
        found = inspect.getclosurevars(function)
    except ValueError:  # a variable that has no value yet
        return {}
    return {**found.nonlocals, **(found.globals if function.__module__ == "__main__" else {})}
