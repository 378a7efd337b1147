"""Calculators by name."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from wfl.cli.errors import check_names, nearest

__all__ = ["UnknownCalculatorError", "find_calculator", "recipe"]

# Calculators of ASE that take any keyword in silence; those they know are the ones with defaults.
_SILENT = frozenset({"EMT", "LennardJones", "MorsePotential"})


class UnknownCalculatorError(ValueError):
    """Raised when a name stands for no calculator that can be imported."""


def find_calculator(text: str) -> Callable[..., Any]:
    """Return the class or function that makes a calculator.

    Parameters
    ----------
    text
        ``module:callable``, where the module may be in the current directory; or a name that ASE knows, also that of
        the class.

    Raises
    ------
    UnknownCalculatorError
        There is none; the message has the nearest names.
    """
    return _from_module(text) if ":" in text else _from_ase(text)


def _from_ase(text: str) -> Callable[..., Any]:
    from ase.calculators.calculator import get_calculator_class

    names = _names_of_ase()
    name = names.get(text.lower())
    if name is None:
        raise UnknownCalculatorError(f"there is no calculator {text!r}; {_hint(text, names)}")
    try:
        return get_calculator_class(name)
    except ImportError as exc:
        raise UnknownCalculatorError(f"calculator {text!r} cannot be imported: {exc}") from exc


def _names_of_ase() -> dict[str, str]:
    """Names for calculators, in lower case, and the ones that ASE has for them."""
    from ase.calculators import calculator

    classes = {class_name.lower(): name for name, class_name in calculator.special.items()}
    return {**classes, **{name: name for name in (*calculator.names, *calculator.external_calculators)}}


def _hint(text: str, names: Mapping[str, str]) -> str:
    module, _, attribute = text.rpartition(".")
    if module:
        return f"did you mean {module}:{attribute}?"
    return nearest(text.lower(), names) or "give a name that ASE knows, or module:callable"


def _from_module(text: str) -> Callable[..., Any]:
    module_name, _, attribute = text.partition(":")
    found: Any = _imported(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            public = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            hint = nearest(name, public)
            raise UnknownCalculatorError(f"{module_name} has no {name!r}{'; ' if hint else ''}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise UnknownCalculatorError(f"{text} is a {type(found).__name__}, not a class or function that makes one")
    return found


def _imported(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # as for a script of this directory; jobs and workers get the same path
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise UnknownCalculatorError(f"there is no module {exc.name!r}, neither installed nor in {here}") from exc
        raise UnknownCalculatorError(f"module {name!r} needs {exc.name!r}, which is not installed") from exc
    except Exception as exc:
        raise UnknownCalculatorError(f"module {name!r} cannot be imported: {type(exc).__name__}: {exc}") from exc


def recipe(factory: Callable[..., Any], kwargs: Mapping[str, Any] | None, option: str) -> tuple[Any, list[Any], Any]:
    """Return the recipe of a calculator, its keywords checked as far as they are known.

    Parameters
    ----------
    factory
        Class or function that makes the calculator.
    kwargs
        Its keywords.
    option
        Where they were given, for the message.
    """
    known = _keywords(factory)
    if known is not None:
        check_names(kwargs or {}, known, f"{option} of {getattr(factory, '__name__', factory)}")
    return factory, [], dict(kwargs or {})


def _keywords(factory: Callable[..., Any]) -> set[str] | None:
    """Keywords that a factory takes, None if that cannot be told."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):
        return names
    if getattr(factory, "__module__", "").startswith("ase.calculators.") and factory.__name__ in _SILENT:
        return names | set(factory.default_parameters)  # type: ignore[attr-defined]
    return None
