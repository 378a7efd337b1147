"""Calls of our Executor that run on executors of others: threads, processes, loky, Dask, Parsl."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from queue_tools import until

from expyre import Executor
from expyre.errors import ExPyReTimeoutError, InputFailed, RequestError

MakeExecutor = Callable[[Path], AbstractContextManager[concurrent.futures.Executor]]


def threads(_directory: Path) -> concurrent.futures.Executor:
    return concurrent.futures.ThreadPoolExecutor(2)


def processes(_directory: Path | None = None) -> concurrent.futures.Executor:
    import multiprocessing

    return concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


@contextmanager
def loky(_directory: Path) -> Iterator[concurrent.futures.Executor]:
    import loky

    with loky.ProcessPoolExecutor(2) as executor:
        yield executor


@contextmanager
def dask(_directory: Path) -> Iterator[concurrent.futures.Executor]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        yield executor


@contextmanager
def parsl(directory: Path) -> Iterator[concurrent.futures.Executor]:
    pytest.importorskip("parsl")
    from parsl import Config, HighThroughputExecutor
    from parsl.concurrent import ParslPoolExecutor
    from parsl.providers import LocalProvider

    beside = os.path.dirname(sys.executable)  # where the programs are that Parsl starts
    if beside not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = f"{beside}{os.pathsep}{os.environ['PATH']}"
    provider = LocalProvider(init_blocks=1, max_blocks=1)
    engine = HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=2, provider=provider, encrypted=False)
    settings = Config([engine], run_dir=str(directory), strategy="none", initialize_logging=False)
    with ParslPoolExecutor(settings) as executor:
        yield executor


KINDS: list[Any] = [threads, processes, loky, dask, parsl]


@pytest.fixture(scope="module", params=KINDS, ids=lambda make: make.__name__)
def theirs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[concurrent.futures.Executor]:
    """An executor of each kind, started once."""
    make: MakeExecutor = request.param
    with make(tmp_path_factory.mktemp("theirs")) as executor:
        yield executor


class Trouble(Exception):
    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


def fail(number: int) -> None:
    raise Trouble(number, "in trouble")


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.02)
    return path


def note_process(directory: Path) -> dict[str, int]:
    (directory / f"{os.getpid()}.{time.monotonic_ns()}").touch()
    return {"offset": 100}


def with_offset(number: int, offset: int) -> tuple[int, int]:
    return number + offset, os.getpid()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_calls_run_there_with_our_dependencies(theirs: concurrent.futures.Executor) -> None:
    scale = 3

    def closure(values: list[int]) -> int:
        return scale * sum(values)

    with Executor(executor=theirs) as executor:
        inputs = [executor.submit(abs, -i) for i in range(5)]
        assert executor.submit(closure, inputs).result(200) == 30
        failed = executor.submit(fail, 7)
        error = failed.exception(200)
        assert isinstance(error, Trouble)
        assert (error.number, str(error)) == (7, "in trouble")
        assert isinstance(executor.submit(closure, [failed]).exception(200), InputFailed)
        assert [*executor.map(pow, range(6), [2] * 6, chunksize=2)] == [0, 1, 4, 9, 16, 25]
    assert theirs.submit(abs, -1).result(200) == 1, "it is not ours to shut down"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "large"])
def test_an_init_function_is_called_once_in_each_process(
    theirs: concurrent.futures.Executor, size: int, tmp_path: Path
) -> None:
    ballast = b"x" * size

    def init() -> dict[str, int]:
        assert len(ballast) == size
        return note_process(tmp_path)

    with Executor(executor=theirs, block_allocation=True, init_function=init) as executor:
        answers = list(executor.map(with_offset, range(20)))
    assert [number for number, _ in answers] == [*range(100, 120)]
    noted = [name.partition(".")[0] for name in os.listdir(tmp_path)]
    assert sorted(noted) == sorted({str(pid) for _, pid in answers})


def test_cancellation_is_up_to_them(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with concurrent.futures.ThreadPoolExecutor(1) as theirs, Executor(executor=theirs) as executor:
        first, second = executor.submit(wait_for, str(go)), executor.submit(abs, -2)
        until(first.running)
        assert not first.cancel()
        assert second.cancel()
        assert concurrent.futures.wait([second], 100).done
        go.touch()
        assert first.result(100) == str(go)


def test_no_more_calls_at_a_time_than_workers_and_a_shutdown_cancels_the_rest(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with concurrent.futures.ThreadPoolExecutor(4) as theirs:
        executor = Executor(executor=theirs, max_workers=2)
        futures = [executor.submit(wait_for, str(go)) for _ in range(5)]
        until(lambda: sum(future.running() for future in futures) == 2)
        executor.shutdown(wait=False, cancel_futures=True)
        go.touch()
        executor.shutdown()
        assert [future.cancelled() for future in futures] == [False, False, True, True, True]


def test_many_short_calls_in_a_row_need_no_deep_stack() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as theirs, Executor(executor=theirs, max_workers=1) as executor:
        assert list(executor.map(abs, range(-5000, 0))) == list(range(5000, 0, -1))


def test_a_script_that_is_interrupted_does_not_wait(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with concurrent.futures.ThreadPoolExecutor(1) as theirs:
        executor = Executor(executor=theirs)
        future = executor.submit(wait_for, str(go))
        until(future.running)
        with pytest.raises(KeyboardInterrupt), executor:
            raise KeyboardInterrupt
        assert isinstance(future.exception(0), ExPyReTimeoutError)
        go.touch()


def test_what_they_cannot_give_is_refused_all_at_once() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as theirs:
        with pytest.raises(RequestError, match=r"cores=2.*1 GPUs.*max_time.*cwd"):
            Executor(executor=theirs, cores_per_worker=2, gpus_per_worker=1, max_time=5, cwd="/tmp")
        with pytest.raises(RequestError, match="4 cores are asked for, there are 2"):
            Executor(executor=theirs, max_cores=2, threads_per_core=4)


def test_the_directory_of_a_call(tmp_path: Path) -> None:
    with processes() as theirs, Executor(executor=theirs) as executor:
        there = executor.submit(os.getcwd, resource_dict={"cwd": str(tmp_path / "new")}).result(200)
        assert there == str(tmp_path / "new")
        assert executor.submit(os.getcwd).result(200) == os.getcwd()


def test_what_cannot_be_pickled_is_told() -> None:
    with processes() as theirs, Executor(executor=theirs) as executor:
        error = executor.submit(id, threading.Lock()).exception(200)
    assert isinstance(error, RequestError)
    assert "cannot be sent to a worker: args[0] is a _thread.lock" in str(error)
