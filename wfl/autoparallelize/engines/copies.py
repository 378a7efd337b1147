"""Copies of configurations, so that an operation that runs in this process does not change those of the caller."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["own_copies"]


def own_copies(values: list[Any]) -> list[Any]:
    """Return items with their configurations copied, also those in lists and in sets in memory.

    A configuration that is there twice is one object in the copies, too. Calculators are not copied, and things that
    are no configurations are handed over as they are.
    """
    seen: dict[int, Any] = {}
    return [_copy(value, seen) for value in values]


def _copy(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, (list, tuple)):
        items = [_copy(item, seen) for item in value]
        return tuple(items) if type(value) is tuple else items
    if hasattr(value, "get_positions"):
        if id(value) not in seen:
            seen[id(value)] = _copy_atoms(value)
        return seen[id(value)]
    if getattr(value, "_memory", None) is not None:
        new = copy.copy(value)
        new._memory = _copy(value._memory, seen)
        return new
    return value


def _copy_atoms(atoms: Any) -> Any:
    from ase.atoms import Atoms

    from .compact import copy_plain

    plain = copy_plain(atoms) if type(atoms) is Atoms else None
    if plain is not None:
        return plain
    new = atoms.copy()
    if getattr(atoms, "calc", None) is not None:
        new.calc = atoms.calc
    return new
