"""Molecular dynamics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from wfl.autoparallelize import autoparallelized
from wfl.generate.md.abort_base import AbortSimBase
from wfl.generate.md.options import MDOptions, always
from wfl.generate.md.temperature import Stage, Temperature, stages, thermalize
from wfl.generate.utils import save_config_type
from wfl.utils.misc import describe_failure
from wfl.utils.parallel import CalculatorForm, construct_calculator_picklesafe
from wfl.utils.pressure import Pressure, sample_pressure

__all__ = ["md"]

log = logging.getLogger(__name__)


@autoparallelized(input_iterable_type="Atoms", num_inputs_per_python_subprocess=10)
def md(
    atoms: Sequence[Atoms],
    calculator: CalculatorForm,
    steps: int,
    dt: float,
    integrator: str = "Berendsen",
    temperature: Temperature = None,
    temperature_tau: float | None = None,
    pressure: Pressure = None,
    hydrostatic: bool = True,
    pressure_tau: float | None = None,
    pressure_mass_factor: float = 1,
    compressibility_au: float | None = None,
    compressibility_fd_displ: float = 0.01,
    traj_step_interval: int = 1,
    skip_failures: bool = True,
    results_prefix: str | None = "last_op__md_",
    verbose: bool = False,
    update_config_type: str | bool | None = "append",
    traj_select_during_func: Callable[[Atoms], bool] = always,
    traj_select_after_func: Callable[[list[Atoms]], Sequence[Atoms]] | None = None,
    abort_check: AbortSimBase | None = None,
    logger_interval: int = 0,
    logger_kwargs: Mapping[str, Any] | None = None,
    rng: np.random.Generator | None = None,
    _autopara_per_item_info: Sequence[Mapping[str, Any]] | None = None,
) -> list[list[Atoms]]:
    """Run molecular dynamics from each configuration.

    A configuration may override all arguments but `calculator`, `steps`, `dt` and the logger's with its info entry
    `WFL_MD_KWARGS`, a dict as JSON text.

    Parameters
    ----------
    atoms : sequence of Atoms
        Configurations to start from; not modified.
    calculator : Calculator or (callable, sequence or None, dict or None)
        ASE calculator, or recipe `(callable, args or None, kwargs or None)`.
    steps : int
        Number of time steps.
    dt : float
        Time step in fs.
    integrator : str, optional
        `"Berendsen"`, `"Langevin"` or `"LangevinBAOAB"`. The first two integrate without thermostat (velocity Verlet)
        if there is no `temperature_tau`, the last one then does constant energy or, with `pressure`, enthalpy.
    temperature : float, tuple, dict or list of dict, optional
        K. None: go on with the velocities in the configurations. A number: constant. `(T_i, T_f[, n_stages=10])`: ramp.
        List of dicts with `T_i`, `T_f`, `traj_frac` and perhaps `n_stages`: consecutive pieces, each a fraction of all
        steps. Initial velocities are drawn at the first temperature.
    temperature_tau : float, optional
        Time scale of the thermostat in fs, None for no thermostat.
    pressure : float or tuple, optional
        GPa. A number, or a form of `wfl.utils.pressure.sample_pressure` to take from info or draw one for each
        configuration. None: fixed cell.
    hydrostatic : bool, optional
        Whether the cell keeps its shape; False only with `"LangevinBAOAB"`.
    pressure_tau : float, optional
        Time scale of the barostat in fs; if not given, 3 times `temperature_tau`.
    pressure_mass_factor : float, optional
        Factor on the mass of the barostat of `"LangevinBAOAB"`.
    compressibility_au : float, optional
        Å³/eV, for the Berendsen barostat. None: estimated from the energies of scaled cells.
    compressibility_fd_displ : float, optional
        Relative change of lengths for that estimate.
    traj_step_interval : int, optional
        Steps between frames.
    skip_failures : bool, optional
        Return what there is of a run that fails or is aborted; its last frame says why in info
        `<results_prefix>failure`. False: raise the exception.
    results_prefix : str or None, optional
        Start of the names of info and arrays entries of results, None for a `SinglePointCalculator`.
    verbose : bool, optional
        Log each run.
    update_config_type : str or bool, optional
        `"append"` or `"overwrite"` to note `MD` in info `config_type`, False not to.
    traj_select_during_func : callable(Atoms) -> bool, optional
        Called with the running configuration, which has the info entries of a frame; false drops the frame.
    traj_select_after_func : callable(list of Atoms) -> list of Atoms, optional
        Called with the list of all frames, returns those to keep.
    abort_check : AbortSimBase, optional
        Asked at every sampled step whether to end the run; each configuration starts with a fresh copy.
    logger_interval : int, optional
        Steps between lines of the logger, 0 for none.
    logger_kwargs : dict, optional
        `"logger"`: class, if not given `ase.md.logger.MDLogger`; `"logfile"`: name, to which `.config_<number>` is
        appended, or `"-"`; and further arguments of the logger.
    rng : numpy.random.Generator, optional
        Source of random numbers.

    Returns
    -------
    list(list(Atoms))
        One trajectory per configuration, velocities included, with the info entries `MD_step`, `MD_time_fs`,
        `MD_current_temperature`, and where they apply `MD_temperature_K` and `MD_pressure_GPa`.

    Raises
    ------
    ValueError, RuntimeError
        If arguments make no sense together.
    KeyError
        If `WFL_MD_KWARGS` names what cannot be overridden.
    """
    options = MDOptions.of(locals())
    calc = construct_calculator_picklesafe(calculator)
    item_info = _autopara_per_item_info or [{"item_i": i} for i in range(len(atoms))]
    all_options = [options.overridden_by(at.info) for at in atoms]
    for own_options, per_item in zip(all_options, item_info, strict=True):
        own_options.check(steps, has_rng=per_item.get("rng") is not None)
    logger = (logger_interval, logger_kwargs)
    return [
        _trajectory(at, calc, steps, dt, own_options, logger, per_item)
        for at, own_options, per_item in zip(atoms, all_options, item_info, strict=True)
    ]


def _trajectory(
    original: Atoms,
    calc: Any,
    steps: int,
    dt: float,
    options: MDOptions,
    logger: tuple[int, Mapping[str, Any] | None],
    item_info: Mapping[str, Any],
) -> list[Atoms]:
    """All frames of one run that were selected."""
    frames: list[Atoms] = []
    try:
        _run(original, calc, steps, dt, options, logger, item_info, frames)
    except Exception as exc:
        if not options.skip_failures:
            raise
        _note_failure(exc, original, frames, options)
    selected = frames if options.traj_select_after_func is None else list(options.traj_select_after_func(frames))
    for frame in selected:
        save_config_type(frame, options.update_config_type, "MD")
    return selected


def _note_failure(exc: Exception, original: Atoms, frames: list[Atoms], options: MDOptions) -> None:
    reason = describe_failure(exc)
    log.warning("MD of %s ended after %d frames: %s", original.symbols, len(frames), reason, exc_info=exc)
    if frames:
        frames[-1].info[f"{options.results_prefix or ''}failure"] = reason


def _run(
    original: Atoms,
    calc: Any,
    steps: int,
    dt: float,
    options: MDOptions,
    logger: tuple[int, Mapping[str, Any] | None],
    item_info: Mapping[str, Any],
    frames: list[Atoms],
) -> None:
    """Run all stages, adding to `frames`."""
    from wfl.generate.md.integrators import make_dynamics
    from wfl.generate.md.loggers import attach_logger
    from wfl.generate.md.trajectory import Recorder

    rng = item_info.get("rng")
    run_stages = stages(options.temperature, steps)
    atoms, pressure = _prepare(original, calc, run_stages[0].temperature, options, rng)
    dynamics = make_dynamics(atoms, options, dt, run_stages[0].temperature, pressure, rng)
    recorder = Recorder(atoms, dynamics, options, dt, frames)
    dynamics.attach(recorder, interval=options.traj_step_interval)
    attach_logger(dynamics, atoms, *logger, item_info.get("item_i", 0))
    log.log(logging.INFO if options.verbose else logging.DEBUG, "MD of %s, stages %s", atoms.symbols, run_stages)
    _run_stages(dynamics, recorder, run_stages, has_thermostat=options.temperature_tau is not None)
    recorder.finish()


def _prepare(
    original: Atoms, calc: Any, temperature: float | None, options: MDOptions, rng: np.random.Generator | None
) -> tuple[Atoms, float | None]:
    """Copy to be moved, with its velocities, and its pressure in GPa."""
    from wfl.utils.save_calc_results import delete_group

    atoms = original.copy()
    delete_group(atoms, options.results_prefix)
    atoms.calc = calc
    pressure = None
    if options.pressure is not None:
        pressure = atoms.info["MD_pressure_GPa"] = sample_pressure(options.pressure, atoms, rng)
    if temperature is not None and rng is not None:
        thermalize(atoms, temperature, rng)
    return atoms, pressure


def _run_stages(dynamics: Any, recorder: Any, run_stages: list[Stage], has_thermostat: bool) -> None:
    """One dynamics object does all stages, so that steps, time and the state of the barostat go on."""
    todo = [stage for stage in run_stages if stage.n_steps] or run_stages[:1]
    for stage in todo:
        if has_thermostat:
            recorder.target_temperature = stage.temperature
            dynamics.set_temperature(temperature_K=stage.temperature)
        dynamics.run(stage.n_steps)
