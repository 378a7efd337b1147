"""Writing extended XYZ files, byte by byte what ASE writes."""

from __future__ import annotations

import io
import json
import numbers
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from wfl.configset.io.sink import Sink
from wfl.configset.locations import shallow_copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ase.atoms import Atoms

__all__ = ["XYZWriter", "format_frame"]

Array = np.ndarray[Any, Any]

_SQUARE = frozenset({"Lattice", "virial", "stress"})
_UNLISTED = frozenset({"symbols", "positions", "numbers", "species", "pos"})
_PROPERTY_NAMES = {"positions": "pos", "numbers": "Z", "charges": "charge", "symbols": "species"}
_FORMATS = {"f": ("R", "%16.8f"), "i": ("I", "%8d"), "O": ("S", "%s"), "U": ("S", "%-2s"), "b": ("L", " %.1s")}
_QUOTED = frozenset(" \"'{}[]")


class XYZWriter:
    """Appends configurations to an extended XYZ file.

    Parameters
    ----------
    path
        The file.
    compression
        None, ``gz``, ``bz2``, ``xz`` or ``zst``.
    write_kwargs
        Keywords of ASE's writer of this format.
    resume
        Append to what is there instead of starting anew.
    """

    resumable = True

    def __init__(self, path: Path, compression: str | None, write_kwargs: dict[str, Any], *, resume: bool) -> None:
        self._sink = Sink(path, compression, resume=resume)
        self._write_kwargs = write_kwargs

    @property
    def offset(self) -> int:
        """Bytes of the file when all that was written arrives; -1 within a compressed member."""
        return self._sink.offset

    def write(self, atoms: Atoms, info: dict[str, Any]) -> None:
        """Append one configuration with this ``info`` instead of its own."""
        text = _by_ase(atoms, info, self._write_kwargs) if self._write_kwargs else format_frame(atoms, info)
        self._sink.write(text.encode())

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._sink.flush()

    def position(self) -> int:
        """Make everything written so far readable up to an offset, and return that offset."""
        return self._sink.boundary()

    def close(self) -> None:
        """Finish and close the file."""
        self._sink.close()


class _LeftToASE(Exception):
    """Raised for configurations of which only ASE's writer knows how to write them."""


def format_frame(atoms: Atoms, info: dict[str, Any] | None = None) -> str:
    """Return the text of one configuration, the same that `ase.io.write` gives.

    Values that would break the file are written as JSON instead: empty texts and arrays, and texts with line breaks.

    Parameters
    ----------
    atoms
        The configuration; results of its calculator are written too.
    info
        Entries of the comment line, by default the ``info`` of the configuration.
    """
    entries = atoms.info if info is None else info
    try:
        return _format(atoms, entries)
    except _LeftToASE:
        return _by_ase(atoms, entries, {})


def _by_ase(atoms: Atoms, info: dict[str, Any], write_kwargs: dict[str, Any]) -> str:
    from ase.io.extxyz import write_xyz

    copied = shallow_copy(atoms)
    copied.info = dict(info)
    text = io.StringIO()
    write_xyz(text, [copied], **write_kwargs)
    return text.getvalue()


def _format(atoms: Atoms, info: dict[str, Any]) -> str:
    if atoms.constraints or len(atoms) == 0 or "move_mask" in atoms.arrays:
        raise _LeftToASE
    arrays, entries = _with_results(atoms, info)
    columns = {"symbols": np.array(list(atoms.symbols)), "positions": atoms.arrays["positions"]}
    columns.update((name, array) for name, array in arrays.items() if name not in _UNLISTED)
    properties, row_format, values = _table(columns, len(atoms))
    entries["pbc"] = atoms.pbc
    comment = f"{_lattice(atoms)}Properties={properties} {_format_entries(entries)}"
    return f"{len(atoms)}\n{comment}\n{row_format * len(atoms) % values}"


def _with_results(atoms: Atoms, info: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and entries together with the results of the calculator."""
    if atoms.calc is None:
        return atoms.arrays, dict(info)
    results = getattr(atoms.calc, "results", None)
    if not isinstance(results, dict):
        raise _LeftToASE
    from wfl.configset.io.xyz_build import property_names

    names, names_per_config = property_names()
    per_config = {key: value for key, value in results.items() if key in names_per_config}
    per_atom = {key: value for key, value in results.items() if key in names and key not in names_per_config}
    if not (per_config.keys().isdisjoint(info) and per_atom.keys().isdisjoint(atoms.arrays)):
        raise _LeftToASE
    entries = {**info, **per_config}
    if getattr(entries.get("stress"), "shape", None) == (6,):
        xx, yy, zz, yz, xz, xy = entries["stress"]
        entries["stress"] = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return {**atoms.arrays, **per_atom}, entries


def _table(columns: dict[str, Array], n_atoms: int) -> tuple[str, str, tuple[Any, ...]]:
    """Return the Properties string, the format of a line, and all values, line by line."""
    names: list[str] = []
    formats: list[str] = []
    lists: list[list[Any]] = []
    for name, array in columns.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in _FORMATS:
            raise _LeftToASE
        if array.ndim not in (1, 2) or len(array) != n_atoms or array.dtype == np.longdouble:
            raise _LeftToASE
        kind, column_format = _FORMATS[array.dtype.kind]
        mine = [array.tolist()] if array.ndim == 1 else array.T.tolist()
        names.append(f"{_PROPERTY_NAMES.get(name, name)}:{kind}:{len(mine)}")
        formats += [column_format] * len(mine)
        lists += mine
    values = tuple(value for row in zip(*lists, strict=True) for value in row)
    return ":".join(names), " ".join(formats) + "\n", values


def _lattice(atoms: Atoms) -> str:
    cell = atoms.cell.array
    if not cell.any():
        return ""
    return f'Lattice="{" ".join(map(str, cell.ravel().tolist()))}" '


def _format_entries(entries: dict[str, Any]) -> str:
    words = (_format_entry(key, value) for key, value in entries.items())
    return " ".join(word for word in words if word is not None).strip()


def _format_entry(key: str, value: Any) -> str | None:
    if not isinstance(key, str):
        raise _LeftToASE
    if value is None:
        return _escaped(key)
    formatter = _FORMATTERS.get(type(value))
    text = formatter(value) if formatter else _format_value(key, value)
    if text is None:
        try:
            text = "_JSON " + json.dumps(value.tolist() if isinstance(value, np.ndarray) else value)
        except TypeError:
            warnings.warn(f"Skipping unhashable information {key}", stacklevel=2)
            return None
    elif not text or "\n" in text or "\r" in text:
        return f"{_escaped(key)}={_as_json(text)}"
    return f"{_escaped(key)}={_escaped(text)}"


def _as_json(text: str) -> str:
    inner = json.dumps(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"_JSON {inner}"'


def _escaped(text: str) -> str:
    if _QUOTED.isdisjoint(text):
        return text
    inner = text.replace('"', '\\"')
    return f'"{inner}"'


def _format_bool(value: Any) -> str:
    return "T" if value else "F"


def _format_value(key: str, value: Any) -> str | None:
    """Return the text of a value, None if it is to be written as JSON."""
    if isinstance(value, np.ndarray):
        return _format_array(key, value)
    if isinstance(value, numbers.Real):
        return f"{value}"
    spacegroup = sys.modules.get("ase.spacegroup.spacegroup")
    if spacegroup is not None and isinstance(value, spacegroup.Spacegroup):
        return str(value.symbol)
    return value if isinstance(value, str) else None


def _format_array(key: str, value: Array) -> str | None:
    if key in _SQUARE:
        value = value.reshape(value.size, order="F")
    kind = value.dtype.kind
    if kind not in "ifb" or value.ndim > 1 or value.size == 0:
        if key in _SQUARE:
            raise _LeftToASE
        return None
    if value.ndim == 0:
        return str(value)
    if kind == "b":
        return " ".join(map(_format_bool, value.tolist()))
    return " ".join(map(str, value.tolist() if value.itemsize == 8 or kind == "i" else value))


_FORMATTERS: dict[type, Callable[[Any], str]] = {
    str: str,
    bool: _format_bool,
    np.bool_: _format_bool,
    int: str,
    float: str,
    np.float64: lambda value: str(float(value)),
    np.int64: str,
}
