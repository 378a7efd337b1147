"""Types of parameters: JSON, configurations, calculators."""

from __future__ import annotations

import json
from typing import Any

import click

__all__ = ["CalculatorType", "Json"]


class Json(click.ParamType):
    """A value written in JSON.

    Parameters
    ----------
    only_dict
        Whether it must be an object, a dict.
    """

    def __init__(self, *, only_dict: bool = False) -> None:
        self.name = "JSON" if only_dict else "number or JSON"
        self.only_dict = only_dict

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text."""
        if not isinstance(value, str):
            return value
        try:
            result = json.loads(value, object_pairs_hook=_without_repetitions)
        except json.JSONDecodeError as exc:
            self.fail(_where(exc), param, ctx)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if self.only_dict and not isinstance(result, dict):
            self.fail(f'a JSON object is needed, like {{"name": 1.5}}, not {value}', param, ctx)
        return result


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({repr(name) for name in names if names.count(name) > 1})
        raise ValueError(f"given more than once: {', '.join(repeated)}")
    return result


def _where(exc: json.JSONDecodeError) -> str:
    line = exc.doc.splitlines()[exc.lineno - 1] if exc.doc.strip() else ""
    hint = " (JSON has double quotes)" if "'" in line else ""
    place = f"{exc.msg} at line {exc.lineno} column {exc.colno}{hint}"
    start = max(0, exc.colno - 41)
    return f"not JSON: {place}\n  {line[start : start + 80]}\n  {' ' * (exc.colno - 1 - start)}^"


class CalculatorType(click.ParamType):
    """The name of a calculator, or ``module:callable``."""

    name = "calculator"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the class or function that makes the calculator."""
        if not isinstance(value, str):
            return value
        from wfl.cli.calculators import UnknownCalculatorError, find_calculator

        try:
            return find_calculator(value)
        except UnknownCalculatorError as exc:
            self.fail(str(exc), param, ctx)
