"""Frames of a running simulation."""

from __future__ import annotations

import copy
from typing import Any

from ase import Atoms

from wfl.generate.md.options import MDOptions
from wfl.utils.save_calc_results import at_copy_save_calc_results

__all__ = ["MDAborted", "Recorder"]


class MDAborted(RuntimeError):
    """Raised inside a run whose abort check says that it should end."""


class Recorder:
    """Observer of a dynamics object that keeps frames and asks the abort check.

    Attributes
    ----------
    frames : list(Atoms)
        Frames kept so far, with results and the info entries `MD_step`, `MD_time_fs`, `MD_current_temperature` and,
        with a thermostat, `MD_temperature_K`.
    target_temperature : float or None
        Temperature that the thermostat aims at now.
    """

    def __init__(self, atoms: Atoms, dynamics: Any, options: MDOptions, dt: float, frames: list[Atoms]) -> None:
        self.frames = frames
        self.target_temperature: float | None = None
        self._atoms = atoms
        self._dynamics = dynamics
        self._dt = dt
        self._options = options
        self._last_step = -1
        self._abort_check = copy.deepcopy(options.abort_check)
        reset = getattr(self._abort_check, "reset", None)
        if reset is not None:
            reset()

    def __call__(self) -> None:
        """Look at the current state, which has been evaluated."""
        self._last_step = self._dynamics.nsteps
        self._describe()
        if self._options.traj_select_during_func(self._atoms):
            self._keep()
        if self._abort_check is not None and self._abort_check.stop(self._atoms):
            raise MDAborted(f"{type(self._abort_check).__name__} ended the run at step {self._last_step}")

    def _describe(self) -> None:
        info = self._atoms.info
        info["MD_step"] = self._dynamics.nsteps
        info["MD_time_fs"] = self._dynamics.nsteps * self._dt
        info["MD_current_temperature"] = self._atoms.get_temperature()
        if self.target_temperature is not None:
            info["MD_temperature_K"] = self.target_temperature

    def _keep(self) -> None:
        self.frames.append(at_copy_save_calc_results(self._atoms, prefix=self._options.results_prefix))

    def finish(self) -> None:
        """Keep the last state too, if its step was not sampled and it differs from the last frame."""
        if self._dynamics.nsteps == self._last_step or (self.frames and self.frames[-1] == self._atoms):
            return
        self._describe()
        if self._options.traj_select_during_func(self._atoms):
            self._keep()
