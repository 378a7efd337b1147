"""Pressures of single configurations, fixed or drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms

from wfl.utils.misc import MissingRngError

__all__ = ["Pressure", "PressureRecursionError", "sample_pressure"]

Pressure: TypeAlias = Any
"""A number, or `("info", key)`, `("exponential", scale)`, `("normal_positive", mean, sigma)`, `("uniform", a, b)`."""

_N_TRIES = 1000
_N_PARAMETERS = {"info": 1, "exponential": 1, "normal_positive": 2, "uniform": 2}


class PressureRecursionError(RuntimeError):
    """Raised when an info entry names itself, directly or through others, as the place of its pressure."""


def sample_pressure(pressure: Pressure, at: Atoms | None = None, rng: np.random.Generator | None = None) -> float:
    """Pressure for one configuration.

    Parameters
    ----------
    pressure
        A number in GPa; or `("info", key)`: any of these forms as `at.info[key]`; `("exponential", scale)`: random,
        with mean `scale`; `("normal_positive", mean, sigma)`: normal, drawn again until not negative;
        `("uniform", low, high)`.
    at
        Configuration, for the info form.
    rng
        Generator, for the random forms.

    Returns
    -------
    float
        GPa

    Raises
    ------
    RuntimeError
        If the form is not understood, or no positive value comes up; `PressureRecursionError` if an info entry
        leads back to itself.
    MissingRngError
        If a random form is used without `rng`.
    """
    seen: set[str] = set()
    while True:
        if _is_number(pressure):
            return float(pressure)
        kind, parameters = _parsed(pressure)
        if kind != "info":
            return _draw(kind, [_number(value, pressure) for value in parameters], rng)
        pressure = _from_info(str(parameters[0]), at, seen)


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _parsed(pressure: Any) -> tuple[str, Sequence[Any]]:
    if not isinstance(pressure, (tuple, list, np.ndarray)) or len(pressure) == 0:
        raise RuntimeError(f"pressure {pressure!r} is neither a number nor one of the forms {_forms()}")
    kind, *parameters = pressure
    if not isinstance(kind, str) or len(parameters) != _N_PARAMETERS.get(kind):
        raise RuntimeError(f"pressure {pressure!r} is none of the forms {_forms()}")
    return str(kind), parameters


def _forms() -> str:
    return "('info', key), ('exponential', scale), ('normal_positive', mean, sigma), ('uniform', low, high)"


def _number(value: Any, pressure: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as exc:
        raise RuntimeError(f"pressure {pressure!r} has the parameter {value!r}, which is not a number") from exc


def _from_info(key: str, at: Atoms | None, seen: set[str]) -> Any:
    if at is None:
        raise RuntimeError(f"pressure ('info', {key!r}) needs a configuration")
    if key in seen:
        raise PressureRecursionError(f"pressure ('info', {key!r}) leads back to itself through {sorted(seen)}")
    seen.add(key)
    if key not in at.info:
        raise RuntimeError(f"pressure ('info', {key!r}): the configuration has no such info entry")
    return at.info[key]


def _draw(kind: str, parameters: list[float], rng: np.random.Generator | None) -> float:
    if rng is None:
        raise MissingRngError(f"pressure of form {kind!r} is random: pass rng=numpy.random.default_rng(seed)")
    if kind == "exponential":
        return float(parameters[0] * rng.exponential(1.0))
    first, second = parameters
    if kind == "uniform":
        return float(rng.uniform(first, second))
    for _ in range(_N_TRIES):
        value = float(rng.normal(first, second))
        if value >= 0.0:
            return value
    raise RuntimeError(f"no non-negative pressure in {_N_TRIES} draws from a normal distribution {parameters}")
