"""Time to import, each against what one would import anyway, in the same run.

Run ``python benchmarks/bench_imports.py [repeats]``. Times are of fresh interpreters, less that of an empty one; the
best of several, because anything else that runs on the machine can only add to them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What, the command's arguments after the interpreter, the name it is measured against, and how many times that at most.
CASES: tuple[tuple[str, tuple[str, ...], str | None, float], ...] = (
    ("import click", ("-c", "import click"), None, 0),
    ("import ase", ("-c", "import ase"), None, 0),
    ("import expyre", ("-c", "import expyre"), "import click", 1.0),
    ("import expyre.config", ("-c", "import expyre.config"), "import click", 2.0),
    ("xpr --help", ("-m", "expyre.cli", "--help"), "import click", 3.0),
    ("import wfl.configset", ("-c", "import wfl.configset"), "import ase", 1.0),
)
BOUND = 0.3  # seconds


def seconds(arguments: tuple[str, ...], cwd: str) -> float:
    """Return the wall time of a fresh interpreter; infinite if what it does fails."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, check=False, capture_output=True)
    return time.perf_counter() - start if done.returncode == 0 else float("inf")


def measure(repeats: int) -> dict[str, float]:
    """Return the best time of each case, less that of an interpreter that does nothing."""
    best = {name: float("inf") for name, *_ in CASES}
    empty = float("inf")
    with tempfile.TemporaryDirectory() as cwd:
        for _ in range(repeats):  # in turns, so that a busy moment of the machine does not fall on one case alone
            empty = min(empty, seconds(("-c", "pass"), cwd))
            for name, arguments, *_ in CASES:
                best[name] = min(best[name], seconds(arguments, cwd))
    return {name: time - empty for name, time in best.items()}


def report(times: dict[str, float]) -> bool:
    """Print each time and ratio; return whether all are within their bounds."""
    good = True
    for name, _, against, most in CASES:
        text = f"{name:<24}{times[name] * 1e3:8.1f} ms"
        if against is not None:
            ratio = times[name] / times[against]
            ok = ratio <= most and times[name] <= BOUND
            good = good and ok
            text += f"   {ratio:5.2f} x {against!r}   bounds {most:g} x, {BOUND:g} s   {'ok' if ok else 'MISSED'}"
        print(text)
    return good


if __name__ == "__main__":
    sys.exit(0 if report(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 7)) else 1)
