"""Options of a molecular dynamics run, checked before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ase import Atoms

from wfl.generate.md.abort_base import AbortSimBase
from wfl.generate.md.temperature import Temperature, is_constant, stages
from wfl.utils.misc import MissingRngError
from wfl.utils.pressure import Pressure

__all__ = ["MDOptions", "always", "langevin_baoab_class"]

INTEGRATORS = ("Berendsen", "Langevin", "LangevinBAOAB")
OVERRIDE_KEY = "WFL_MD_KWARGS"


def always(at: Atoms) -> bool:
    """Keep every sampled frame."""
    return True


@dataclass(frozen=True)
class MDOptions:
    """What one configuration may override of the arguments of `wfl.generate.md.md`, where they are described."""

    integrator: str = "Berendsen"
    temperature: Temperature = None
    temperature_tau: float | None = None
    pressure: Pressure = None
    hydrostatic: bool = True
    pressure_tau: float | None = None
    pressure_mass_factor: float = 1
    compressibility_au: float | None = None
    compressibility_fd_displ: float = 0.01
    traj_step_interval: int = 1
    skip_failures: bool = True
    results_prefix: str | None = "last_op__md_"
    verbose: bool = False
    update_config_type: str | bool | None = "append"
    traj_select_during_func: Callable[[Atoms], bool] = always
    traj_select_after_func: Callable[[list[Atoms]], Sequence[Atoms]] | None = None
    abort_check: AbortSimBase | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> MDOptions:
        """Options among the arguments of a call."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

    def overridden_by(self, info: Mapping[str, Any]) -> MDOptions:
        """Options for one configuration: what its info entry `WFL_MD_KWARGS`, a dict as JSON text, names is replaced.

        Raises
        ------
        KeyError
            If the entry names what is not an option.
        ValueError
            If the entry is not a dict in JSON.
        """
        if OVERRIDE_KEY not in info:
            return self
        given = _parsed(info[OVERRIDE_KEY])
        known = [field.name for field in fields(self)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise KeyError(f"info {OVERRIDE_KEY} has unknown keys {unknown}; possible are {known}")
        return replace(self, **given)

    def check(self, steps: int, has_rng: bool) -> None:
        """Raise an error about the combination of options that makes no sense."""
        if self.integrator not in INTEGRATORS:
            raise ValueError(f"integrator {self.integrator!r} is not one of {', '.join(INTEGRATORS)}")
        if self.traj_step_interval < 1:
            raise ValueError(f"traj_step_interval must be at least 1, not {self.traj_step_interval}")
        for name in ("temperature_tau", "pressure_tau"):
            if not (getattr(self, name) is None or getattr(self, name) > 0):
                raise ValueError(f"{name} is a time in fs above 0, not {getattr(self, name)}")
        if self.integrator == "LangevinBAOAB":
            langevin_baoab_class()
        self._check_pressure()
        self._check_temperature()
        stages(self.temperature, steps)
        if self.temperature is not None and not has_rng:
            raise MissingRngError(
                "initial velocities are random: pass rng=numpy.random.default_rng(seed), or temperature=None to start "
                "from the velocities in the configurations"
            )

    def _check_pressure(self) -> None:
        if self.pressure is None or self.integrator == "LangevinBAOAB":
            return
        if self.integrator == "Langevin":
            raise ValueError("integrator 'Langevin' has no barostat; use 'LangevinBAOAB' or 'Berendsen' for pressure")
        if not self.hydrostatic:
            raise ValueError("integrator 'Berendsen' scales the cell isotropically: hydrostatic=False is not possible")
        if self.temperature_tau is None:
            raise ValueError("integrator 'Berendsen' with pressure needs temperature_tau")

    def _check_temperature(self) -> None:
        if self.temperature_tau is None:
            if self.temperature is not None and not is_constant(self.temperature):
                raise RuntimeError(
                    f"temperature {self.temperature!r} changes, which needs a thermostat: give temperature_tau"
                )
        elif self.temperature is None:
            raise ValueError("temperature_tau sets a thermostat, which needs temperature")


def langevin_baoab_class() -> Any:
    """Class of ASE's `LangevinBAOAB`; an error says which version has it."""
    try:
        from ase.md.langevinbaoab import LangevinBAOAB
    except ImportError as exc:
        import ase

        raise ImportError(
            f"integrator 'LangevinBAOAB' needs ASE 3.27 or newer, installed is {ase.__version__}; "
            "use 'Langevin' (constant volume) or 'Berendsen'"
        ) from exc
    return LangevinBAOAB


def _parsed(value: Any) -> Mapping[str, Any]:
    try:
        given = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as exc:
        raise ValueError(f"info {OVERRIDE_KEY} is not JSON: {exc}; text was {value!r}") from exc
    if not isinstance(given, Mapping):
        raise ValueError(f"info {OVERRIDE_KEY} is a dict of options as JSON text, not {value!r}")
    return given
