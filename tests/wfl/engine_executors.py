"""Executors of other packages, as users make them; functions without arguments also serve ``WFL_EXECUTOR``."""

from __future__ import annotations

import importlib.util
import os
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
NEEDS = {
    "expyre": "",
    "process_pool": "",
    "loky": "loky",
    "dask": "distributed",
    "parsl": "parsl",
    "parsl_on_slurm": "parsl",
}


def missing(name: str) -> str:
    """Say which package is missing for an executor; nothing if it is there."""
    package = NEEDS[name]
    return "" if not package or importlib.util.find_spec(package) else f"needs {package}: pip install {package}"


def process_pool() -> Executor:
    return ProcessPoolExecutor(2)


def expyre() -> Executor:
    from expyre import Executor

    return Executor(max_workers=2, block_allocation=True)


def loky() -> Executor:
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(2)


def dask() -> Executor:
    import dask
    from distributed import Client, LocalCluster

    # a task during which a worker died is not tried on three others
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")
    return Client(cluster).get_executor()


def parsl(directory: str = "runinfo") -> Executor:
    from parsl.providers import LocalProvider

    return _parsl(LocalProvider(init_blocks=1, max_blocks=1), directory)


def parsl_on_slurm(directory: str = "runinfo") -> Executor:
    from parsl.providers import SlurmProvider

    provider = SlurmProvider(partition="normal", walltime="00:10:00", exclusive=False, cores_per_node=2)
    return _parsl(provider, directory)


def _parsl(provider: Any, directory: str) -> Executor:
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    find_programs()
    executor = HighThroughputExecutor(
        address="127.0.0.1", max_workers_per_node=2, provider=provider, encrypted=False,
        heartbeat_period=1,  # seconds: how soon it is seen that a worker has died
    )
    config = Config([executor], run_dir=directory, strategy="none", strategy_period=0.2, initialize_logging=False)
    return ParslPoolExecutor(config)


def find_programs() -> None:
    """Let the programs be found that Parsl starts."""
    if str(BIN) not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
