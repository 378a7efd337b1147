"""Integrators, thermostats and barostats of ASE, chosen by the options of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ase import Atoms, units

from wfl.generate.md.options import MDOptions, langevin_baoab_class
from wfl.utils.parallel import serial_keywords

__all__ = ["estimate_compressibility", "make_dynamics"]

PRESSURE_TAU_FACTOR = 3.0
NPH_PRESSURE_TAU_STEPS = 1000


def make_dynamics(
    atoms: Atoms,
    options: MDOptions,
    dt: float,
    temperature: float | None,
    pressure: float | None,
    rng: np.random.Generator | None,
) -> Any:
    """ASE dynamics object for a run.

    Parameters
    ----------
    atoms
        Configuration with its calculator; will be moved.
    options
        Options, already checked.
    dt
        Time step in fs.
    temperature
        First target temperature in K; later ones are set with `set_temperature`.
    pressure
        GPa
    rng
        Generator for stochastic thermostats.
    """
    with _quiet_constructors():
        if options.integrator == "LangevinBAOAB":
            return _langevin_baoab(atoms, options, dt * units.fs, temperature, pressure, rng)
        if options.temperature_tau is None:
            return _velocity_verlet(atoms, dt * units.fs)
        if options.integrator == "Langevin":
            return _langevin(atoms, options, dt * units.fs, temperature, rng)
        return _berendsen(atoms, options, dt * units.fs, temperature, pressure)


@contextmanager
def _quiet_constructors() -> Iterator[None]:
    """ASE's advice on defaults that are chosen here on purpose is not for the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fixcm.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*P_mass.*")
        yield


def _velocity_verlet(atoms: Atoms, timestep: float) -> Any:
    from ase.md.verlet import VelocityVerlet

    return VelocityVerlet(atoms, timestep=timestep)


def _langevin(atoms: Atoms, options: MDOptions, timestep: float, temperature: float | None, rng: Any) -> Any:
    from ase.md.langevin import Langevin

    return Langevin(
        atoms,
        timestep=timestep,
        temperature_K=temperature,
        friction=1.0 / _tau(options.temperature_tau),
        fixcm=len(atoms) > 1,  # a single atom is its own centre of mass
        rng=rng,
        **serial_keywords(Langevin),
    )


def _tau(tau: float | None) -> float:
    """Time in ASE's units; checks have been made before."""
    return float(tau or 0.0) * units.fs


def _pressure_tau(options: MDOptions) -> float:
    if options.pressure_tau is not None:
        return _tau(options.pressure_tau)
    return PRESSURE_TAU_FACTOR * _tau(options.temperature_tau)


def _berendsen(
    atoms: Atoms, options: MDOptions, timestep: float, temperature: float | None, pressure: float | None
) -> Any:
    from ase.md.nptberendsen import NPTBerendsen
    from ase.md.nvtberendsen import NVTBerendsen

    common: dict[str, Any] = {"timestep": timestep, "temperature_K": temperature, "taut": _tau(options.temperature_tau)}
    if pressure is None:
        return NVTBerendsen(atoms, **common)
    compressibility = options.compressibility_au
    if compressibility is None:
        compressibility = estimate_compressibility(atoms, options.compressibility_fd_displ)
    return NPTBerendsen(
        atoms,
        taup=_pressure_tau(options),
        pressure_au=pressure * units.GPa,
        compressibility_au=compressibility,
        **common,
    )


def _langevin_baoab(
    atoms: Atoms, options: MDOptions, timestep: float, temperature: float | None, pressure: float | None, rng: Any
) -> Any:
    cls = langevin_baoab_class()
    kwargs: dict[str, Any] = serial_keywords(cls)
    if options.temperature_tau is not None:
        kwargs |= {"temperature_K": temperature, "T_tau": _tau(options.temperature_tau), "rng": rng}
    if pressure is not None:
        free = options.temperature_tau is None and options.pressure_tau is None
        kwargs |= {
            "externalstress": -pressure * units.GPa,
            "P_tau": NPH_PRESSURE_TAU_STEPS * timestep if free else _pressure_tau(options),
            "P_mass_factor": options.pressure_mass_factor,
            "hydrostatic": options.hydrostatic,
        }
    return cls(atoms, timestep, **kwargs)


def estimate_compressibility(atoms: Atoms, displ: float = 0.01) -> float:
    """Isothermal compressibility at zero temperature, from energies of the cell scaled by `1 - displ, 1, 1 + displ`.

    With `s` the linear scale and E the energy, 1/κ = V d²E/dV² = (d²E/ds² - 2 dE/ds) / 9V.

    Parameters
    ----------
    atoms
        Periodic configuration with a calculator; not modified.
    displ
        Relative change of lengths.

    Returns
    -------
    float
        Å³/eV

    Raises
    ------
    ValueError
        If the energy does not curve upwards.
    """
    lower, middle, upper = (_scaled_energy(atoms, 1.0 + change) for change in (-displ, 0.0, displ))
    curvature = (upper + lower - 2.0 * middle) / displ**2 - (upper - lower) / displ
    if not curvature > 0.0:
        raise ValueError(
            f"compressibility of {atoms.symbols} cannot be estimated: the energy does not rise when the cell is scaled "
            f"by {1 - displ} and {1 + displ}; give compressibility_au"
        )
    return float(9.0 * atoms.get_volume() / curvature)


def _scaled_energy(atoms: Atoms, scale: float) -> float:
    probe = atoms.copy()
    probe.set_constraint()
    probe.set_cell(atoms.cell * scale, scale_atoms=True)
    probe.calc = atoms.calc
    return float(probe.get_potential_energy())
