"""Time calls through `expyre.Executor`, next to those of the standard library, loky, executorlib and Parsl.

    python benchmarks/bench_executor.py [--quick] [--workers N] [--rounds N]

All in one run, with two workers that are warm: calls per second of functions that do nothing, that work for 1 ms, and
that get and return 100 kB or 1 MB; the time from one ``submit`` to its result; calls that sleep for 1 ms, with eight
workers for each of those; a new process for each call; and a chain of ten thousand futures. The rounds of all executors
alternate, the best of each is compared; while one is timed there is no other, since some have threads that never rest.
Wanted of ours: calls per second at least 0.8 of ``ProcessPoolExecutor``, 2 of executorlib, 8 of Parsl, unless the cores
are the limit (1 ms of work); latency p50 at most 1 ms; a process per call at least 3 times as often as executorlib.
executorlib and Parsl are left out if they are not installed: ``pip install executorlib parsl``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from executor_calls import asleep, busy, nothing

import expyre

OURS = "expyre"


Workloads = dict[str, tuple[Callable[[Any], Any], Any, int]]
FEW_WORKERS: Workloads = {
    "no-op": (nothing, 1, 5000),
    "1 ms of work": (busy, 1, 1000),
    "100 kB": (nothing, b"x" * 100_000, 1000),
    "1 MB": (nothing, b"x" * 1_000_000, 200),
}
MANY_WORKERS: Workloads = {"1 ms of sleep": (asleep, 1, 4000)}


@contextlib.contextmanager
def parsl_executor(workers: int) -> Iterator[Executor]:
    """Give Parsl's high-throughput executor on this machine."""
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    with tempfile.TemporaryDirectory() as directory:
        provider = LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1)
        htex = HighThroughputExecutor(
            address="127.0.0.1", max_workers_per_node=workers, encrypted=False, provider=provider
        )
        config = Config(executors=[htex], run_dir=directory, usage_tracking=0, initialize_logging=False)
        with ParslPoolExecutor(config) as executor:
            yield executor


def executors(workers: int) -> dict[str, Callable[[], Any]]:
    """Return what makes each executor whose workers stay."""
    found: dict[str, Callable[[], Any]] = {
        OURS: lambda: expyre.Executor(max_workers=workers, block_allocation=True, oversubscribe=workers > 2),
        "ProcessPoolExecutor": lambda: ProcessPoolExecutor(workers),
    }
    with contextlib.suppress(ImportError):
        import loky

        found["loky"] = lambda: loky.ProcessPoolExecutor(workers)
    with contextlib.suppress(ImportError):
        import executorlib

        found["executorlib"] = lambda: executorlib.SingleNodeExecutor(
            max_workers=workers, max_cores=workers, block_allocation=True
        )
    with contextlib.suppress(ImportError):
        import parsl  # noqa: F401

        found["Parsl HTEX"] = lambda: parsl_executor(workers)
    return found


def rate(executor: Executor, function: Callable[[Any], Any], argument: Any, count: int) -> float:
    """Return calls per second."""
    start = time.perf_counter()
    futures = [executor.submit(function, argument) for _ in range(count)]
    for future in futures:
        future.result(timeout=600)
    return count / (time.perf_counter() - start)


def latencies(executor: Executor, count: int) -> list[float]:
    """Return the times of single calls, one after the other, in ms, sorted."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        executor.submit(nothing, 1).result(timeout=600)
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)


def table(title: str, unit: str, figures: dict[str, float]) -> None:
    """Print figures of all executors, and ours over each."""
    print(f"\n{title}")
    for name, figure in figures.items():
        ratio = f"   ours / this: {figures[OURS] / figure:6.2f}" if name != OURS else ""
        print(f"  {name:<20} {figure:10.1f} {unit}{ratio}")


def staying(workers: int, rounds: int, scale: float, workloads: Workloads) -> None:
    """Compare executors whose workers stay."""
    makers = executors(workers)
    best: dict[str, dict[str, float]] = {title: dict.fromkeys(makers, 0.0) for title in workloads}
    waits: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            with make() as executor:
                rate(executor, nothing, 1, 50 * workers)  # until all workers are there
                for title, (function, argument, count) in workloads.items():
                    figure = rate(executor, function, argument, max(100, int(scale * count)))
                    best[title][name] = max(best[title][name], figure)
                waits[name] += latencies(executor, int(scale * 300))
    for title, figures in best.items():
        table(f"{title}, {workers} workers", "calls/s", figures)
    print(f"\ntime of a single call, {workers} workers")
    for name, times in waits.items():
        times.sort()
        print(f"  {name:<20} p50 {times[len(times) // 2]:7.3f} ms   p99 {times[int(0.99 * len(times))]:7.3f} ms")


def process_per_call(workers: int, scale: float) -> None:
    """Compare executors that start a process for each call."""
    figures = {}
    with expyre.Executor(max_workers=workers) as executor:
        rate(executor, nothing, 1, 2)
        figures[OURS] = rate(executor, nothing, 1, int(scale * 300))
    with contextlib.suppress(ImportError):
        import executorlib

        with executorlib.SingleNodeExecutor(max_workers=workers) as other:
            rate(other, nothing, 1, 2)
            figures["executorlib"] = rate(other, nothing, 1, max(4, int(scale * 30)))
    table(f"a process for each call, {workers} at a time", "calls/s", figures)


def chain(workers: int, length: int) -> None:
    """Time futures each of which is the argument of the next."""
    with expyre.Executor(max_workers=workers, block_allocation=True) as executor:
        executor.submit(nothing, 1).result()
        start = time.perf_counter()
        future = executor.submit(nothing, 1)
        for _ in range(length):
            future = executor.submit(nothing, future)
        future.result()
        seconds = time.perf_counter() - start
    print(f"\na chain of {length} futures: {seconds:.2f} s, {1e3 * seconds / length:.3f} ms each")


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for programs of Parsl
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    scale = 0.2 if args.quick else 1.0
    rounds = 1 if args.quick else args.rounds
    staying(args.workers, rounds, scale, FEW_WORKERS)
    staying(8 * args.workers, rounds, scale, MANY_WORKERS)
    process_per_call(args.workers, scale)
    chain(args.workers, 10_000)


if __name__ == "__main__":
    main()
