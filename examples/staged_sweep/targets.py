"""Stage A: a model of the energy of a metal, made from energies and forces of EMT."""

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from tasks import task

DEFAULTS = {
    "harmonic": {"element": "Cu", "repeat": 2, "displacement": 0.01},
    "morse": {"element": "Cu", "repeat": 2, "frames": 12, "rattle": 0.08},
}


@dataclass(frozen=True)
class Target:
    """A model that can be sampled.

    `reference` is its minimum, of energy `energy` (eV); `parameters` are those of the Morse potential, or the
    Hessian (3N x 3N, eV/A^2).
    """

    model: str
    reference: Atoms
    parameters: dict
    energy: float = 0.0
    quality: dict = field(default_factory=dict)

    def calculator(self):
        if self.model == "morse":
            from morse import Morse

            return Morse(**self.parameters)
        from ase.calculators.harmonic import HarmonicCalculator, HarmonicForceField

        return HarmonicCalculator(HarmonicForceField(self.reference, self.parameters["hessian"], self.energy))


@task
def build_target(model, element, repeat, seed, **options):
    """Return the target for one entry of the configuration."""
    crystal = relaxed_crystal(element, repeat)
    print(f"{element}: {len(crystal)} atoms, lattice vectors of {crystal.cell.lengths()[0] / repeat:.4f} A")
    if model == "harmonic":
        return harmonic(crystal, **options)
    return fitted_morse(crystal, np.random.default_rng(seed), **options)


def relaxed_crystal(element, repeat):
    """Return repeated primitive cells of the fcc crystal, at the lattice constant of least energy in EMT."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from scipy.optimize import minimize_scalar

    def energy(scale):
        atoms = unit.copy()
        atoms.set_cell(unit.cell * scale, scale_atoms=True)
        atoms.calc = EMT()
        return atoms.get_potential_energy()

    unit = bulk(element, "fcc")
    best = minimize_scalar(energy, bounds=(0.9, 1.1), method="bounded", options={"xatol": 1e-6}).x
    unit.set_cell(unit.cell * best, scale_atoms=True)
    return unit.repeat(repeat)


def harmonic(crystal, displacement):
    """Return the harmonic approximation: second derivatives by central differences of forces."""
    from ase.calculators.emt import EMT

    work = crystal.copy()
    work.calc = EMT()
    energy = work.get_potential_energy()
    rows = []
    for coordinate in range(3 * len(crystal)):
        forces = []
        for sign in (1, -1):
            work.positions = crystal.positions
            work.positions.flat[coordinate] += sign * displacement
            forces.append(work.get_forces().ravel())
        rows.append((forces[1] - forces[0]) / (2 * displacement))
    hessian = (np.array(rows) + np.array(rows).T) / 2
    stiffness = np.linalg.eigvalsh(hessian)
    print(f"force constants from {stiffness[3]:.3f} to {stiffness[-1]:.3f} eV/A^2, translations {stiffness[:3]}")
    if stiffness[3] < 1e-3:
        raise ValueError("the crystal is not a minimum: there are modes without a restoring force")
    return Target("harmonic", crystal, {"hessian": hessian}, energy, {"softest": stiffness[3]})


def fitted_morse(crystal, rng, frames, rattle):
    """Return a Morse potential that fits energies and forces of EMT for rattled cells."""
    from ase.calculators.emt import EMT
    from morse import Morse
    from scipy.optimize import least_squares

    samples = [rattled(crystal, rng, rattle) for _ in range(frames)]
    for atoms in samples:
        atoms.calc = EMT()
    energies = np.array([atoms.get_potential_energy() for atoms in samples])
    forces = np.array([atoms.get_forces() for atoms in samples])
    distance = crystal.get_all_distances(mic=True)
    nearest = distance[distance > 0].min()

    def parameters(x):
        epsilon, rho0, r0 = map(float, x)
        return {"epsilon": epsilon, "rho0": rho0, "r0": r0, "rcut1": 1.5, "rcut2": 1.9}

    def errors(x):
        """Return errors of energies per atom, up to a constant, in units of 5 meV, and of forces in 50 meV/A."""
        copies = [atoms.copy() for atoms in samples]
        for atoms in copies:
            atoms.calc = Morse(**parameters(x))
        found = np.array([atoms.get_potential_energy() for atoms in copies])
        off = (found - energies) - (found - energies).mean()
        force_errors = np.array([atoms.get_forces() for atoms in copies]) - forces
        return np.concatenate([off / len(crystal) / 0.005, force_errors.ravel() / 0.05])

    fit = least_squares(errors, [0.3, 4.0, nearest], bounds=([0.01, 1.0, 0.8 * nearest], [3.0, 12.0, 1.3 * nearest]))
    rmse = {
        "energy_rmse": 0.005 * np.sqrt(np.mean(fit.fun[:frames] ** 2)),
        "force_rmse": 0.05 * np.sqrt(np.mean(fit.fun[frames:] ** 2)),
    }
    print(f"Morse potential {parameters(fit.x)}")
    print(f"errors {rmse['energy_rmse']:.4f} eV/atom, {rmse['force_rmse']:.4f} eV/A after {fit.nfev} evaluations")
    if not fit.success:
        raise ValueError(f"the fit has not converged: {fit.message}")
    reference = crystal.copy()
    reference.calc = Morse(**parameters(fit.x))
    energy = reference.get_potential_energy()
    reference.calc = None
    return Target("morse", reference, parameters(fit.x), energy, rmse)


def rattled(crystal, rng, rattle):
    """Return a copy with displaced atoms, up to 2 % larger or smaller."""
    atoms = crystal.copy()
    atoms.set_cell(crystal.cell * rng.uniform(0.98, 1.02), scale_atoms=True)
    atoms.positions += rng.normal(scale=rattle, size=atoms.positions.shape)
    return atoms
