"""How much faster extended XYZ files are read and written than by ase.io; prints one line per kind of file.

Run as ``python benchmarks/bench_xyz.py [--quick]``. Both sides run in turns in one process, and the shortest CPU time
of each counts, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from wfl.configset.io import open_reader, open_writer
from wfl.configset.io.xyz_index import _tables

SHAPES = ((2000, 50), (20000, 1), (20, 5000))


def frames(n_frames: int, n_atoms: int) -> Iterator[Atoms]:
    """Yield configurations with cell, energy, forces and a few entries in info."""
    rng = np.random.default_rng(0)
    for index in range(n_frames):
        atoms = Atoms(rng.choice(["Si", "C", "H"], n_atoms), rng.normal(scale=10, size=(n_atoms, 3)), pbc=True)
        atoms.cell = rng.normal(scale=5, size=(3, 3))
        atoms.info.update({"config_type": "bulk crystal", "step": index, "_ConfigSet_loc": f" / {index}"})
        results = {"energy": rng.normal(), "forces": rng.normal(size=(n_atoms, 3))}
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


def exhaust(iterator: Iterator[Atoms]) -> None:
    for _ in iterator:
        pass


def write_ours(path: Path, images: list[Atoms]) -> None:
    writer = open_writer(path, path)
    for atoms in images:
        writer.write(atoms, atoms.info)
    writer.close()


def write_each_with_ase(path: Path, images: list[Atoms]) -> None:
    with open(path, "w") as file:
        for atoms in images:
            ase.io.write(file, atoms, format="extxyz")


def seconds(function: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(repeats: int, *functions: Callable[[], object]) -> list[float]:
    rounds = [[seconds(function) for function in functions] for _ in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def count(path: Path) -> int:
    _tables.clear()
    return open_reader(path).count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the frames")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        for n_frames, n_atoms in SHAPES:
            run(Path(folder) / "data.xyz", max(2, n_frames // (10 if quick else 1)), n_atoms)


def run(path: Path, n_frames: int, n_atoms: int) -> None:
    images = list(frames(n_frames, n_atoms))
    other = path.with_name("other.xyz")
    whole, each, ours = compare(
        3,
        lambda: ase.io.write(other, images),
        lambda: write_each_with_ase(other, images),
        lambda: write_ours(path, images),
    )
    if path.read_bytes() != other.read_bytes():
        raise SystemExit("the files differ")
    images.clear()
    read_ase, read_ours, scan = compare(
        3,
        lambda: exhaust(ase.io.iread(path, ":")),
        lambda: exhaust(open_reader(path).frames()),
        lambda: count(path),
    )
    print(
        f"{n_frames} x {n_atoms}: read ase {read_ase:.3f} s, ours {read_ours:.3f} s, ratio {read_ase / read_ours:.1f}"
        f" (count only: {scan:.3f} s); write ase {whole:.3f} s (frame by frame {each:.3f} s), ours {ours:.3f} s,"
        f" ratio {whole / ours:.1f} ({each / ours:.1f})"
    )


if __name__ == "__main__":
    main()
