"""What molecular dynamics and evaluations cost beyond ASE itself; all ratios are taken in one run, of CPU time.

`python benchmarks/bench_md.py [repeats]` compares

- `md` with a bare loop of ASE's `VelocityVerlet`, sampling every step: into memory against `Trajectory` writing a file,
- `md` sampling nothing but the ends with the bare integrator: the overhead per step,
- `generic.calculate` with a bare loop `at.calc = calc; at.get_potential_energy(); at.get_forces()`.

The model is springs, as cheap as a potential can be, so that overheads show; with real models they vanish.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet

from wfl.calculators import generic
from wfl.configset import OutputSpec
from wfl.generate.md import md

N_STEPS = 1000
N_CONFIGS = 1000


class Springs(Calculator):
    """Every atom on a spring to its place in the perfect crystal."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        displacements = atoms.positions - crystal().positions
        self.results = {"energy": 2.5 * (displacements**2).sum(), "forces": -5.0 * displacements}


_CRYSTAL = bulk("Cu", cubic=True) * (2, 2, 2)


def crystal() -> Atoms:
    return _CRYSTAL


def moving() -> Atoms:
    at = crystal().copy()
    at.set_momenta(np.random.default_rng(1).normal(size=(len(at), 3)))
    return at


def best(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def bare_md(trajectory: Path | None) -> None:
    at = moving()
    at.calc = Springs()
    dynamics = VelocityVerlet(at, 1.0 * units.fs)
    if trajectory is None:
        dynamics.run(N_STEPS)
        return
    with Trajectory(str(trajectory), "w", at) as writer:
        dynamics.attach(writer, interval=1)
        dynamics.run(N_STEPS)


def our_md(interval: int, select: Callable[[Atoms], bool] | None = None) -> None:
    kwargs = {} if select is None else {"traj_select_during_func": select}
    md.op([moving()], (Springs, None, None), N_STEPS, 1.0, traj_step_interval=interval, skip_failures=False, **kwargs)


def our_md_to_file(folder: Path) -> None:
    md(
        [moving()], OutputSpec("md.xyz", file_root=folder, overwrite=True), (Springs, None, None), N_STEPS, 1.0,
        autopara_info={"num_python_subprocesses": 0},
    )  # fmt: skip


def bare_calculate(configs: list[Atoms]) -> None:
    calc = Springs()
    for at in configs:
        at.calc = calc
        at.get_potential_energy()
        at.get_forces()


def our_calculate(configs: list[Atoms]) -> None:
    generic.calculate.op(configs, Springs(), ["energy", "forces"], "springs_")


def our_calculate_in_memory(configs: list[Atoms]) -> None:
    generic.calculate(
        configs, OutputSpec(), Springs(), ["energy", "forces"], "springs_", autopara_info={"num_python_subprocesses": 0}
    )


def rejected(at: Atoms) -> bool:
    return False


def main(repeats: int) -> None:
    configs = [moving() for _ in range(N_CONFIGS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = best(lambda: bare_md(None), repeats)
        written = best(lambda: bare_md(folder / "bare.traj"), repeats)
        rows = [
            ("ASE integrator", bare, bare, N_STEPS),
            ("md, no frames", best(lambda: our_md(N_STEPS), repeats), bare, N_STEPS),
            ("md, every frame rejected", best(lambda: our_md(1, rejected), repeats), bare, N_STEPS),
            ("md, every frame kept", best(lambda: our_md(1), repeats), written, N_STEPS),
            ("ASE integrator and Trajectory file", written, written, N_STEPS),
            ("md to extended XYZ file", best(lambda: our_md_to_file(folder), repeats), written, N_STEPS),
        ]
        loop = best(lambda: bare_calculate(configs), repeats)
        rows += [
            ("ASE loop over configurations", loop, loop, N_CONFIGS),
            ("generic.calculate, operation", best(lambda: our_calculate(configs), repeats), loop, N_CONFIGS),
            ("generic.calculate, in memory", best(lambda: our_calculate_in_memory(configs), repeats), loop, N_CONFIGS),
        ]
    print(f"{'':38s}{'us per step/config':>20s}{'ratio':>8s}")
    for label, seconds, reference, n in rows:
        print(f"{label:38s}{seconds / n * 1e6:20.1f}{seconds / reference:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
