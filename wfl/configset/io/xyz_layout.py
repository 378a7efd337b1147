"""The columns of an XYZ frame: what ``Properties=name:kind:columns:...`` says."""

from __future__ import annotations

import functools
from typing import NamedTuple

__all__ = ["DEFAULT_PROPERTIES", "Layout", "Property", "parse_layout"]

DEFAULT_PROPERTIES = "species:S:1:pos:R:3"
_ASE_NAMES = {"pos": "positions", "Z": "numbers", "charge": "charges", "species": "symbols"}


class Property(NamedTuple):
    """One property of the atoms: ASE's name of it, its kind (``R``, ``I``, ``S``, ``L``), and its columns."""

    name: str
    kind: str
    start: int
    columns: int


class Layout(NamedTuple):
    """All columns of a frame."""

    properties: tuple[Property, ...]
    kinds: str  # one letter per column
    symbols: int  # number of the column of chemical symbols, -1 if there is none


@functools.lru_cache(maxsize=256)
def parse_layout(text: str) -> Layout | None:
    """Return the columns that a Properties string describes, None for what is left to ASE's own parser."""
    fields = text.split(":")
    if len(fields) % 3:
        return None
    properties: list[Property] = []
    kinds = ""
    for name, kind, columns in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        if kind not in ("R", "I", "S", "L") or not columns.isdecimal() or int(columns) < 1:
            return None
        if kind == "S" and columns != "1":
            return None
        properties.append(Property(_ASE_NAMES.get(name, name), kind, len(kinds), int(columns)))
        kinds += kind * int(columns)
    symbols = next((prop.start for prop in properties if prop.name == "symbols" and prop.kind == "S"), -1)
    return Layout(tuple(properties), kinds, symbols) if _is_plain(fields[::3], properties) else None


def _is_plain(names: list[str], properties: list[Property]) -> bool:
    """Whether no two columns have the same name, neither here nor in ASE."""
    columns: list[str] = []
    for name, prop in zip(names, properties, strict=True):
        columns += [name] if prop.columns == 1 else [f"{name}{i}" for i in range(prop.columns)]
    ase_names = {prop.name for prop in properties}
    return len(set(columns)) == len(columns) and len(ase_names) == len(properties)
