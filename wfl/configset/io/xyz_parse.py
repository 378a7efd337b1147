"""From frames as bytes to configurations that are equal to those of ASE's reader."""

from __future__ import annotations

import io
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase.data import atomic_numbers

from wfl.configset.io.xyz_build import make_atoms, make_calculator, property_names
from wfl.configset.io.xyz_comment import parse_comment
from wfl.configset.io.xyz_errors import format_error
from wfl.configset.io.xyz_layout import DEFAULT_PROPERTIES, Layout, parse_layout
from wfl.configset.io.xyz_table import Columns, columns_of_matrix, columns_of_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase.atoms import Atoms

    from wfl.configset.io.xyz_frames import Chunk, Frame

__all__ = ["parse_chunk"]

_MIN_MATRIX_LINES = 12  # below, reading tokens is faster


class _Head(NamedTuple):
    """A frame with its comment line parsed; no layout if it is left to ASE."""

    frame: Frame
    info: dict[str, Any]
    layout: Layout | None


def parse_chunk(chunk: Chunk, path: Path) -> Iterator[Atoms]:
    """Yield the configurations of a chunk.

    Raises
    ------
    XYZFormatError
        A frame cannot be read.
    """
    heads = [_head(chunk, frame) for frame in chunk.frames]
    for layout, run in groupby(heads, key=lambda head: head.layout):
        if layout is None:
            yield from (_by_ase(chunk, head.frame, path) for head in run)
        else:
            yield from _parse_run(chunk, list(run), layout, path)


def _head(chunk: Chunk, frame: Frame) -> _Head:
    try:
        comment = chunk.text(frame.row + 1, frame.row + 2).strip()
        info = parse_comment(comment) if comment else {}
        properties = info.pop("Properties", DEFAULT_PROPERTIES)
    except (ValueError, OverflowError):
        return _Head(frame, {}, None)
    if frame.n_vectors or not isinstance(properties, str):
        return _Head(frame, {}, None)
    return _Head(frame, info, parse_layout(properties))


def _parse_run(chunk: Chunk, heads: Sequence[_Head], layout: Layout, path: Path) -> Iterator[Atoms]:
    """Yield the configurations of neighbouring frames with the same columns."""
    table = _matrix_columns(chunk, heads, layout)
    row = 0
    for head in heads:
        n_atoms = head.frame.n_atoms
        try:
            if table is not None:
                columns = table.part(row, row + n_atoms)
            else:
                first = head.frame.row + 2
                columns = columns_of_rows(_lines(chunk, first, first + n_atoms), layout)
            atoms = _atoms(head.info, columns, layout, n_atoms)
        except (ValueError, OverflowError, KeyError, TypeError, IndexError, _LeftToASE):
            atoms = _by_ase(chunk, head.frame, path)
        row += n_atoms
        yield atoms


def _lines(chunk: Chunk, start: int, stop: int) -> list[str]:
    return chunk.text(start, stop).split("\n")[: stop - start]


def _matrix_columns(chunk: Chunk, heads: Sequence[_Head], layout: Layout) -> Columns | None:
    """Return the columns of all the frames together, if all lines are laid out alike."""
    frames = [head.frame for head in heads]
    if sum(frame.n_atoms for frame in frames) < _MIN_MATRIX_LINES:
        return None
    first, last = frames[0].row, frames[-1].stop
    is_atom = np.ones(last - first, bool)
    heads_at = np.array([frame.row for frame in frames]) - first
    is_atom[heads_at] = False
    is_atom[heads_at + 1] = False
    lines = np.flatnonzero(is_atom) + first
    starts = chunk.starts[lines]
    widths = chunk.starts[lines + 1] - starts
    width = int(widths[0])
    if not (widths == width).all():
        return None
    data = np.frombuffer(chunk.data, np.uint8)
    rows = np.lib.stride_tricks.sliding_window_view(data, width)[starts]
    return columns_of_matrix(rows, layout)


class _LeftToASE(Exception):
    """Raised where only ASE's reader knows what to do."""


def _atoms(info: dict[str, Any], columns: Columns, layout: Layout, n_atoms: int) -> Atoms:
    pbc = info.pop("pbc", None)
    lattice = info.pop("Lattice", None)
    if pbc is None and lattice is not None:
        pbc = True
    arrays = {prop.name: values for prop, values in zip(layout.properties, columns.values, strict=True)}
    symbols, numbers, positions = (arrays.pop(name, None) for name in ("symbols", "numbers", "positions"))
    if positions is None or positions.shape != (n_atoms, 3):
        raise _LeftToASE
    charges = arrays.pop("initial_charges", None)
    atoms = make_atoms(
        _numbers(symbols, numbers, n_atoms),
        np.array(positions, float, order="C"),
        None if lattice is None else lattice.T,
        pbc,
        info,
    )
    if charges is not None:
        atoms.set_initial_charges(charges)
    mask = arrays.pop("move_mask", None)
    if mask is not None:
        _constrain(atoms, mask)
    _distribute(atoms, arrays)
    return atoms


def _numbers(symbols: Any, numbers: np.ndarray[Any, Any] | None, n_atoms: int) -> Any:
    if numbers is not None:
        if numbers.ndim != 1 or numbers.dtype.kind != "i":
            raise _LeftToASE
        return numbers.astype(int)
    if symbols is None:
        return np.zeros(n_atoms, int)
    if not isinstance(symbols, list):
        if symbols.dtype != np.int64:
            raise _LeftToASE
        return symbols.copy()
    known = {symbol: atomic_numbers[symbol.capitalize()] for symbol in set(symbols)}
    return np.array([known[symbol] for symbol in symbols], int)


def _constrain(atoms: Atoms, mask: Any) -> None:
    from ase.constraints import FixAtoms, FixCartesian

    mask = np.asarray(mask).astype(bool)
    if mask.ndim == 1:
        atoms.set_constraint(FixAtoms(mask=~mask))
    elif mask.shape[1] == 3:
        atoms.set_constraint([FixCartesian(index, mask=~row) for index, row in enumerate(mask)])
    else:
        raise _LeftToASE


def _distribute(atoms: Atoms, arrays: dict[str, Any]) -> None:
    """Give the arrays and entries that are results of a calculator to one, and the other arrays to the atoms."""
    names, names_per_config = property_names()
    results: dict[str, Any] = {}
    for name, values in arrays.items():
        array = np.array(values, object) if isinstance(values, list) else values
        if name in names:
            results[name] = array
        elif array.dtype.kind == "O":
            atoms.new_array(name, array)
        else:
            atoms.arrays[name] = np.array(array, order="C")
    info = atoms.info
    for key in [key for key in info if key in names_per_config]:
        results[key] = _result(key, info.pop(key))
    if results:
        atoms.calc = make_calculator(atoms, results)


def _result(key: str, value: Any) -> Any:
    if key == "stress" and value.shape == (3, 3):
        return np.array([value[0, 0], value[1, 1], value[2, 2], value[1, 2], value[0, 2], value[0, 1]])
    return value


def _by_ase(chunk: Chunk, frame: Frame, path: Path) -> Atoms:
    from ase.io.extxyz import read_xyz

    text = chunk.text(frame.row, frame.stop)
    try:
        atoms: Atoms = next(iter(read_xyz(io.StringIO(text), 0)))
    except Exception as error:
        line, detail = _where(chunk, frame)
        message = f"cannot read the frame of {frame.n_atoms} atoms that starts at line {chunk.line + frame.row}: "
        raise format_error(path, chunk.line + line, f"{message}{detail or error}") from error
    return atoms


def _where(chunk: Chunk, frame: Frame) -> tuple[int, str]:
    """Return the line within the chunk that is at fault, and what is wrong with it if that can be said."""
    layout = _head(chunk, frame).layout
    if layout is None:
        return frame.row + 1, ""
    first = frame.row + 2
    for number, line in enumerate(_lines(chunk, first, first + frame.n_atoms)):
        try:
            columns = columns_of_rows([line], layout)
            if layout.properties[0].name == "symbols":
                _numbers(columns.values[0], None, 1)
        except KeyError as error:
            return first + number, f"unknown chemical symbol {error}"
        except (ValueError, OverflowError) as error:
            return first + number, str(error)
    return frame.row + 1, ""
