"""Short pickles and quick copies of configurations, which are most of what travels to workers and back.

The pickle of an `Atoms` as it is spends its time on half a dozen small arrays. Here these travel as one piece of
memory with a layout that is sent once per message. Whatever is not plain (subclasses of `Atoms`, arrays of objects)
is pickled as always; calculators, constraints and ``info`` are pickled as always in any case.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import Any, NamedTuple

import numpy as np
from ase.atoms import Atoms
from ase.cell import Cell

__all__ = ["copy_values", "dumps"]

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), np.float64, np.int64, np.bool_, np.str_})
_array = np.ndarray
_new: Any = object.__new__
_KEYS = {"_cellobj", "_celldisp", "_pbc", "arrays", "info", "_constraints", "_calc"}
_HEAD = 96  # bytes of the cell and of its displacement, which come first
_ALIGNED = 8
_MOST_LAYOUTS = 1000


class _Layout(NamedTuple):
    """Where the arrays of a configuration are in the memory that holds all of them."""

    arrays: tuple[tuple[str, Any, tuple[int, ...], int], ...]  # name, dtype, shape, offset
    pbc: int


_layouts: dict[tuple[Any, ...], tuple[_Layout, tuple[tuple[int, bytes], ...]] | None] = {}


def _layout_of(arrays: dict[str, Any]) -> tuple[_Layout, tuple[tuple[int, bytes], ...]] | None:
    """Return the layout of arrays, with what to put between them; None if they cannot be put into one piece."""
    key = tuple([(name, type(a), a.dtype, a.shape) for name, a in arrays.items()])
    try:
        return _layouts[key]
    except KeyError:
        if len(_layouts) > _MOST_LAYOUTS:
            _layouts.clear()
        _layouts[key] = found = _new_layout(arrays)
        return found


def _new_layout(arrays: dict[str, Any]) -> tuple[_Layout, tuple[tuple[int, bytes], ...]] | None:
    places: list[tuple[str, Any, tuple[int, ...], int]] = []
    gaps: list[tuple[int, bytes]] = []
    offset = _HEAD
    for name, array in arrays.items():
        if type(array) is not np.ndarray or array.dtype.hasobject:
            return None
        gap = -offset % _ALIGNED
        if gap:
            gaps.append((2 + len(places) + len(gaps), bytes(gap)))
        offset += gap
        places.append((name, array.dtype, array.shape, offset))
        offset += array.nbytes
    return _Layout(tuple(places), offset), tuple(gaps)


def _reduce_atoms(atoms: Any) -> Any:
    """Return how to pickle a configuration."""
    state = atoms.__dict__
    found = _layout_of(state["arrays"]) if state.keys() == _KEYS else None
    if found is None:
        return atoms.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    layout, gaps = found
    parts = [state["_cellobj"].array, state["_celldisp"], *state["arrays"].values(), state["_pbc"]]
    for index, gap in gaps:
        parts.insert(index, gap)
    try:
        memory = bytearray().join(parts)
    except (BufferError, TypeError, ValueError):  # not contiguous, or dates
        memory = bytearray().join([part if type(part) is bytes else part.tobytes() for part in parts])
    if state["_calc"] is None and not state["_constraints"]:
        return (_build_atoms, (layout, memory), {"info": state["info"]} if state["info"] else None)
    return _build_atoms, (layout, memory), {key: state[key] for key in ("info", "_constraints", "_calc")}


def _build_atoms(layout: tuple[Any, ...], memory: bytearray) -> Any:
    """Return a configuration whose arrays are in ``memory``."""
    places, pbc = layout
    arrays = {name: _array(shape, dtype, memory, offset) for name, dtype, shape, offset in places}
    return _put_together(
        _array((3, 3), float, memory), _array((3, 1), float, memory, 72), _array((3,), bool, memory, pbc), arrays, {}
    )


def _put_together(cell: Any, displacement: Any, pbc: Any, arrays: dict[str, Any], info: dict[str, Any]) -> Atoms:
    cell_object = _new(Cell)
    cell_object.array = cell
    atoms: Atoms = _new(Atoms)
    atoms.__dict__ = {
        "_cellobj": cell_object, "_celldisp": displacement, "_pbc": pbc, "arrays": arrays, "info": info,
        "_constraints": [], "_calc": None,
    }
    return atoms


def dumps(value: Any) -> bytes:
    """Pickle a value, configurations in it in the compact way."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {**copyreg.dispatch_table, Atoms: _reduce_atoms}
    pickler.dump(value)
    return file.getvalue()


def copy_plain(atoms: Atoms) -> Atoms | None:
    """Return an independent copy of a configuration, as its pickle would give; None if that takes a pickle."""
    state = atoms.__dict__
    if len(state) != len(_KEYS) or state["_calc"] is not None or state["_constraints"]:
        return None
    info, arrays = state["info"], {}
    for value in info.values():
        if type(value) not in _PLAIN:
            return None
    for name, array in state["arrays"].items():
        if type(array) is not np.ndarray or array.dtype.hasobject:
            return None
        arrays[name] = array.copy()
    return _put_together(
        state["_cellobj"].array.copy(), state["_celldisp"].copy(), state["_pbc"].copy(), arrays, info.copy()
    )


def copy_values(values: list[Any]) -> list[Any] | None:
    """Return independent copies of the configurations of one call; None if there is anything that takes a pickle.

    The same configuration twice is one object in the copies, too.
    """
    copies: dict[int, Any] = {}
    for value in values:
        if id(value) not in copies:
            new = copy_plain(value) if type(value) is Atoms else None
            if new is None:
                return None
            copies[id(value)] = new
    return [copies[id(value)] for value in values]
