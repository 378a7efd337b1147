"""Temperatures of a run: constant, ramps, and pieces of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms, units

__all__ = ["Stage", "Temperature", "is_constant", "stages", "thermalize"]

Temperature: TypeAlias = Any
"""Number, `(T_i, T_f[, n_stages])`, or (list of) dicts with `T_i, T_f, traj_frac[, n_stages]`; K."""

DEFAULT_N_STAGES = 10
_REQUIRED = {"T_i", "T_f"}
_ALLOWED = _REQUIRED | {"traj_frac", "n_stages"}


@dataclass(frozen=True)
class Stage:
    """Steps at one temperature (K), or without any."""

    temperature: float | None
    n_steps: int


@dataclass(frozen=True)
class _Piece:
    T_i: float
    T_f: float
    traj_frac: float
    n_stages: int

    def stages(self, steps: int) -> list[Stage]:
        if self.T_i == self.T_f:
            return [Stage(self.T_i, _round(self.traj_frac * steps))]
        n_steps = _round(self.traj_frac * steps / self.n_stages)
        return [Stage(float(value), n_steps) for value in np.linspace(self.T_i, self.T_f, self.n_stages)]


def _round(value: float) -> int:
    return int(np.round(value))


def is_constant(temperature: Temperature) -> bool:
    """Whether a temperature is one number."""
    return np.ndim(temperature) == 0 and not isinstance(temperature, (Mapping, str))


def stages(temperature: Temperature, steps: int) -> list[Stage]:
    """Cut a run into stages of constant temperature.

    Parameters
    ----------
    temperature
        None; a number; a ramp `(T_i, T_f[, n_stages=10])`; or a list of dicts (or one dict) with the keys `T_i`, `T_f`,
        `traj_frac` (part of all steps) and optionally `n_stages`, for consecutive pieces. K.
    steps
        All steps of the run. The number of steps of each stage is rounded, half to even.

    Raises
    ------
    ValueError
        If the form is not understood.
    """
    if temperature is None:
        return [Stage(None, steps)]
    return [stage for piece in _pieces(temperature) for stage in piece.stages(steps)]


def _pieces(temperature: Temperature) -> list[_Piece]:
    if is_constant(temperature):
        return [_Piece(float(temperature), float(temperature), 1.0, 1)]
    if isinstance(temperature, Mapping):
        return [_piece_of_dict(temperature, 1.0)]
    parts = list(temperature) if not isinstance(temperature, str) else []
    if parts and all(isinstance(part, Mapping) for part in parts):
        return [_piece_of_dict(part, None) for part in parts]
    if len(parts) in (2, 3) and all(is_constant(part) for part in parts):
        return [_checked(*parts)]
    raise ValueError(
        f"temperature {temperature!r} is neither a number, nor (T_i, T_f[, n_stages]), nor a list of dicts with "
        "T_i, T_f, traj_frac and perhaps n_stages"
    )


def _piece_of_dict(part: Mapping[str, Any], default_frac: float | None) -> _Piece:
    given = {"n_stages": DEFAULT_N_STAGES, **({} if default_frac is None else {"traj_frac": default_frac}), **part}
    unknown, missing = sorted(set(given) - _ALLOWED), sorted((_REQUIRED | {"traj_frac"}) - set(given))
    if unknown or missing:
        raise ValueError(f"temperature stage {dict(part)!r}: unknown keys {unknown}, missing keys {missing}")
    return _checked(given["T_i"], given["T_f"], given["n_stages"], given["traj_frac"])


def _checked(t_i: float, t_f: float, n_stages: int = DEFAULT_N_STAGES, traj_frac: float = 1.0) -> _Piece:
    if int(n_stages) < 1 or traj_frac < 0 or min(t_i, t_f) < 0:
        raise ValueError(
            f"temperature stage from {t_i} to {t_f} K with n_stages={n_stages}, traj_frac={traj_frac}: temperatures "
            "and traj_frac must not be negative and n_stages must be at least 1"
        )
    return _Piece(float(t_i), float(t_f), float(traj_frac), int(n_stages))


def thermalize(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Give Maxwell-Boltzmann velocities of exactly this temperature (K) and no total momentum."""
    from ase.md.velocitydistribution import Stationary, force_temperature

    widths = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * widths[:, np.newaxis])
    if not atoms.get_momenta().any():
        return  # nothing moves: zero temperature, or all is constrained
    force_temperature(atoms, temperature)
    if len(atoms) > 1:
        Stationary(atoms, preserve_temperature=True)
