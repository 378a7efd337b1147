"""How many calls an executor is thought to carry at a time: clusters may grow, and may have nothing yet."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_calls
import pytest

from wfl.autoparallelize.engines import capacity
from wfl.autoparallelize.engines.base import number_of_cores
from wfl.autoparallelize.engines.capacity import Capacity, number_of_workers


class Plain(Executor):
    """An executor that says nothing of its workers."""


def test_standard_library() -> None:
    assert number_of_workers(Plain()) == number_of_cores()
    with ThreadPoolExecutor(3) as executor:
        assert number_of_workers(executor) == 3


def test_dask_cluster_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=0, threads_per_worker=2, processes=False, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        found = Capacity(client.get_executor())
        assert found.workers == number_of_cores()
        cluster.scale(2)
        client.wait_for_workers(2, timeout=60)
        monkeypatch.setattr(capacity, "_SECONDS_BETWEEN_LOOKS", 0.0)
        found._next_look = 0.0
        assert found.now() == 4


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Any]:
    """Parsl with three threads here, and with nodes that nobody has asked for yet."""
    parsl = pytest.importorskip("parsl")
    pytest.importorskip("parsl.concurrent")
    from engine_executors import find_programs
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.threads import ThreadPoolExecutor as Threads
    from parsl.providers import LocalProvider

    find_programs()
    provider = LocalProvider(init_blocks=0, max_blocks=3, nodes_per_block=2)
    nodes = HighThroughputExecutor("nodes", provider, address="127.0.0.1", max_workers_per_node=4, encrypted=False)
    config = parsl.Config([Threads("threads", max_threads=3), nodes], run_dir=str(tmp_path), strategy="none",
                          strategy_period=0.2, initialize_logging=False)
    with parsl.DataFlowKernel(config) as kernel:
        yield kernel


def test_parsl(kernel: Any, tmp_path: Path) -> None:
    from parsl.concurrent import ParslPoolExecutor

    assert number_of_workers(ParslPoolExecutor(dfk=kernel)) == 3 + 3 * 2 * 4
    threads = ParslPoolExecutor(dfk=kernel, executors=["threads"])
    assert number_of_workers(threads) == 3
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    assert engine_calls.displaced(threads, str(tmp_path / "there")) == engine_calls.displaced(
        None, str(tmp_path / "here")
    )
