"""Places of configurations in nested sets: index paths, and the strings that stand for them in ``Atoms.info``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ase.atoms import Atoms

Path = tuple[int, ...]

KEY = "_ConfigSet_loc"
SEPARATOR = " / "


def format_location(path: Iterable[int]) -> str:
    """Return the string of an index path: ``(0, 2)`` gives ``" / 0 / 2"``."""
    return "".join(f"{SEPARATOR}{index}" for index in path)


def parse_location(text: str | None) -> Path:
    """Return the index path of a location string; ``()`` for None and the empty string.

    Raises
    ------
    RuntimeError
        Part of the string is not an integer.
    """
    if not text:
        return ()
    parts = [part.strip() for part in str(text).split(SEPARATOR.strip())]
    indices = parts[0 if parts[0] else 1 :]
    if not indices or not all(part.isdecimal() for part in indices):
        raise RuntimeError(f"location {text!r} is not a series of integers like {format_location((0, 2))!r}")
    return tuple(map(int, indices))


def location_of(atoms: Atoms) -> Path | None:
    """Return the index path that a configuration carries, None if it carries none."""
    text = atoms.info.get(KEY)
    return None if text is None else parse_location(text)


def shallow_copy(atoms: Atoms) -> Atoms:
    """Return another `Atoms` with the same arrays and calculator, but dicts ``info`` and ``arrays`` of its own."""
    new: Atoms = copy.copy(atoms)
    new.info = dict(atoms.info)
    new.arrays = dict(atoms.arrays)
    return new


def without_location(atoms: Atoms) -> Atoms:
    """Return the configuration without its location: the object itself if it carries none, a shallow copy otherwise."""
    if KEY not in atoms.info:
        return atoms
    new = shallow_copy(atoms)
    del new.info[KEY]
    return new
