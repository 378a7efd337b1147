"""Relaxation of cells without the same matrix functions over and over."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.filters import FrechetCellFilter

__all__ = ["RememberingCellFilter"]


class RememberingCellFilter(FrechetCellFilter):
    """ASE's filter of positions and cell, which remembers what it worked out for the current state.

    An optimizer asks for positions and forces several times per step, and each time the filter takes logarithms and
    derivatives of matrix exponentials, which is more work than the forces of a cheap potential.
    """

    _remembered: dict[str, tuple[Any, np.ndarray]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._remembered = {}
        super().__init__(*args, **kwargs)

    def _state(self) -> bytes:
        return bytes(self.atoms.positions.tobytes() + self.atoms.cell.array.tobytes())

    def get_positions(self) -> np.ndarray:
        """Positions in the original cell, and the logarithm of the deformation."""
        state, (known, value) = self._state(), self._remembered.get("positions", (None, np.empty(0)))
        if known != state:
            value = super().get_positions()
            self._remembered["positions"] = (state, value)
        return np.array(value)

    def get_forces(self, **kwargs: Any) -> np.ndarray:
        """Forces along both; `stress`, for the test of convergence, belongs to the same state."""
        state, (known, value) = (self._state(), kwargs), self._remembered.get("forces", (None, np.empty(0)))
        if known != state:
            value = super().get_forces(**kwargs)
            self._remembered["forces"] = (state, value)
        return np.array(value)
