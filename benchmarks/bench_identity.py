"""How long the key of a call takes: ``python benchmarks/bench_identity.py``."""

from __future__ import annotations

import hashlib
import pickle
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from ase import Atoms

from expyre.identity import digest, identify


def best(function: Callable[[], Any], repeats: int, number: int = 1) -> float:
    """Return the shortest time of one call in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(number):
            function()
        times.append((time.perf_counter() - start) / number)
    return min(times)


def report(label: str, value: Any, limit: float | None = None) -> None:
    ours = best(lambda: digest(value), 15)
    theirs = best(lambda: hashlib.sha256(pickle.dumps(value)).digest(), 15)
    note = "" if limit is None else f"   (limit {limit * 1e3:.0f} ms)"
    print(f"{label:40s} {ours * 1e3:9.2f} ms   {ours / theirs:6.2f} x pickle+sha256{note}")


def tiny(a: Any, b: Any) -> Any:
    return a + b


def helper(x: float) -> float:
    return np.sin(x) * SCALE


SCALE = 2.0


def reaching(a: Any, b: Any) -> Any:
    return helper(a) + helper(b)


def main() -> None:
    rng = np.random.default_rng(0)
    box = {"cell": [9, 9, 9], "pbc": True}
    frames = [Atoms("Cu100", positions=rng.random((100, 3)), info={"n": i}, **box) for i in range(1000)]
    report("1,000 Atoms x 100 atoms", frames, 0.1)
    report("array of 10 million floats", rng.random(10_000_000))
    report("list of 1 million ints", list(range(1_000_000)))
    report("list of 1 million floats", rng.random(1_000_000).tolist())
    report("list of 100,000 strings", [f"word {i}" for i in range(100_000)])
    report("dict of 100,000 strings to ints", {f"word {i}": i for i in range(100_000)})
    report("set of 100,000 tuples", {(i, str(i)) for i in range(100_000)})
    for label, function in (("tiny call (limit 60 us)", tiny), ("call that reaches code and packages", reaching)):
        print(f"{label:40s} {best(partial(identify, function, (1, 2)), 50, 100) * 1e6:9.1f} us")


if __name__ == "__main__":
    main()
