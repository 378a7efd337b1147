"""Evaluate configurations with any ASE calculator."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import traceback
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ase import Atoms

from wfl.autoparallelize import autoparallelize, autoparallelize_docstring
from wfl.utils.misc import atoms_to_list, describe_failure
from wfl.utils.parallel import CalculatorForm, calculator_name, construct_calculator_picklesafe, is_calculator

__all__ = ["calculate"]

log = logging.getLogger(__name__)

DEFAULT_INPUTS_PER_CALL = 10
DEFAULT_PROPERTIES = ("energy", "forces", "stress")
PREFIX_KEY = "__calculator_output_prefix"
SAVED_KEY = "__calculator_results_saved"
_RECIPE_KEYS = ("WFL_CALCULATOR_INITIALIZER", "WFL_CALCULATOR_ARGS", "WFL_CALCULATOR_KWARGS")
_WRAPPED_CLASSES = {"Aims", "Castep", "Espresso", "MOPAC", "ORCA", "Vasp"}


def default_autopara_info(calculator: CalculatorForm) -> dict[str, Any]:
    """How calls with this calculator are split: its class may say so in `wfl_generic_default_autopara_info`."""
    info = getattr(calculator, "wfl_generic_default_autopara_info", None)
    if info is None and isinstance(calculator, (tuple, list)) and calculator:
        info = getattr(calculator[0], "wfl_generic_default_autopara_info", None)
    return {"num_inputs_per_python_subprocess": DEFAULT_INPUTS_PER_CALL, **(info or {})}


def _run_autopara_wrappable(
    atoms: Atoms | Sequence[Atoms],
    calculator: CalculatorForm,
    properties: Sequence[str] | None = None,
    output_prefix: str | None = "_auto_",
    verbose: bool = False,
    raise_calc_exceptions: bool = False,
) -> Atoms | list[Atoms]:
    """Evaluate configurations with a calculator and store the results with them.

    Each configuration may override the calculator with the info entries `WFL_CALCULATOR_INITIALIZER` (callable),
    `WFL_CALCULATOR_ARGS` (list) and `WFL_CALCULATOR_KWARGS` (dict, added to those of the recipe).

    A configuration that cannot be evaluated is returned without results and with the info entries
    `<prefix>calculation_failed=True` and `<prefix>calculation_failure`, the exception. If the calculator does not give
    all properties, those that are there are stored and info `<prefix>calculation_missing` lists the others.

    Parameters
    ----------
    atoms : sequence of Atoms
        Configurations; not modified.
    calculator : Calculator or (callable, sequence or None, dict or None)
        ASE calculator, or recipe `(callable, args or None, kwargs or None)`; a recipe can be sent to other processes
        and machines whatever the calculator is made of.
    properties : sequence of str, optional
        Names of ASE, if not given energy, forces and stress. Stress is left out if nothing is periodic.
    output_prefix : str or None, optional
        Start of the names of info and arrays entries. `"_auto_"`: name of the calculator's class and an underscore.
        None: results go to a `SinglePointCalculator` on `atoms.calc`.
    verbose : bool, optional
        Log each configuration.
    raise_calc_exceptions : bool, optional
        Raise the exception of a configuration that cannot be evaluated.

    Returns
    -------
    list(Atoms) or Atoms
        Copies with results.

    Raises
    ------
    ValueError
        If the prefix is empty or the calculator is needed and cannot be made.
    TypeError
        If a configuration overrides a calculator that is not a recipe.
    """
    if output_prefix == "":
        raise ValueError("output_prefix must not be empty; give some text, '_auto_', or None for atoms.calc")
    if multiprocessing.parent_process() is None:
        warn_about_ase_class(calculator)
    prefix = f"{calculator_name(calculator)}_" if output_prefix == "_auto_" else output_prefix
    evaluator = _Evaluator(calculator, prefix, list(properties or DEFAULT_PROPERTIES), raise_calc_exceptions, verbose)
    results = [evaluator.evaluate(at) for at in atoms_to_list(atoms)]
    return results[0] if isinstance(atoms, Atoms) else results


def warn_about_ase_class(calculator: CalculatorForm) -> None:
    """Warn if a recipe names one of ASE's file-based classes for which this package has its own."""
    cls = calculator[0] if isinstance(calculator, (tuple, list)) and calculator else None
    name = getattr(cls, "__name__", "")
    if name in _WRAPPED_CLASSES and getattr(cls, "__module__", "").startswith("ase.calculators."):
        warnings.warn(
            f"the recipe names ASE's own {name}; wfl.calculators has a {name} that runs every configuration in its own "
            "directory and cleans up after itself",
            RuntimeWarning,
            stacklevel=1,
        )


class _Evaluator:
    """Evaluation of the configurations of one chunk."""

    def __init__(
        self, calculator: CalculatorForm, prefix: str | None, properties: list[str], raises: bool, verbose: bool
    ) -> None:
        self._recipe = calculator
        self._default: Any = None
        self._default_error: Exception | None = None
        self._prefix = prefix
        self._properties = properties
        self._raises = raises
        self._level = logging.INFO if verbose else logging.DEBUG
        self._missing_seen: set[str] = set()

    def evaluate(self, original: Atoms) -> Atoms:
        """Copy of a configuration with results, or with the reason why there are none."""
        atoms: Atoms = original.copy()
        default = None if _overrides(atoms) else self._default_calculator()
        if default is None and is_calculator(self._recipe):
            raise TypeError(
                f"a configuration has {', '.join(_overrides(atoms))}: this needs the calculator as a recipe "
                f"(callable, args, kwargs), not as a {type(self._recipe).__name__} object"
            )
        self._forget_results(atoms)
        try:
            atoms.calc = default if default is not None else self._own_calculator(atoms)
            self._calculate_and_save(atoms)
        except Exception as exc:
            self._fail(atoms, exc)
            if self._raises:
                raise
        finally:
            atoms.info.pop(PREFIX_KEY, None)
            atoms.info.pop(SAVED_KEY, None)
        return atoms

    def _default_calculator(self) -> Any:
        if self._default is None and self._default_error is None:
            try:
                self._default = construct_calculator_picklesafe(self._recipe)
            except Exception as exc:
                self._default_error = exc
        if self._default_error is not None:
            raise ValueError(
                f"the calculator cannot be made: {describe_failure(self._default_error)}"
            ) from self._default_error
        return self._default

    def _own_calculator(self, atoms: Atoms) -> Any:
        """Calculator of a configuration that overrides the recipe."""
        factory, args, kwargs = self._recipe
        info = atoms.info
        return construct_calculator_picklesafe(
            (
                info.get("WFL_CALCULATOR_INITIALIZER", factory),
                info.get("WFL_CALCULATOR_ARGS", args),
                {**(kwargs or {}), **info.get("WFL_CALCULATOR_KWARGS", {})},
            )
        )

    def _forget_results(self, atoms: Atoms) -> None:
        from wfl.utils.save_calc_results import delete_results

        for name in ("failed", "failure", "missing"):
            atoms.info.pop(self._key(f"calculation_{name}"), None)
        if self._prefix is not None:
            delete_results(atoms, self._prefix)

    def _key(self, name: str) -> str:
        return (self._prefix or "") + name

    def _calculate_and_save(self, atoms: Atoms) -> None:
        from wfl.utils.save_calc_results import save_calc_results

        log.log(self._level, "calculating %s with %s", atoms.symbols, type(atoms.calc).__name__)
        wanted = _for_periodicity(self._properties, atoms)
        if self._prefix is not None:
            atoms.info[PREFIX_KEY] = self._prefix
        _forget_last(atoms.calc)
        _calculate(atoms, wanted)
        if not atoms.info.get(SAVED_KEY, False):
            wanted = self._available(atoms, wanted)
        save_calc_results(atoms, prefix=self._prefix, properties=wanted)

    def _available(self, atoms: Atoms, wanted: list[str]) -> list[str]:
        """Those of the wanted properties that the calculator gave; the others are noted."""
        results = atoms.calc.results
        missing = [name for name in wanted if results.get(name) is None]
        if "energy" in missing and results.get("free_energy") is not None:
            missing.remove("energy")
        if missing:
            atoms.info[self._key("calculation_missing")] = " ".join(missing)
            self._warn_missing(missing, type(atoms.calc).__name__)
        return [name for name in wanted if name not in missing]

    def _warn_missing(self, missing: list[str], calculator: str) -> None:
        new = sorted(set(missing) - self._missing_seen)
        if new:
            self._missing_seen.update(new)
            warnings.warn(
                f"{calculator} gives no {', '.join(new)}: only the other properties are stored, and info "
                f"{self._key('calculation_missing')!r} names what is missing",
                RuntimeWarning,
                stacklevel=2,
            )

    def _fail(self, atoms: Atoms, exc: Exception) -> None:
        """Take partial results away and note the reason."""
        self._forget_results(atoms)
        atoms.calc = None
        atoms.info[self._key("calculation_failed")] = True
        atoms.info[self._key("calculation_failure")] = describe_failure(exc)
        if not self._raises:
            text = "".join(traceback.format_exception(exc))
            warnings.warn(f"calculation failed for {atoms.symbols}\n{text}", RuntimeWarning, stacklevel=2)


def _overrides(atoms: Atoms) -> list[str]:
    return [key for key in _RECIPE_KEYS if key in atoms.info]


def _for_periodicity(properties: list[str], atoms: Atoms) -> list[str]:
    return properties if atoms.pbc.any() else [name for name in properties if name not in ("stress", "stresses")]


def _forget_last(calc: Any) -> None:
    """Remove what a calculator remembers of another configuration, where it could be taken for results of this one."""
    if isinstance(getattr(calc, "results", None), dict):
        calc.results = {}
    extra = getattr(calc, "extra_results", None)
    if isinstance(extra, dict):
        extra.update({name: {} for name in ("config", "atoms") if name in extra})
        extra.pop("relaxed_positions", None)


def _calculate(atoms: Atoms, properties: list[str]) -> None:
    """Calculate directly, so that nothing comes from a cache; leave out what the calculator refuses to do."""
    from ase.calculators.calculator import PropertyNotImplementedError, all_changes

    try:
        atoms.calc.calculate(atoms, properties=properties, system_changes=list(all_changes))
    except PropertyNotImplementedError:
        possible = [name for name in properties if name in getattr(atoms.calc, "implemented_properties", ())]
        if not possible or possible == properties:
            raise
        atoms.calc.calculate(atoms, properties=possible, system_changes=list(all_changes))


def calculate(*args: Any, **kwargs: Any) -> Any:  # noqa: D103  (takes the docstring of the operation)
    calculator = _calculator_argument(args, kwargs)
    warn_about_ase_class(calculator)
    defaults = default_autopara_info(calculator)
    return autoparallelize(_run_autopara_wrappable, *args, default_autopara_info=defaults, **kwargs)


def _calculator_argument(args: Sequence[Any], kwargs: Mapping[str, Any]) -> CalculatorForm:
    """Calculator among the arguments of `calculate`, None if there is none; inputs and outputs may be keywords."""
    position = 2 - ("inputs" in kwargs) - ("outputs" in kwargs)
    return kwargs.get("calculator", args[position] if len(args) > position else None)


def _public_signature() -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    _, *rest = inspect.signature(_run_autopara_wrappable).parameters.values()
    inputs, outputs = inspect.Parameter("inputs", kind), inspect.Parameter("outputs", kind)
    info = inspect.Parameter("autopara_info", inspect.Parameter.KEYWORD_ONLY, default=None)
    return inspect.Signature([inputs, outputs, *rest, info])


autoparallelize_docstring(calculate, _run_autopara_wrappable, "Atoms")
calculate.__signature__ = _public_signature()  # type: ignore[attr-defined]
calculate.op = _run_autopara_wrappable  # type: ignore[attr-defined]
_run_autopara_wrappable.__qualname__ = "calculate.op"  # messages name the operation by what users call
