"""What is in a file of configurations, collected in one pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from expyre.cli.text import clean
from wfl.cli.errors import noting

if TYPE_CHECKING:
    from ase.atoms import Atoms

    from wfl.configset import ConfigSet

__all__ = ["Summary", "summarise"]

_LOCATION = "_ConfigSet_loc"
_KINDS = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex", "U": "str", "S": "str", "O": "object"}
_MOST_FORMULAE = 10_000  # kept apart, so that memory has a bound
_MOST_TYPES = 20
_SHOWN = 8
_SEVERAL = "other"


@dataclass
class Entries:
    """Keys with the types of their values, and how many frames have them."""

    counts: Counter[str] = field(default_factory=Counter)
    types: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, key: Any, kind: str) -> None:
        """Count an entry of a frame."""
        name = str(key)
        self.counts[name] += 1
        types = self.types[name]
        types[kind if kind in types or len(types) < _MOST_TYPES else _SEVERAL] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return key: number of frames and types."""
        return {key: {"frames": self.counts[key], "types": dict(self.types[key])} for key in sorted(self.counts)}

    def lines(self, title: str, frames: int) -> Iterator[str]:
        """Yield the lines of a listing, nothing if there are no entries."""
        if not self.counts:
            return
        yield f"  {title}:"
        names = {key: clean(key) for key in sorted(self.counts)}
        width = max(map(len, names.values()))
        for key, name in names.items():
            types = " | ".join(kind for kind, _ in self.types[key].most_common())
            part = "" if self.counts[key] == frames else f", in {self.counts[key]} of {frames} frames"
            yield f"    {name:<{width}}  {types}{part}"


@dataclass
class Summary:
    """What is in one file."""

    name: str
    frames: int = 0
    min_atoms: int | None = None
    max_atoms: int | None = None
    total_atoms: int = 0
    levels: int = 0
    formulae: Counter[str] = field(default_factory=Counter)
    other_formulae: int = 0
    periodicity: Counter[str] = field(default_factory=Counter)
    info: Entries = field(default_factory=Entries)
    arrays: Entries = field(default_factory=Entries)
    results: Entries = field(default_factory=Entries)

    def add(self, atoms: Atoms, depth: int) -> None:
        """Count one configuration, at so many levels below the set."""
        n = len(atoms)
        self.frames += 1
        self.total_atoms += n
        self.min_atoms = n if self.min_atoms is None else min(n, self.min_atoms)
        self.max_atoms = n if self.max_atoms is None else max(n, self.max_atoms)
        self.levels = max(depth, self.levels)
        self._add_formula(formula_of(atoms))
        self.periodicity["".join("T" if flag else "F" for flag in atoms.pbc)] += 1
        for key, value in atoms.info.items():
            if key != _LOCATION:
                self.info.add(key, type_of(value))
        for key, value in atoms.arrays.items():
            self.arrays.add(key, type_of(value, per_atom=True))
        self._add_results(getattr(atoms.calc, "results", None), n)

    def _add_formula(self, formula: str) -> None:
        if formula in self.formulae or len(self.formulae) < _MOST_FORMULAE:
            self.formulae[formula] += 1
        else:
            self.other_formulae += 1

    def _add_results(self, results: Mapping[str, Any] | None, n: int) -> None:
        for key, value in (results or {}).items():
            shape = getattr(value, "shape", ())
            self.results.add(key, type_of(value, per_atom=key in _PER_ATOM and shape[:1] == (n,)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "file": self.name,
            "frames": self.frames,
            "atoms": {"min": self.min_atoms, "max": self.max_atoms, "total": self.total_atoms},
            "levels": self.levels,
            "formulae": dict(self.formulae.most_common()),
            "frames_of_other_formulae": self.other_formulae,
            "periodicity": dict(self.periodicity.most_common()),
            "info": self.info.to_dict(),
            "arrays": self.arrays.to_dict(),
            "results": self.results.to_dict(),
        }

    def lines(self) -> Iterator[str]:
        """Yield the lines of a listing."""
        yield clean(self.name)
        yield f"  frames: {self.frames}" + (f", in groups ({self.levels} levels)" if self.levels > 1 else "")
        if not self.frames:
            return
        size = f"{self.min_atoms}" if self.min_atoms == self.max_atoms else f"{self.min_atoms} to {self.max_atoms}"
        yield f"  atoms: {size}, {self.total_atoms} in all"
        yield f"  formulae: {self._formulae()}"
        yield f"  periodicity: {_counted(self.periodicity.most_common())}"
        for title, entries in (("info", self.info), ("arrays", self.arrays), ("results of a calculator", self.results)):
            yield from entries.lines(title, self.frames)

    def _formulae(self) -> str:
        more = len(self.formulae) - _SHOWN
        at_least = "at least " if self.other_formulae else ""
        return _counted(self.formulae.most_common(_SHOWN)) + (f", and {at_least}{more} more" if more > 0 else "")


_PER_ATOM = frozenset({"forces", "energies", "stresses", "charges", "magmoms"})


def formula_of(atoms: Atoms) -> str:
    """Return the formula in Hill's order."""
    import numpy as np

    return _formula(tuple(np.bincount(atoms.numbers).tolist()))


@lru_cache(maxsize=4096)
def _formula(counts: tuple[int, ...]) -> str:
    from ase.data import chemical_symbols
    from ase.formula import Formula

    return Formula.from_dict({chemical_symbols[z]: n for z, n in enumerate(counts) if n}).format("hill")


def _counted(pairs: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in pairs)


def type_of(value: Any, *, per_atom: bool = False) -> str:
    """Return the kind of a value in words, with the shape of an array; ``n`` stands for the number of atoms."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return type(value).__name__
    kind = _KINDS.get(dtype.kind) or str(dtype)
    shape = [str(length) for length in value.shape]
    if per_atom and shape:
        shape[0] = "n"
    return f"{kind} ({', '.join(shape)})" if shape else kind


def summarise(name: str, configs: ConfigSet) -> Summary:
    """Return the summary of a set of one file, reading it once.

    Parameters
    ----------
    name
        Name of the file.
    configs
        That file as a set.
    """
    from wfl.configset import iter_items

    summary = Summary(name)
    with noting(f"while reading {clean(name)}"):
        for item in iter_items(configs):
            summary.add(item.value, len(item.path or ()))
    return summary
