"""Pickle a call for another interpreter, and say which argument does not pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from expyre.errors import RequestError
from expyre.node.runner import PROTOCOL


def dumps(value: object) -> bytes:
    """Return a pickle that another interpreter can read.

    What lives in ``__main__`` cannot be imported on the other side and what plain pickle refuses (lambdas, local
    functions) may still pickle by value: both go through cloudpickle.
    """
    try:
        data = pickle.dumps(value, PROTOCOL)
    except Exception:
        return by_value(value)
    return by_value(value) if b"__main__" in data else data


def by_value(value: object) -> bytes:
    """Return a cloudpickle."""
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, PROTOCOL)
    return data


def dump_call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return the pickle of ``(function, args, kwargs)``.

    Raises
    ------
    RequestError
        Something does not pickle; lists each such part of the call.
    """
    try:
        return dumps((function, tuple(args), dict(kwargs)))
    except Exception as exc:
        raise RequestError(f"cannot pickle the call: {refusals(dumps, function, args, kwargs) or exc}") from exc


def refusals(
    dump: Callable[[Any], object], function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """Return which parts of a call a function that pickles refuses, and why; empty if it takes each of them."""
    parts = [("the function", function)]
    parts += [(f"args[{i}]", arg) for i, arg in enumerate(args)]
    parts += [(f"kwargs[{name!r}]", arg) for name, arg in kwargs.items()]
    return "; ".join(reason for name, part in parts if (reason := _refusal(dump, name, part)))


def _refusal(dump: Callable[[Any], object], name: str, part: object) -> str:
    try:
        dump(part)
    except Exception as exc:
        return f"{name} is a {type(part).__module__}.{type(part).__qualname__} ({exc})"
    return ""
