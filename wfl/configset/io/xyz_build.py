"""Making `Atoms` and their calculators quickly: the constructors check and copy what a parser has just made.

New objects get the attributes that the constructors of the installed ASE give. If these are not the ones known here,
the constructors themselves are used.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.atoms import Atoms
from ase.cell import Cell

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["make_atoms", "make_calculator", "property_names"]

Array = np.ndarray[Any, Any]

_ATOMS_ATTRIBUTES = {"_cellobj", "_pbc", "arrays", "_celldisp", "_constraints", "info", "_calc"}
_CALCULATOR_ATTRIBUTES = {"atoms", "results", "parameters", "_directory", "prefix", "get_spin_polarized", "use_cache"}
_NO_PBC, _NO_CELL, _NO_SHIFT = np.zeros(3, bool), np.zeros((3, 3)), np.zeros((3, 1))
_SCALARS = ("energy", "magmom", "free_energy")


def make_atoms(numbers: Array, positions: Array, cell: Array | None, pbc: Any, info: dict[str, Any]) -> Atoms:
    """Return the configuration; the arrays become its own.

    Parameters
    ----------
    numbers
        Atomic numbers, int of shape (n,).
    positions
        Å, float of shape (n, 3), C-contiguous.
    cell
        Å, of shape (3, 3), None for no cell.
    pbc
        One or three booleans, None for none.
    info
        Becomes its ``info``.
    """
    return _atoms_maker()(numbers, positions, cell, pbc, info)


def make_calculator(atoms: Atoms, results: dict[str, Any]) -> Any:
    """Return the `SinglePointCalculator` of a configuration without constraints or with."""
    return _calculator_maker()(atoms, results)


@functools.cache
def property_names() -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that ASE takes for results of calculators: all of them, and those of the whole configuration."""
    from ase.calculators.calculator import all_properties
    from ase.outputs import ArrayProperty, all_outputs

    def per_atom(prop: Any) -> bool:
        return isinstance(prop, ArrayProperty) and prop.shapespec[0] == "natoms"

    per_config = {name for name, prop in all_outputs.items() if name in all_properties and not per_atom(prop)}
    return frozenset(all_properties), frozenset(per_config)


@functools.cache
def _atoms_maker() -> Callable[..., Atoms]:
    known = set(Atoms("H").__dict__) == _ATOMS_ATTRIBUTES and set(Cell(np.eye(3)).__dict__) == {"array"}
    return _atoms_directly if known else _atoms_by_constructor


def _atoms_by_constructor(numbers: Array, positions: Array, cell: Any, pbc: Any, info: dict[str, Any]) -> Atoms:
    return Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc, info=info)


def _atoms_directly(numbers: Array, positions: Array, cell: Any, pbc: Any, info: dict[str, Any]) -> Atoms:
    atoms: Atoms = Atoms.__new__(Atoms)
    flags = _NO_PBC.copy()
    if pbc is not None:
        flags[:] = pbc
    atoms.__dict__ = {
        "_cellobj": Cell(_NO_CELL.copy() if cell is None else np.array(cell, float)),
        "_pbc": flags,
        "arrays": {"numbers": numbers, "positions": positions},
        "_celldisp": _NO_SHIFT.copy(),
        "_constraints": [],
        "info": info,
        "_calc": None,
    }
    return atoms


@functools.cache
def _calculator_maker() -> Callable[[Atoms, dict[str, Any]], Any]:
    from ase.calculators.singlepoint import SinglePointCalculator

    def by_constructor(atoms: Atoms, results: dict[str, Any]) -> Any:
        return SinglePointCalculator(atoms, **results)

    template = SinglePointCalculator(Atoms("H"), energy=0.0).__dict__
    shared = {key: template.get(key) for key in ("_directory", "prefix", "use_cache")}
    if set(template) != _CALCULATOR_ATTRIBUTES or template["parameters"] or _atoms_maker() is not _atoms_directly:
        return by_constructor
    parameters = type(template["parameters"])

    def directly(atoms: Atoms, results: dict[str, Any]) -> Any:
        calculator = SinglePointCalculator.__new__(SinglePointCalculator)
        values = {key: value if key in _SCALARS else np.array(value, float) for key, value in results.items()}
        calculator.__dict__ = {"atoms": _copied(atoms), "results": values, "parameters": parameters(), **shared}
        calculator.get_spin_polarized = calculator._deprecated_get_spin_polarized
        return calculator

    return directly


def _copied(atoms: Atoms) -> Atoms:
    if atoms.constraints:
        return atoms.copy()
    arrays = atoms.arrays
    new = _atoms_directly(arrays["numbers"], arrays["positions"], atoms.cell.array, atoms.pbc, dict(atoms.info))
    new.arrays = {name: array.copy() for name, array in arrays.items()}
    return new
