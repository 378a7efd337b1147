"""Strict comparison of configurations: values, types, dtypes, constraints and results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, dtype and type included; NaN is the same as NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and all(map(same, a.ravel().tolist(), b.ravel().tolist()))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def parts(atoms: Atoms) -> dict[str, Any]:
    """Return all that makes a configuration."""
    calc = atoms.calc
    return {
        "arrays": dict(sorted(atoms.arrays.items())),
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "info": dict(atoms.info),
        "constraints": [constraint.todict() for constraint in atoms.constraints],
        "calculator": None if calc is None else type(calc).__name__,
        "results": None if calc is None else dict(sorted(calc.results.items())),
        "calculated": None if calc is None else parts(calc.atoms),
        "displacement": atoms.get_celldisp(),
    }


def assert_same(ours: Atoms, theirs: Atoms) -> None:
    """Fail unless two configurations are the same in all their parts."""
    a, b = parts(ours), parts(theirs)
    for key in a:
        assert same(a[key], b[key]), f"{key}: {a[key]!r} is not {b[key]!r}"
