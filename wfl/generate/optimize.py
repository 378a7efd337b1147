"""Relaxation of positions and cells."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from wfl.autoparallelize import autoparallelized
from wfl.generate.utils import save_config_type
from wfl.utils.logging import PrefixedStream
from wfl.utils.misc import describe_failure
from wfl.utils.parallel import CalculatorForm, construct_calculator_picklesafe, serial_keywords
from wfl.utils.pressure import Pressure, sample_pressure
from wfl.utils.save_calc_results import at_copy_save_calc_results, delete_group

__all__ = ["optimize", "subselect_from_traj"]

log = logging.getLogger(__name__)

SYMPREC = 0.01
LABEL_KEY = "optimize_config_type"
_SMALL = 100
_SUBSELECTIONS = (None, "last", "last_converged")


@autoparallelized(input_iterable_type="Atoms", num_inputs_per_python_subprocess=10)
def optimize(
    atoms: Sequence[Atoms],
    calculator: CalculatorForm,
    fmax: float = 1.0e-3,
    smax: float | None = None,
    steps: int = 1000,
    pressure: Pressure = None,
    stress_mask: Sequence[bool] | None = None,
    keep_symmetry: bool = True,
    traj_step_interval: int = 1,
    traj_subselect: str | None = None,
    skip_failures: bool = True,
    results_prefix: str | None = "last_op__optimize_",
    verbose: bool = False,
    update_config_type: str | bool | None = "append",
    rng: np.random.Generator | None = None,
    _autopara_per_item_info: Sequence[Mapping[str, Any]] | None = None,
    **opt_kwargs: Any,
) -> list[list[Atoms] | Atoms | None]:
    """Relax each configuration with ASE's preconditioned L-BFGS.

    Parameters
    ----------
    atoms : sequence of Atoms
        Configurations to start from; not modified. Info `RSS_min_vol_per_atom` (Å³), if there, ends a run that shrinks
        below it; info `buildcell_config_i` marks the lines of its log.
    calculator : Calculator or (callable, sequence or None, dict or None)
        ASE calculator, or recipe `(callable, args or None, kwargs or None)`.
    fmax : float, optional
        Largest force on an atom of a converged configuration, eV/Å.
    smax : float, optional
        Largest stress component of a converged configuration, eV/Å³; if not given, the number of `fmax`.
    steps : int
        Most steps to do.
    pressure : float or tuple, optional
        GPa. A number, or a form of `wfl.utils.pressure.sample_pressure` to take from info or draw one for each
        configuration; the cell is relaxed. None: fixed cell.
    stress_mask : sequence of bool, optional
        Components of the stress (Voigt, or 3x3) that the cell may follow; if not given, all.
    keep_symmetry : bool, optional
        Keep the symmetry of the configuration.
    traj_step_interval : int, optional
        Steps between frames; the first and the last state are always kept.
    traj_subselect : str, optional
        None: whole trajectory. `"last"`: last frame. `"last_converged"`: last frame if converged, else nothing.
    skip_failures : bool, optional
        Return what there is of a run that fails; its last frame says why in info `<results_prefix>failure`. False:
        raise the exception.
    results_prefix : str or None, optional
        Start of the names of info and arrays entries of results, None for a `SinglePointCalculator`.
    verbose : bool, optional
        Write the log of the optimizer, and the symmetry before and after, to standard output, if `opt_kwargs` name no
        other `logfile`.
    update_config_type : str or bool, optional
        `"append"` or `"overwrite"` to note the label of a frame in info `config_type`, False not to.
    rng : numpy.random.Generator, optional
        Source of random numbers, for random pressures.
    opt_kwargs : dict
        Further arguments of `ase.optimize.precon.PreconLBFGS`.

    Returns
    -------
    list(list(Atoms) or Atoms or None)
        One trajectory, or what was selected from it, per configuration. Info `optimize_config_type` is
        `optimize_initial`, `optimize_mid`, and for the last frame `optimize_last_` with `converged`, `unconverged` or
        `exception`; the last frame has info `optimize_n_steps`, and all `optimize_pressure_GPa` if there is one.

    Raises
    ------
    RuntimeError
        If `traj_subselect` is another one.
    """
    options = _Options.of(locals())
    calc = construct_calculator_picklesafe(calculator)
    item_info = _autopara_per_item_info or [{} for _ in atoms]
    trajectories = (
        _trajectory(at, calc, options, per_item.get("rng")) for at, per_item in zip(atoms, item_info, strict=True)
    )
    return [subselect_from_traj(trajectory, traj_subselect) for trajectory in trajectories]


_run_autopara_wrappable = optimize.op  # type: ignore[attr-defined]


def subselect_from_traj(traj: list[Atoms], subselect: str | None = None) -> list[Atoms] | Atoms | None:
    """Part of a trajectory of `optimize`.

    Parameters
    ----------
    traj
        Trajectory.
    subselect
        None: all; `"last"`: last frame; `"last_converged"`: last frame if it is converged, else None.

    Raises
    ------
    RuntimeError
        If `subselect` is another one.
    """
    _check_subselection(subselect)
    if subselect is None:
        return traj
    last = traj[-1] if traj else None
    if subselect == "last_converged" and (last is None or last.info.get(LABEL_KEY) != "optimize_last_converged"):
        return None
    return last


def _check_subselection(subselect: Any) -> None:
    if subselect not in _SUBSELECTIONS:
        raise RuntimeError(f"traj_subselect is None, 'last' or 'last_converged', not {subselect!r}")


@dataclass(frozen=True)
class _Options:
    """Arguments of a call that hold for all its configurations."""

    fmax: float
    smax: float
    steps: int
    pressure: Pressure
    stress_mask: Sequence[bool] | None
    keep_symmetry: bool
    traj_step_interval: int
    skip_failures: bool
    results_prefix: str | None
    verbose: bool
    update_config_type: str | bool | None
    opt_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> _Options:
        _check_subselection(arguments["traj_subselect"])
        given = {name: arguments[name] for name in cls.__dataclass_fields__}
        if given["traj_step_interval"] < 1:
            raise ValueError(f"traj_step_interval must be at least 1, not {given['traj_step_interval']}")
        given["smax"] = given["fmax"] if given["smax"] is None else given["smax"]
        return cls(**given)

    def optimizer_kwargs(self, n_atoms: int) -> dict[str, Any]:
        from ase.optimize.precon import PreconLBFGS

        kwargs = {"logfile": None, "master": True, **serial_keywords(PreconLBFGS), **self.opt_kwargs}
        if kwargs["logfile"] is None and self.verbose:
            kwargs["logfile"] = "-"
        if kwargs.get("precon", "auto") == "auto" and n_atoms < _SMALL:
            kwargs["precon"] = None  # what "auto" would choose, without its warning
        return kwargs


@dataclass
class _Run:
    """What has come out of a relaxation so far."""

    frames: list[Atoms] = field(default_factory=list)
    n_steps: int = 0


def _trajectory(original: Atoms, calc: Any, options: _Options, rng: np.random.Generator | None) -> list[Atoms]:
    run = _Run()
    try:
        status = "converged" if _relax(original, calc, options, rng, run) else "unconverged"
    except Exception as exc:
        if not options.skip_failures:
            raise
        status = "exception"
        _note_failure(exc, original, run, options)
    _label(run, status, options.update_config_type)
    return run.frames


def _note_failure(exc: Exception, original: Atoms, run: _Run, options: _Options) -> None:
    reason = describe_failure(exc)
    log.warning("relaxation of %s failed: %s", original.symbols, reason, exc_info=exc)
    if not run.frames:
        run.frames.append(_unevaluated(original, options))
    run.frames[-1].info[f"{options.results_prefix or ''}failure"] = reason


def _unevaluated(original: Atoms, options: _Options) -> Atoms:
    """What stands for a configuration that could not even be evaluated once."""
    atoms: Atoms = original.copy()
    delete_group(atoms, options.results_prefix)
    return atoms


def _label(run: _Run, status: str, update_config_type: str | bool | None) -> None:
    frames = run.frames
    labels = ["optimize_initial", *["optimize_mid"] * (len(frames) - 2)][: len(frames) - 1]
    for frame, label in zip(frames, [*labels, f"optimize_last_{status}"], strict=True):
        frame.info[LABEL_KEY] = label
        save_config_type(frame, update_config_type, label)
    frames[-1].info["optimize_n_steps"] = run.n_steps


def _relax(original: Atoms, calc: Any, options: _Options, rng: np.random.Generator | None, run: _Run) -> bool:
    """Relax a copy, adding to the frames of `run`; returns whether it converged."""
    from ase.optimize.precon import PreconLBFGS

    atoms = original.copy()
    delete_group(atoms, options.results_prefix)
    atoms.calc = calc
    kwargs = options.optimizer_kwargs(len(atoms))
    with ExitStack() as stack:
        logfile = kwargs["logfile"] = _logfile(kwargs["logfile"], atoms, stack)
        symmetry_log = logfile if options.verbose else None
        _log_symmetry(symmetry_log, atoms, "initial")
        if options.keep_symmetry:
            _fix_symmetry(atoms)  # may move atoms and cell a bit, hence before the filter
        optimizer = PreconLBFGS(_with_free_cell(atoms, options, rng), **kwargs)
        recorder = _Recorder(atoms, original.constraints, optimizer, options.results_prefix, run)
        optimizer.attach(recorder.check, interval=1)
        optimizer.attach(recorder.sample, interval=options.traj_step_interval)
        converged = bool(optimizer.run(fmax=options.fmax, smax=options.smax, steps=options.steps))
        recorder.sample()
        _log_symmetry(symmetry_log, atoms, "final")
    return converged


def _logfile(logfile: Any, atoms: Atoms, stack: ExitStack) -> PrefixedStream | None:
    if logfile is None:
        return None
    config_i = atoms.info.get("buildcell_config_i")
    return stack.enter_context(PrefixedStream(logfile, "" if config_i is None else f"{config_i} "))


def _with_free_cell(atoms: Atoms, options: _Options, rng: np.random.Generator | None) -> Any:
    """The configuration, or if there is a pressure its filter with the cell's degrees of freedom."""
    if options.pressure is None:
        return atoms
    from ase.units import GPa

    from wfl.generate.cell_filter import RememberingCellFilter

    pressure = atoms.info["optimize_pressure_GPa"] = sample_pressure(options.pressure, atoms, rng)
    return RememberingCellFilter(atoms, scalar_pressure=pressure * GPa, mask=options.stress_mask)


def _has_cell(atoms: Atoms) -> bool:
    """Whether there are three lattice vectors, so that there are a volume and symmetry operations."""
    return bool(atoms.cell.rank == 3)


def _fix_symmetry(atoms: Atoms) -> None:
    if not _has_cell(atoms):
        return
    from ase.constraints import FixSymmetry

    atoms.set_constraint([*atoms.constraints, FixSymmetry(atoms, symprec=SYMPREC, adjust_cell=False)])


def _log_symmetry(stream: PrefixedStream | None, atoms: Atoms, when: str) -> None:
    if stream is None or not _has_cell(atoms):
        return
    from ase.spacegroup.symmetrize import check_symmetry

    dataset = check_symmetry(atoms, symprec=SYMPREC)
    if dataset is None:
        return
    number, international, hall = (_entry(dataset, name) for name in ("number", "international", "hall"))
    stream.write(f"{when} symmetry group number {number} international {international} Hall {hall} prec {SYMPREC}\n")


def _entry(dataset: Any, name: str) -> Any:
    """Entry of spglib's dataset: an object since 2.5, a dict before."""
    return dataset[name] if isinstance(dataset, dict) else getattr(dataset, name)


class _Recorder:
    """Observer of the optimizer that keeps frames."""

    def __init__(self, atoms: Atoms, constraints: Sequence[Any], optimizer: Any, prefix: str | None, run: _Run) -> None:
        self._atoms = atoms
        self._constraints = constraints
        self._optimizer = optimizer
        self._prefix = prefix
        self._run = run

    def check(self) -> None:
        """Count the step and end the run if the cell has become too small."""
        self._run.n_steps = int(self._optimizer.nsteps)
        smallest = self._atoms.info.get("RSS_min_vol_per_atom")
        if smallest is None or not _has_cell(self._atoms):
            return
        volume = self._atoms.get_volume() / len(self._atoms)
        if volume < smallest:
            raise RuntimeError(f"volume {volume:.4f} Å³ per atom is below RSS_min_vol_per_atom {smallest}")

    def sample(self) -> None:
        """Keep the current state unless it is that of the last frame."""
        frames = self._run.frames
        if not frames or frames[-1] != self._atoms:
            frames.append(self._frame())

    def _frame(self) -> Atoms:
        running = self._atoms.constraints
        self._atoms.constraints = []  # symmetry operations are costly to copy and not to be stored
        try:
            frame = at_copy_save_calc_results(self._atoms, prefix=self._prefix)
        finally:
            self._atoms.constraints = running
        frame.set_constraint(copy.deepcopy(list(self._constraints)))
        return frame
