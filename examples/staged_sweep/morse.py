"""A Morse potential for crystals, with the form and the parameters of ASE's MorsePotential.

It keeps its list of pairs until an atom has moved far, which makes a step of a small cell many times faster.
"""

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list

_SKIN = 1.0  # A


class Morse(Calculator):
    """Pairs of energy epsilon (e^2 - 2 e), e = exp(-rho0 (r/r0 - 1)), brought to zero between rcut1 r0 and rcut2 r0."""

    implemented_properties = ("energy", "forces")
    default_parameters = {"epsilon": 1.0, "rho0": 6.0, "r0": 1.0, "rcut1": 1.9, "rcut2": 2.7}
    _listed = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self._listed is None or self._is_far(self.atoms):
            self._list(self.atoms)
        first, second, shift = self._pairs
        vectors = self.atoms.positions[second] - self.atoms.positions[first] + shift
        distances = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        energies, slopes = self._pair(distances)
        pulls = (slopes / distances)[:, None] * vectors  # on the first atom, away from energy
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, first, pulls)
        self.results = {"energy": energies.sum() / 2, "forces": forces}

    def _pair(self, distances):
        """Return energies and their derivatives by the distance."""
        epsilon, rho0, r0 = (self.parameters[name] for name in ("epsilon", "rho0", "r0"))
        inner, outer = self.parameters["rcut1"] * r0, self.parameters["rcut2"] * r0
        decay = np.exp(-rho0 * (distances / r0 - 1))
        energy, slope = epsilon * decay * (decay - 2), -2 * epsilon * rho0 / r0 * decay * (decay - 1)
        left = np.clip((outer - distances) / (outer - inner), 0, 1)
        smooth = left**3 * (10 - 15 * left + 6 * left**2)
        smooth_slope = -30 * left**2 * (1 - left) ** 2 / (outer - inner)
        return energy * smooth, slope * smooth + energy * smooth_slope

    def _is_far(self, atoms):
        if len(atoms) != len(self._listed) or (atoms.cell != self._listed.cell).any():
            return True
        moved = atoms.positions - self._listed.positions
        return np.einsum("ij,ij->i", moved, moved).max() > (_SKIN / 2) ** 2

    def _list(self, atoms):
        cutoff = self.parameters["rcut2"] * self.parameters["r0"] + _SKIN
        first, second, cells = neighbor_list("ijS", atoms, cutoff)
        self._pairs = first, second, cells @ atoms.cell.array
        self._listed = atoms.copy()

    def reset(self):
        """Forget results, and pairs that other parameters may not have."""
        super().reset()
        self._listed = None
