"""Workers that die, hang, cannot start or cannot speak: the call that is concerned fails by name, and nothing else."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from executor_calls import add, await_file
from executor_faults import (
    Bad,
    BadExit,
    BadThere,
    Unreadable,
    bad_error,
    bad_result,
    die,
    die_once,
    eat_memory,
    exhaust,
    open_everything,
    pid,
    setup,
    setup_dies,
    setup_fails,
    setup_no_dict,
    stop_myself,
)
from executor_tools import KINDS, OURS, wait_until

from expyre import Executor
from expyre.errors import OutOfMemory, RequestError, TimedOut, WorkerDied
from expyre.executor.workers import launching

WAYS = ("SIGKILL", "SIGSEGV", "SIGTERM", "exit")


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return KINDS[request.param]


# ------------------------------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_dies_under_a_call(ours: Callable[..., Any], way: str) -> None:
    with ours(max_workers=1) as exe:
        before, dying, after = exe.submit(add, 1), exe.submit(die, way), [exe.submit(add, i) for i in range(5)]
        with pytest.raises(WorkerDied, match=r"call \d+ of die: its worker") as caught:
            dying.result(60)
        assert ("exit status 7" if way == "exit" else way) in str(caught.value)
        assert [before.result(60), *(future.result(60) for future in after)] == [2, 1, 2, 3, 4, 5]


def test_the_worker_of_short_calls_dies_with_others_waiting_behind(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        for _ in range(50):
            exe.submit(add, 1).result(60)  # it is found that calls are short
        futures = [exe.submit(die_once, str(counts), i, i == 20) for i in range(60)]
        errors = [future.exception(60) for future in futures]
    assert [i for i, error in enumerate(errors) if error] == [20]
    assert sorted(map(int, counts.read_text().split())) == list(range(60))


def test_an_idle_worker_dies() -> None:
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        for _ in range(4):
            first = exe.submit(pid).result(60)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: not psutil.pid_exists(first), 15.0)  # noqa: B023  a dying one might still take the call
            assert exe.submit(pid).result(60) != first


@pytest.mark.parametrize("limit", [1, 2])
def test_restarts(ours: Callable[..., Any], tmp_path: Path, limit: int) -> None:
    with ours(max_workers=1, restart_limit=limit) as exe:
        assert exe.submit(die_once, str(tmp_path / "once"), 1, True).result(60) == 1
        with pytest.raises(WorkerDied):
            exe.submit(die_once, str(tmp_path / "always"), 1, True, always=True).result(60)
        assert exe.submit(add, 1).result(60) == 2
    assert len((tmp_path / "always").read_text().split()) == 1 + limit


def test_children_of_a_worker_that_dies_end_with_it(ours: Callable[..., Any], tmp_path: Path) -> None:
    with ours(max_workers=1) as exe:
        with pytest.raises(WorkerDied):
            exe.submit(die, "SIGKILL", str(tmp_path / "child")).result(60)
        child = int((tmp_path / "child").read_text())
        wait_until(lambda: not psutil.pid_exists(child), 15.0)


# -------------------------------------------------------------------------------------------------------- memory


def test_memory_that_python_does_not_get(ours: Callable[..., Any]) -> None:
    with ours(max_workers=1) as exe:
        with pytest.raises(MemoryError):
            exe.submit(eat_memory).result(60)
        assert exe.submit(add, 1).result(60) == 2


def test_no_descriptors_are_left_in_a_worker() -> None:
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        kept = exe.submit(open_everything).result(60)
        with pytest.raises(OSError, match="files are open"):
            exe.submit(len, bytes(20 * 10**6)).result(60)
        assert exe.submit(len, [kept]).result(60) == 1
        with pytest.raises(RuntimeError, match="the function cannot be unpickled in the worker: OSError"):
            exe.submit(add, kept).result(60)
        exe.submit(os.closerange, kept, 64).result(60)
        assert exe.submit(add, kept).result(60) == kept + 1


def test_no_descriptors_are_left_here() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        assert exe.submit(add, 1).result(60) == 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 3, hard))
        kept = []
        try:
            while len(kept) < 100:
                kept.append(os.dup(0))
        except OSError:
            pass
        try:
            receiving = exe.submit(bytes, 20 * 10**6).exception(60)
            sending = exe.submit(len, bytes(20 * 10**6)).exception(60)
        finally:
            for fd in kept:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert isinstance(receiving, OSError)
        assert isinstance(sending, OSError)
        assert exe.submit(bytes, 20 * 10**6).result(60) == bytes(20 * 10**6)


def test_large_results_need_no_descriptors() -> None:
    numpy = pytest.importorskip("numpy")
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        exe.submit(add, 1).result(60)
        before = len(os.listdir("/proc/self/fd"))
        arrays = [exe.submit(numpy.ones, 50_000).result(60) for _ in range(20)]
        assert len(os.listdir("/proc/self/fd")) == before
        assert all(array.flags.writeable and array.flags.aligned and array.sum() == 50_000 for array in arrays)


# ---------------------------------------------------------------------------------------------------------- time


def test_time_limit(ours: Callable[..., Any]) -> None:
    with ours(max_workers=1, max_time=0.4) as exe:
        late, prompt = exe.submit(time.sleep, 60), exe.submit(add, 1)
        with pytest.raises(TimedOut, match=r"call \d+ of sleep reached its time limit of 0\.4 s"):
            late.result(60)
        assert prompt.result(60) == 2


def test_time_limit_of_one_call_and_a_stopped_worker() -> None:
    with Executor(max_workers=1, oversubscribe=True, restart_limit=3) as exe:
        stopped = exe.submit(stop_myself, resource_dict={"max_time": 0.3})
        with pytest.raises(TimedOut):
            stopped.result(60)
        assert exe.submit(add, 1, resource_dict={"max_time": "1h"}).result(60) == 2


@pytest.mark.parametrize("limit", [1e18, float("inf")])
def test_time_limits_without_end(limit: float) -> None:
    with Executor(max_workers=1, oversubscribe=True, max_time=limit) as exe:
        assert exe.submit(time.sleep, 0.1).result(60) is None


# ---------------------------------------------------------------------------------------------------- setting up


def test_init_function() -> None:
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True, init_function=setup) as exe:
        assert exe.submit(add, 2).result(60) == 12
        assert exe.submit(add, 2, other=3).result(60) == 5
        assert exe.submit(sum, [1, 1]).result(60) == 2


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (setup_fails, ZeroDivisionError, "division by zero"),
        (setup_no_dict, TypeError, "init_function has to return a dict of arguments, not a list"),
        (setup_dies, WorkerDied, "no worker could be started: the last one was killed by SIGKILL"),
        (lambda: sys_exit(), SystemExit, "3"),
    ],
)
def test_init_function_that_fails(function: Callable[[], Any], error: type[BaseException], text: str) -> None:
    with Executor(max_workers=2, block_allocation=True, oversubscribe=True, init_function=function) as exe:
        futures = [exe.submit(add, i) for i in range(20)]
        for future in futures:
            with pytest.raises(error, match=text):
                future.result(60)
        assert type(exe.submit(add, 1).exception(60)) is error


def sys_exit() -> None:
    raise SystemExit(3)


def test_a_directory_that_cannot_be_made(ours: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with ours(max_workers=1, cwd=str(tmp_path / "file" / "below")) as exe, pytest.raises(NotADirectoryError):
        exe.submit(add, 1).result(60)


# -------------------------------------------------------------------------------- what cannot be sent, or not be read


def test_what_cannot_be_pickled_here(ours: Callable[..., Any]) -> None:
    lock = threading.Lock()
    with ours(max_workers=1) as exe:
        one = exe.submit(add, [lock], other=lock)
        text = r"call \d+ of add cannot be sent to a worker: args\[0\] .*kwargs\['other'\]"
        with pytest.raises(RequestError, match=text):
            one.result(60)
        with pytest.raises(RequestError, match="the function"):
            exe.submit(lock.acquire).result(60)
        assert exe.submit(add, 1).result(60) == 2


@pytest.mark.parametrize("size", [0, 10**6])
def test_what_cannot_be_read_there(ours: Callable[..., Any], size: int) -> None:
    with ours(max_workers=1) as exe:
        with pytest.raises(ValueError, match="cannot be read there"):
            exe.submit(add, BadThere(bytes(size))).result(60)
        assert exe.submit(add, 1).result(60) == 2


def test_results_that_cannot_be_pickled_or_read(ours: Callable[..., Any]) -> None:
    with ours(max_workers=1) as exe:
        with pytest.raises(TypeError, match=r"the result cannot be pickled: result\['a'\]\[1\] is a _thread.lock"):
            exe.submit(bad_result).result(60)
        with pytest.raises(ValueError, match="cannot be read"):
            exe.submit(Bad).result(60)
        assert type(exe.submit(BadExit).exception(60)) is SystemExit
        assert exe.submit(add, 1).result(60) == 2


def test_exceptions_that_cannot_be_pickled_or_read(ours: Callable[..., Any]) -> None:
    with ours(max_workers=1) as exe:
        error = exe.submit(bad_error).exception(60)
        assert (type(error).__name__, str(error)) == ("WithLock", "text")
        error = exe.submit(exhaust, Unreadable).exception(60)
        assert (type(error).__name__, str(error)) == ("Unreadable", "one and two")
        assert exe.submit(add, 1).result(60) == 2


# ------------------------------------------------------------------------------------------------- other machinery


def test_many_workers_start_at_once() -> None:
    """Notes of the keeper and requests to it must not wait for each other."""
    count = 350
    with Executor(max_workers=count, block_allocation=True, oversubscribe=True) as exe:
        assert sum(exe.map(add, range(count))) == sum(range(count)) + count


def test_streams_instead_of_packets(ours: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is used where there are no packets, such as on macOS."""
    monkeypatch.setattr(launching, "_PACKETS", False)
    with ours(max_workers=2) as exe:
        assert list(exe.map(add, range(20))) == list(range(1, 21))
        assert exe.submit(len, bytes(3 * 10**6)).result(60) == 3 * 10**6
        assert exe.submit(bytes, 3 * 10**6).result(60) == bytes(3 * 10**6)
        running = exe.submit(await_file, str(tmp_path / "gate"))
        with pytest.raises(WorkerDied):
            exe.submit(die, "SIGKILL").result(60)
        (tmp_path / "gate").touch()
        assert running.result(60) is None


def test_out_of_memory_has_a_name() -> None:
    from expyre.executor.workers.deaths import Deaths

    deaths = Deaths()
    error = deaths.error("call 1 of f", {"status": -9})
    assert isinstance(error, WorkerDied)
    deaths._out_of_memory = -1  # the kernel has killed a process for memory since
    assert isinstance(deaths.error("call 1 of f", {"status": -9}), OutOfMemory)
