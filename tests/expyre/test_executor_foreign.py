"""Calls that run in the workers of another executor."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import loky
import numpy as np
import pytest
from executor_tools import run

from expyre import Executor
from expyre.errors import InputFailed, RequestError

OTHERS = {
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: ProcessPoolExecutor(2),
    "loky": lambda: loky.ProcessPoolExecutor(2),
}


@pytest.fixture(params=list(OTHERS))
def other(request):
    with OTHERS[request.param]() as executor:
        yield executor


class Mine(Exception):
    pass


def add(one, other=1):
    return one + other


def fail():
    raise Mine("no", 3)


def initial():
    return {"other": 100}


def test_calls_run_there(other):
    with Executor(executor=other) as executor:
        assert executor.submit(add, 1, other=2).result() == 3
        assert list(executor.map(add, range(20))) == list(range(1, 21))
        first = executor.submit(add, 1)
        assert executor.submit(add, [first], other=[first]).result() == [2, 2]
        offset = 5
        assert executor.submit(lambda x: x + offset, 1).result() == 6
        array = np.arange(50_000.0)
        assert np.array_equal(executor.submit(add, array).result(), array + 1)
        assert executor.max_workers == 2
    assert other.submit(add, 1).result() == 2  # it was not shut down


def test_failures_come_back(other):
    with Executor(executor=other) as executor:
        future = executor.submit(fail)
        error = executor.submit(add, future).exception()
        assert isinstance(future.exception(), Mine)
        assert future.exception().args == ("no", 3)
        assert isinstance(error, InputFailed)
        assert error.__cause__ is future.exception()


def test_what_it_cannot_give_is_refused(other):
    with pytest.raises(RequestError, match=r"cores, gpus: calls run in workers of a .*PoolExecutor"):
        Executor(executor=other, cores_per_worker=2, gpus_per_worker=1)
    with Executor(executor=other) as executor, pytest.raises(RequestError, match="max_time: calls run in workers"):
        executor.submit(add, 1, resource_dict={"max_time": 3})
    with pytest.raises(RequestError, match="has no method submit"):
        Executor(executor=3)


def test_data_that_is_loaded_once():
    made = {"block_allocation": True, "init_function": initial}
    with ProcessPoolExecutor(1) as other, Executor(executor=other, **made) as executor:
        assert list(executor.map(add, range(3))) == [100, 101, 102]


def test_calls_are_cancelled_there():
    release = threading.Event()
    with ThreadPoolExecutor(1) as other:
        executor = Executor(executor=other)
        running = executor.submit(release.wait, 60)
        waiting = [executor.submit(add, i) for i in range(3)]
        while not running.running():
            time.sleep(0.01)
        assert not running.cancel()
        assert waiting[0].cancel()
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in waiting)
        release.set()
        assert running.result() is True
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(add, 1)


def test_no_more_than_wanted_are_given_to_it():
    most, now, lock = [], [], threading.Lock()

    def busy(i):
        with lock:
            now.append(i)
            most.append(len(now))
        time.sleep(0.02)
        with lock:
            now.remove(i)

    with ThreadPoolExecutor(4) as other, Executor(executor=other, max_workers=2) as executor:
        list(executor.map(busy, range(20)))
    assert max(most) == 2


def test_an_executor_that_was_shut_down_fails_the_calls():
    with ThreadPoolExecutor(1) as other:
        pass
    with Executor(executor=other) as executor:
        assert "shutdown" in str(executor.submit(add, 1).exception())


SAMPLE = """
from concurrent.futures import ProcessPoolExecutor
from expyre import Executor

def calc(*args):
    return sum(*args)

with ProcessPoolExecutor() as flux_exe:
    with Executor(max_cores=2, executor=flux_exe) as exe:
        print(list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]])))
"""


def test_the_sample(tmp_path):
    assert run(SAMPLE, tmp_path) == "[3, 4, 5, 6]\n"
