"""Calculators as recipes, so that what travels to other processes is small and can be pickled."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

__all__ = ["CalculatorForm", "calculator_name", "construct_calculator_picklesafe", "is_calculator", "serial_keywords"]

CalculatorForm: TypeAlias = Any
"""An ASE calculator, or a recipe `(callable, args or None, kwargs or None)` for one."""


def is_calculator(thing: object) -> bool:
    """Whether `thing` is a live ASE calculator rather than a recipe for one."""
    from ase.calculators.calculator import BaseCalculator, Calculator

    return isinstance(thing, (Calculator, BaseCalculator))


def construct_calculator_picklesafe(calculator: CalculatorForm) -> Any:
    """Make the calculator that a recipe describes.

    Parameters
    ----------
    calculator
        An ASE calculator, which is returned as it is, or a tuple or list `(callable, args, kwargs)`; `args` and
        `kwargs` may be None.

    Returns
    -------
    ASE calculator

    Raises
    ------
    RuntimeError
        If the recipe has not three elements or its first element cannot be called.
    """
    if is_calculator(calculator):
        return calculator
    factory, args, kwargs = _checked_recipe(calculator)
    return factory(*(args or ()), **(kwargs or {}))


def _checked_recipe(recipe: Any) -> tuple[Callable[..., Any], Sequence[Any] | None, Mapping[str, Any] | None]:
    form = "a calculator is given as an ASE calculator or as (callable, args or None, kwargs or None)"
    if not isinstance(recipe, (tuple, list)):
        raise RuntimeError(f"{form}, not as {type(recipe).__name__}")
    if len(recipe) != 3:
        raise RuntimeError(f"{form}; got a sequence of {len(recipe)} elements")
    if not callable(recipe[0]):
        raise RuntimeError(f"{form}; the first element {recipe[0]!r} cannot be called")
    return recipe[0], recipe[1], recipe[2]


def calculator_name(calculator: CalculatorForm) -> str:
    """Name of a calculator or of the first element of its recipe, usable as the start of a key."""
    if is_calculator(calculator):
        return type(calculator).__name__
    source = calculator[0] if isinstance(calculator, (tuple, list)) and calculator else calculator
    while isinstance(source, partial):
        source = source.func
    name = getattr(source, "__name__", type(source).__name__)
    return str(name).strip("<>")


def serial_keywords(cls: Any) -> dict[str, Any]:
    """Keyword that keeps an ASE dynamics class from talking to other MPI ranks, which run other configurations."""
    from ase.parallel import DummyMPI

    parameters = inspect.signature(cls.__init__).parameters
    if "communicator" in parameters:
        return {"communicator": None}
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    known = any("comm" in inspect.signature(base.__init__).parameters for base in cls.__mro__[:-1])
    return {"comm": DummyMPI()} if known and (passes_on or "comm" in parameters) else {}
