"""Results of a calculator as entries of `Atoms.info` and `Atoms.arrays`, or in a `SinglePointCalculator`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotPresent, all_properties
from ase.outputs import all_outputs

__all__ = [
    "at_copy_save_calc_results",
    "delete_group",
    "delete_results",
    "per_atom_properties",
    "per_config_properties",
    "save_calc_results",
]

SAVED_KEY = "__calculator_results_saved"


def _is_per_atom(name: str) -> bool:
    return tuple(all_outputs[name].shapespec[:1]) == ("natoms",)


_known = [name for name in all_outputs if name in all_properties]
per_atom_properties: list[str] = [name for name in _known if _is_per_atom(name)]
per_config_properties: list[str] = [name for name in _known if not _is_per_atom(name)]
_PER_ATOM = frozenset(per_atom_properties)
_PER_CONFIG = frozenset(per_config_properties)


def save_calc_results(atoms: Atoms, *, prefix: str | None, properties: Iterable[str] | None) -> None:
    """Store the results of `atoms.calc` with the configuration and detach the calculator.

    Nothing is calculated: values are those in `atoms.calc.results`. The stored energy is the force-consistent (free)
    energy where the calculator gives one. A calculator that has stored its results itself says so with the info
    entry `__calculator_results_saved`, which is removed.

    Parameters
    ----------
    atoms
        Configuration with a calculator that has been evaluated; modified.
    prefix
        Start of the names of info and arrays entries, or None to put a `SinglePointCalculator` on the configuration.
        Older entries of the same prefix are removed.
    properties
        ASE property names, None for all that the calculator has.

    Raises
    ------
    ValueError
        If the prefix is empty, an array has a wrong length, or extra results have no prefix to be stored under.
    PropertyNotPresent
        If a requested property is not among the results.
    """
    if atoms.info.get(SAVED_KEY, False):
        del atoms.info[SAVED_KEY]
        return
    if prefix == "":
        raise ValueError("prefix of calculator results must not be empty; give some text, or None for atoms.calc")
    calc = atoms.calc
    extra = getattr(calc, "extra_results", None) or {}
    values = _values(getattr(calc, "results", None) or {}, properties)
    if extra.get("relaxed_positions") is not None:
        atoms.set_positions(extra["relaxed_positions"], apply_constraint=False)
    if prefix is None:
        _save_single_point(atoms, values, extra)
    else:
        _save_entries(atoms, prefix, values, extra, getattr(calc, "converged", None))


def _values(results: Mapping[str, Any], properties: Iterable[str] | None) -> dict[str, Any]:
    names = list(results) if properties is None else list(properties)
    missing = [name for name in names if name not in results and not (name == "energy" and "free_energy" in results)]
    if missing:
        raise PropertyNotPresent(f"the calculator gave no {', '.join(missing)}, only {', '.join(results) or 'nothing'}")
    values = {name: results.get(name) for name in names if name in _PER_ATOM or name in _PER_CONFIG}
    if "energy" in values:
        values["energy"] = results.get("free_energy", values["energy"])
    return {name: value for name, value in values.items() if value is not None}


def _save_single_point(atoms: Atoms, values: dict[str, Any], extra: Mapping[str, Any]) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    names = [*(extra.get("config") or {}), *(extra.get("atoms") or {})]
    if names:
        raise ValueError(f"extra results {', '.join(names)} need an output prefix; None leaves no place for them")
    atoms.calc = SinglePointCalculator(atoms, **{name: _own(value) for name, value in values.items()})


def _save_entries(
    atoms: Atoms, prefix: str, values: dict[str, Any], extra: Mapping[str, Any], converged: bool | None
) -> None:
    delete_results(atoms, prefix)
    for name, value in values.items():
        if name in _PER_ATOM:
            _set_array(atoms, prefix + name, value)
        else:
            atoms.info[prefix + name] = _own(value)
    if converged is not None:
        atoms.info[prefix + "converged"] = converged
    for name, value in (extra.get("config") or {}).items():
        atoms.info[prefix + name] = value
    for name, value in (extra.get("atoms") or {}).items():
        _set_array(atoms, prefix + name, value)
    atoms.calc = None


def _own(value: Any) -> Any:
    """A copy, because calculators may reuse their arrays."""
    return value.copy() if isinstance(value, np.ndarray) else value


def _set_array(atoms: Atoms, name: str, value: Any) -> None:
    atoms.arrays.pop(name, None)  # set_array refuses another shape
    atoms.set_array(name, np.asarray(value))


def delete_results(atoms: Atoms, prefix: str) -> None:
    """Remove the results that are stored under `prefix`."""
    for name in per_atom_properties:
        atoms.arrays.pop(prefix + name, None)
    for name in per_config_properties:
        atoms.info.pop(prefix + name, None)
    atoms.info.pop(prefix + "converged", None)


def delete_group(atoms: Atoms, prefix: str | None) -> None:
    """Remove what earlier operations left under the group of `prefix`, its part up to the first double underscore."""
    if prefix is None or "__" not in prefix:
        return
    group = prefix[: prefix.index("__") + 2]
    for entries in (atoms.info, atoms.arrays):
        for key in [key for key in entries if isinstance(key, str) and key.startswith(group)]:
            del entries[key]


def at_copy_save_calc_results(at: Atoms, prefix: str | None, properties: Iterable[str] | None = None) -> Atoms:
    """Copy a configuration and store the results of its calculator with the copy.

    Parameters
    ----------
    at
        Configuration with an evaluated calculator; not modified.
    prefix
        As in `save_calc_results`. If it contains a double underscore, all entries that start with the part up to
        the first one are removed before: results under `last_op__…` replace those of the operation before.
    properties
        ASE property names, None for all.

    Returns
    -------
    Atoms
        The copy; its constraints are copied as well.
    """
    copied: Atoms = at.copy()
    delete_group(copied, prefix)
    copied.calc = at.calc
    save_calc_results(copied, prefix=prefix, properties=properties)
    return copied
