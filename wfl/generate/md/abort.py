"""Checks that end a molecular dynamics run early."""

from __future__ import annotations

from ase import Atoms

from wfl.generate.md.abort_base import AbortSimBase

__all__ = ["AbortOnCollision", "AbortOnLowEnergy", "AbortSimBase"]


class AbortOnCollision(AbortSimBase):
    """Ends a run when atoms come too close to each other.

    Parameters
    ----------
    collision_radius
        Distance in Å, or anything else that `ase.neighborlist.neighbor_list` takes as cutoff, such as a dict of
        distances by pairs of elements.
    n_failed_steps
        How many sampled steps in a row.
    """

    def __init__(self, collision_radius: float | dict[tuple[str, str], float], n_failed_steps: int = 3) -> None:
        super().__init__(n_failed_steps)
        self.collision_radius = collision_radius

    def atoms_ok(self, at: Atoms) -> bool:
        """Whether no pair of atoms is within the radius."""
        from ase.neighborlist import neighbor_list

        return len(neighbor_list("i", at, self.collision_radius)) == 0


class AbortOnLowEnergy(AbortSimBase):
    """Ends a run when the potential energy falls far below that of the first sampled step.

    Parameters
    ----------
    delta_E_per_atom
        Allowed fall in eV per atom; its sign does not matter.
    """

    def __init__(self, delta_E_per_atom: float) -> None:  # noqa: N803
        super().__init__(1)
        self.delta_E_per_atom = abs(delta_E_per_atom)
        self.first_E_per_atom: float | None = None

    def atoms_ok(self, at: Atoms) -> bool:
        """Whether the energy is not too low."""
        energy = at.get_potential_energy() / len(at)
        if self.first_E_per_atom is None:
            self.first_E_per_atom = energy
        return bool(energy >= self.first_E_per_atom - self.delta_E_per_atom)

    def reset(self) -> None:
        """Forget the reference energy as well."""
        super().reset()
        self.first_E_per_atom = None
