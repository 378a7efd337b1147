"""A decorator that turns an operation into an autoparallelized function with a true signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .base import run_call, take_apart
from .docstring import make_docstring
from .rng import PER_ITEM_INFO

__all__ = ["autoparallelized"]


def autoparallelized(
    *, input_iterable_type: str = "Atoms", iterable_arg: int | str = 0, **default_autopara_info: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an operation on a list of items an autoparallelized function of inputs and outputs.

    Parameters
    ----------
    input_iterable_type : str, default "Atoms"
        Type of the items, for the docstring.
    iterable_arg : int or str, default 0
        Position or name of the operation's parameter that takes the list of items.
    **default_autopara_info
        Defaults of the fields of AutoparaInfo for this operation.

    Returns
    -------
    callable
        Decorator; the function that it makes is called as ``f(inputs, outputs, ..., autopara_info=None)``, and has
        the operation itself as attribute ``op``.
    """
    defaults = {"iterable_arg": iterable_arg, **default_autopara_info}

    def decorate(op: Callable[..., Any]) -> Callable[..., Any]:
        stands_for = f"{inspect.getsourcefile(op) or '<unknown>'}::{op.__name__}"

        @functools.wraps(op)
        def function(*args: Any, **kwargs: Any) -> Any:
            _wfl_stands_for = stands_for
            return run_call(take_apart(op, args, kwargs, defaults))

        function.__signature__ = _signature(op, iterable_arg)  # type: ignore[attr-defined]
        function.__doc__ = make_docstring(op.__doc__, input_iterable_type, iterable_arg)
        function.op = op  # type: ignore[attr-defined]
        del function.__wrapped__
        op.__qualname__ = f"{op.__qualname__}.op"  # so that the operation itself is found by pickle
        return function

    return decorate


def _signature(op: Callable[..., Any], iterable_arg: int | str) -> inspect.Signature:
    """Return the operation's signature with inputs and outputs for its items, and ``autopara_info`` at the end."""
    signature = inspect.signature(op)
    given = [p for p in signature.parameters.values() if p.name != PER_ITEM_INFO]
    at = iterable_arg if isinstance(iterable_arg, int) else [p.name for p in given].index(iterable_arg)
    del given[at]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = [inspect.Parameter("inputs", kind), inspect.Parameter("outputs", kind)]
    last = inspect.Parameter("autopara_info", inspect.Parameter.KEYWORD_ONLY, default=None)
    var_kw = [p for p in given if p.kind is p.VAR_KEYWORD]
    rest = [p for p in given if p.kind is not p.VAR_KEYWORD]
    return signature.replace(parameters=[*first, *rest, last, *var_kw])
