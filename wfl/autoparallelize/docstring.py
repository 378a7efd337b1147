"""Docstrings of autoparallelized functions, made from those of their operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["autoparallelize_docstring", "make_docstring"]

_HIDDEN = "_autopara_per_item_info"


def autoparallelize_docstring(
    wrapped_func: Callable[..., Any],
    wrappable_func: Callable[..., Any],
    input_iterable_type: str,
    input_arg: int | str = 0,
) -> None:
    """Give an autoparallelized function the docstring of its operation, with the parameters that it really has.

    Parameters
    ----------
    wrapped_func : callable
        The autoparallelized function.
    wrappable_func : callable
        The operation; without docstring, nothing happens.
    input_iterable_type : str
        Type of the items, for the text.
    input_arg : int or str, default 0
        Position or name of the parameter of the operation that takes the list of items.
    """
    text = make_docstring(wrappable_func.__doc__, input_iterable_type, input_arg)
    if text is not None:
        wrapped_func.__doc__ = text


def make_docstring(doc: str | None, input_iterable_type: str, input_arg: int | str = 0) -> str | None:
    """Return the docstring of the autoparallelized function, None if the operation has none."""
    if not doc:
        return None
    from docstring_parser import DocstringStyle, compose, parse
    from docstring_parser.common import DocstringParam, DocstringReturns

    parsed = parse(doc)
    rest = [entry for entry in parsed.meta if not isinstance(entry, (DocstringParam, DocstringReturns))]
    params = [entry for entry in parsed.meta if isinstance(entry, DocstringParam)]
    names = [entry.arg_name for entry in params]
    position = names.index(input_arg) if input_arg in names else input_arg if isinstance(input_arg, int) else 0
    inputs = [
        _param("inputs", f"iterable({input_iterable_type})", "inputs of type " + input_iterable_type),
        _param("outputs", "OutputSpec or None", "where the results go; None for no output"),
    ]
    params = [entry for entry in params[:position] + inputs + params[position + 1 :] if entry.arg_name != _HIDDEN]
    params.append(_param("autopara_info", "AutoparaInfo / dict", "how to split the work and where to run it", True))
    returns = DocstringReturns(["returns"], "the results", type_name="ConfigSet", is_generator=False,
                               return_name="co")
    parsed.meta[:] = [*params, returns, *rest]
    parsed.style = DocstringStyle.NUMPYDOC
    return str(compose(parsed, style=DocstringStyle.NUMPYDOC))


def _param(name: str, type_name: str, description: str, optional: bool = False) -> Any:
    from docstring_parser.common import DocstringParam

    return DocstringParam(["param", name], description, name, type_name, optional, None)
