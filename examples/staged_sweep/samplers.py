"""Stage B: canonical sampling of a target, by hybrid Monte Carlo or molecular dynamics."""

import numpy as np
from ase import units
from averages import fluctuation, mean
from tasks import task

DEFAULTS = {
    "hmc": {"temperature": 300.0, "trajectories": 2000, "steps": 10, "timestep": 8.0},
    "langevin": {"temperature": 300.0, "steps": 20000, "timestep": 3.0, "friction": 0.02},
    "andersen": {"temperature": 300.0, "steps": 20000, "timestep": 3.0, "collisions": 0.02},
}
_INTERVAL = 5  # steps of MD between two samples
_WARM_UP = 0.1  # part of a run that is not used
_FRAMES = 10  # configurations that are kept


@task
def run_sampler(target, sampler, temperature, seed, **options):
    """Return averages over a run, with error bars, and some of its configurations.

    Energies are potential energies above that of the minimum, in eV; the heat capacity, from the fluctuations of the
    potential energy and with the kinetic part, is in k_B per atom.
    """
    rng = np.random.default_rng(seed)
    atoms = target.reference.copy()
    atoms.calc = target.calculator()
    draw_velocities(atoms, temperature, rng)
    sample = hmc if sampler == "hmc" else dynamics
    energies, temperatures, frames, acceptance = sample(atoms, sampler, temperature, rng, **options)
    energies = energies - target.energy
    number, thermal = len(atoms), units.kB * temperature
    variance, variance_error = fluctuation(energies)
    energy, energy_error = mean(energies)
    kinetic, kinetic_error = mean(temperatures)
    print(f"{sampler}: {len(energies)} samples, energy {energy:.4f} +- {energy_error:.4f} eV")
    return {
        "samples": len(energies),
        "energy": energy,
        "energy_error": energy_error,
        "heat_capacity": variance / thermal**2 / number + 1.5,
        "heat_capacity_error": variance_error / thermal**2 / number,
        "temperature": kinetic,
        "temperature_error": kinetic_error,
        "acceptance": acceptance,
        "energies": energies,
        "frames": frames,
    }


def draw_velocities(atoms, temperature, rng):
    """Draw velocities from the Maxwell-Boltzmann distribution; the centre of mass has one as well."""
    widths = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(widths[:, None] * rng.standard_normal((len(atoms), 3)))


def hmc(atoms, _sampler, temperature, rng, trajectories, steps, timestep):
    """Sample by hybrid Monte Carlo.

    New velocities, a short trajectory by velocity Verlet, accepted with the probability min(1, exp(-dH/kT)); this
    takes away what the finite time step does to the distribution (Duane et al., Phys. Lett. B 195, 216 (1987)). Of all
    trajectories the length is drawn anew, around `steps`: vibrations of which half a period is as long as the
    trajectory would never change their energy (Mackenzie, Phys. Lett. B 226, 369 (1989)).
    """
    from ase.md.verlet import VelocityVerlet

    verlet = VelocityVerlet(atoms, timestep * units.fs)
    energies, temperatures, frames, accepted = [], [], [], 0
    skip = int(_WARM_UP * trajectories)
    for trajectory in range(trajectories):
        draw_velocities(atoms, temperature, rng)
        before = atoms.get_positions(), atoms.get_momenta(), atoms.get_potential_energy()
        total = atoms.get_total_energy()
        verlet.run(int(rng.integers((steps + 1) // 2, steps + steps // 2 + 1)))
        # of a rejected trajectory its beginning counts once more, velocities included
        if rng.random() >= np.exp(min(0.0, (total - atoms.get_total_energy()) / (units.kB * temperature))):
            atoms.positions, atoms.arrays["momenta"] = before[0], before[1]
        elif trajectory >= skip:
            accepted += 1
        if trajectory >= skip:
            energies.append(atoms.get_potential_energy())
            temperatures.append(atoms.get_temperature())
            keep(frames, atoms, trajectory - skip, trajectories - skip)
    return np.array(energies), np.array(temperatures), frames, accepted / len(energies)


def dynamics(atoms, sampler, temperature, rng, steps, timestep, **coupling):
    """Sample by molecular dynamics with a thermostat."""
    thermostat = make_thermostat(atoms, sampler, temperature, timestep * units.fs, rng, **coupling)
    thermostat.run(int(_WARM_UP * steps))
    number = (steps - int(_WARM_UP * steps)) // _INTERVAL
    energies, temperatures, frames = [], [], []
    for index in range(number):
        thermostat.run(_INTERVAL)
        energies.append(atoms.get_potential_energy())
        temperatures.append(atoms.get_temperature())
        keep(frames, atoms, index, number)
    return np.array(energies), np.array(temperatures), frames, None


def make_thermostat(atoms, sampler, temperature, timestep, rng, friction=None, collisions=None):
    """Return ASE's dynamics; the centre of mass moves freely, so that there are 3N degrees of freedom."""
    from ase.md.andersen import Andersen
    from ase.md.langevin import Langevin

    common = {"temperature_K": temperature, "fixcm": False, "rng": rng}
    if sampler == "langevin":
        return Langevin(atoms, timestep, friction=friction / units.fs, **common)
    return Andersen(atoms, timestep, andersen_prob=collisions, **common)


def keep(frames, atoms, index, number):
    """Keep some configurations, evenly spaced."""
    if index % max(1, number // _FRAMES) == 0:
        frame = atoms.copy()
        frame.info["energy"] = atoms.get_potential_energy()
        frames.append(frame)
