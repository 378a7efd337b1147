"""Arithmetic inside the texts of a data structure."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wfl.utils.round_sig_figs import round_sig_figs

__all__ = ["evaluate_arithmetic", "replace_eval_in_strs"]

MARK = "_EVAL_ "
_MAX_EXPONENT = 1000
_MAX_LENGTH = 10_000

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NAMES: dict[str, Any] = {
    **{function.__name__: function for function in (abs, bool, float, int, len, max, min, round, str, sum)},
    **{name: getattr(math, name) for name in ("ceil", "cos", "exp", "floor", "log", "log10", "pi", "sin", "sqrt")},
}
_MODULES = ("math", "np", "numpy")


def replace_eval_in_strs(obj: Any, replacements: Mapping[str, Any], n_float_sig_figs: int | None = None) -> Any:
    """Copy a data structure, with texts that begin with `_EVAL_ ` replaced by what they evaluate to.

    Parameters
    ----------
    obj : object
        Nested lists, tuples and dicts of texts, numbers, bools and None.
    replacements : dict
        Values for names in braces in these texts.
    n_float_sig_figs : int, optional
        Significant figures that evaluated floats are rounded to.

    Returns
    -------
    object
        Same structure. Arithmetic, comparisons, lists, and functions such as `min` and `sqrt` are understood; nothing
        else is executed.

    Raises
    ------
    ValueError
        If a text cannot be evaluated, with the text.
    """
    if isinstance(obj, str):
        return _replaced(obj, replacements, n_float_sig_figs) if obj.startswith(MARK) else obj
    if isinstance(obj, dict):
        return {key: replace_eval_in_strs(value, replacements, n_float_sig_figs) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return type(obj)([replace_eval_in_strs(value, replacements, n_float_sig_figs) for value in obj])
    if obj is not None and not isinstance(obj, (bool, int, float, np.generic, np.ndarray)):
        warnings.warn(f"texts to evaluate are not looked for in {type(obj).__name__} {obj!r}", stacklevel=2)
    return obj


def _replaced(text: str, replacements: Mapping[str, Any], n_float_sig_figs: int | None) -> Any:
    try:
        filled = text[len(MARK) :].format(**{name: _plain(value) for name, value in replacements.items()})
    except (KeyError, IndexError) as exc:
        raise ValueError(f"{text!r} uses {exc}, but only {sorted(replacements)} have values") from exc
    value = evaluate_arithmetic(filled)
    if n_float_sig_figs is not None and isinstance(value, float):
        value = float(round_sig_figs(value, n_float_sig_figs))
    return value


def _plain(value: Any) -> Any:
    """Value without numpy types, whose text could not be evaluated."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return type(value)(_plain(part) for part in value) if type(value) in (list, tuple, set) else value


def evaluate_arithmetic(text: str) -> Any:
    """Value of an arithmetic expression.

    Raises
    ------
    ValueError
        If the text is anything else.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"expression of {len(text)} characters is too long: {text[:40]!r}…")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ArithmeticError, LookupError, ValueError, RecursionError) as exc:
        raise ValueError(f"cannot evaluate {text.strip()!r}: {exc}") from exc


def _value(node: ast.expr) -> Any:
    handler = _HANDLERS.get(type(node))
    if handler is None:
        raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")
    return handler(node)


def _binary(node: ast.BinOp) -> Any:
    left, right = _value(node.left), _value(node.right)
    if isinstance(node.op, ast.Pow):
        if abs(right) > _MAX_EXPONENT:
            raise ValueError(f"exponent {right} is too large")
        return left**right
    if isinstance(node.op, ast.Mult) and not all(isinstance(value, (int, float, complex)) for value in (left, right)):
        raise ValueError("only numbers can be multiplied")
    return _supported(_BINARY, node.op)(left, right)


def _supported(table: Mapping[Any, Callable[..., Any]], operation: ast.AST) -> Callable[..., Any]:
    if type(operation) not in table:
        raise ValueError(f"{type(operation).__name__} is not supported")
    return table[type(operation)]


def _compare(node: ast.Compare) -> bool:
    values = [_value(node.left), *(_value(part) for part in node.comparators)]
    return all(
        _supported(_COMPARISONS, op)(left, right) for op, left, right in zip(node.ops, values, values[1:], strict=False)
    )


def _boolean(node: ast.BoolOp) -> Any:
    values = [_value(part) for part in node.values]
    return all(values) if isinstance(node.op, ast.And) else any(values)


def _name(node: ast.expr) -> Any:
    is_member = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _MODULES
    name = node.attr if isinstance(node, ast.Attribute) and is_member else getattr(node, "id", None)
    if name not in _NAMES:
        raise ValueError(f"name {ast.unparse(node)!r} is unknown")
    return _NAMES[name]


def _call(node: ast.Call) -> Any:
    if node.keywords:
        raise ValueError("functions take no keywords here")
    return _name(node.func)(*(_value(part) for part in node.args))


def _conditional(node: ast.IfExp) -> Any:
    return _value(node.body if _value(node.test) else node.orelse)


_HANDLERS: dict[type[ast.expr], Callable[[Any], Any]] = {
    ast.Constant: lambda node: node.value,
    ast.BinOp: _binary,
    ast.UnaryOp: lambda node: _supported(_UNARY, node.op)(_value(node.operand)),
    ast.Compare: _compare,
    ast.BoolOp: _boolean,
    ast.IfExp: _conditional,
    ast.List: lambda node: [_value(part) for part in node.elts],
    ast.Tuple: lambda node: tuple(_value(part) for part in node.elts),
    ast.Set: lambda node: {_value(part) for part in node.elts},
    ast.Subscript: lambda node: _value(node.value)[_value(node.slice)],
    ast.Name: _name,
    ast.Attribute: _name,
    ast.Call: _call,
}
