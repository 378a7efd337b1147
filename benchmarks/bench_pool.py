"""Time trivial items through the engines of autoparallelize, next to the standard library's pool.

Prints seconds per run and two ratios:

- two workers at one item per call over ``multiprocessing.Pool.imap`` with chunks of 100 (1.5 at most is wanted);
- two workers over serial, without the time that the workers need to start (1 or so for items without any work, since
  items and results have to be pickled; below 1 as soon as there is work).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

from ase.atoms import Atoms

from wfl.autoparallelize.output import ItemResults
from wfl.autoparallelize.pool import do_in_pool


def trivial(item: Any) -> Any:
    """Return the item."""
    return item


def trivial_op(items: list[Any]) -> list[Any]:
    """Return the items."""
    return items


def busy_op(items: list[Any]) -> list[Any]:
    """Return the items after a fifth of a millisecond for each."""
    for _ in items:
        end = time.perf_counter() + 2e-4
        while time.perf_counter() < end:
            pass
    return items


def best(function: Callable[[], None], repeats: int) -> float:
    """Return the shortest of several times, in s."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def ours(items: Any, workers: int, op: Callable[..., Any] = trivial_op, start: str = "fork") -> Callable[[], None]:
    """Return a run of our engine."""

    def run() -> None:
        os.environ["WFL_POOL_START"] = start
        results = ItemResults()
        do_in_pool(workers, 1, items, results, op)
        assert len(results.results) == len(items)

    return run


def imap(items: Any, workers: int) -> Callable[[], None]:
    """Return a run of the standard library's pool."""

    def run() -> None:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            assert sum(1 for _ in pool.imap(trivial, items, chunksize=100)) == len(items)

    return run


def compare(name: str, items: Any, repeats: int) -> None:
    """Print the times and ratios for one kind of items."""
    standard = best(imap(items, 2), repeats)
    serial = best(ours(items, 0), repeats)
    print(f"{name}: {len(items)} trivial items, one per call")
    print(f"  serial                     {serial:7.3f} s")
    print(f"  Pool.imap, chunks of 100   {standard:7.3f} s")
    for start in ("fork", "fresh"):
        ours(items[:2], 2, start=start)()  # fresh workers stay for the next runs
        empty = best(ours(items[:2], 2, start=start), repeats)
        pool = best(ours(items, 2, start=start), repeats)
        print(f"  2 workers, {start:5}           {pool:7.3f} s   {pool / standard:5.2f} x imap   "
              f"{(pool - empty) / serial:5.2f} x serial (start {empty:.3f} s left out)")
    work, alone = best(ours(items, 2, busy_op), 1), best(ours(items, 0, busy_op), 1)
    print(f"  with 0.2 ms of work each: serial {alone:.3f} s, 2 workers {work:.3f} s, ratio {work / alone:.2f}")


def main() -> None:
    """Run the comparison for numbers and for small configurations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20000, help="number of items")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    compare("numbers", list(range(args.n)), args.repeats)
    compare("configurations", [Atoms("H", positions=[(i, 0, 0)]) for i in range(args.n)], args.repeats)


if __name__ == "__main__":
    main()
