"""What `concurrent.futures` promises, to the letter: the same tests over CPython's own executor and over ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import Executor as AnyExecutor
from pathlib import Path
from typing import Any

import pytest
from executor_calls import Mine, Result, add, await_file, fail, fail_at, leave, leave_mark
from executor_tools import KINDS, OURS, wait_until

Make = Callable[..., AnyExecutor]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    return KINDS[request.param]


@pytest.fixture
def exe(make: Make) -> Iterator[AnyExecutor]:
    with make(max_workers=1) as executor:
        yield executor


def occupy(exe: AnyExecutor, gate: Path) -> Future[None]:
    """Return a running call that ends when there is a file."""
    running = exe.submit(await_file, str(gate))
    wait_until(running.running, 60.0)
    return running


def fill(exe: AnyExecutor, count: int) -> list[Future[int]]:
    """Return waiting calls: those that CPython's executor has already handed to a process are not among them."""
    return [exe.submit(add, i) for i in range(count)][-(count // 2) :]


# ------------------------------------------------------------------------------------------------------- submit


def test_result(exe: AnyExecutor) -> None:
    assert exe.submit(add, 2).result(60) == 3
    assert exe.submit(add, 2, other=5).result(60) == 7
    assert exe.submit(sum, [1, 1]).result(60) == 2


def test_names_of_parameters_are_free(exe: AnyExecutor) -> None:
    assert exe.submit(dict, self=1, fn=2).result(60) == {"self": 1, "fn": 2}


def test_exception_has_the_remote_traceback_as_its_cause(exe: AnyExecutor) -> None:
    future = exe.submit(fail, "some text")
    with pytest.raises(Mine, match="some text") as caught:
        future.result(60)
    assert type(caught.value) is Mine
    assert "in fail" in str(caught.value.__cause__)
    assert future.exception() is caught.value


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_a_program_is_an_exception_of_the_call(exe: AnyExecutor, kind: type[BaseException]) -> None:
    error = exe.submit(leave, kind).exception(60)
    assert type(error) is kind
    assert exe.submit(add, 1).result(60) == 2


@pytest.mark.parametrize("what", [None, 1, "abs"])
def test_what_is_no_function(exe: AnyExecutor, what: Any) -> None:
    with pytest.raises(TypeError, match="object is not callable"):
        exe.submit(what).result(60)
    assert exe.submit(add, 1).result(60) == 2


def test_states(exe: AnyExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = occupy(exe, gate)
    waiting = fill(exe, 8)[-1]
    assert (running.running(), running.done(), running.cancelled()) == (True, False, False)
    assert (waiting.running(), waiting.done(), waiting.cancelled()) == (False, False, False)
    with pytest.raises(concurrent.futures.TimeoutError):
        waiting.result(0.01)
    gate.touch()
    waiting.result(60)
    assert (running.running(), running.done(), running.cancelled()) == (False, True, False)


def test_cancel(exe: AnyExecutor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    running = occupy(exe, gate)
    waiting = fill(exe, 8)
    assert not running.cancel()
    assert waiting[1].cancel()
    assert waiting[1].cancel()
    with pytest.raises(CancelledError):
        waiting[1].result(0)
    gate.touch()
    assert [waiting[0].result(60), waiting[2].result(60)] == [5, 7]
    done, pending = concurrent.futures.wait(waiting, timeout=60)
    assert (done, pending) == (set(waiting), set())
    assert not running.cancel()


def test_as_completed_and_wait(exe: AnyExecutor) -> None:
    futures = [exe.submit(add, i) for i in range(5)]
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, timeout=60)) == [1, 2, 3, 4, 5]
    failing = exe.submit(fail, "x")
    late = exe.submit(time.sleep, 0.1)
    done, _ = concurrent.futures.wait([failing, late], 60, concurrent.futures.FIRST_EXCEPTION)
    assert failing in done


# ---------------------------------------------------------------------------------------------------- callbacks


def test_callbacks(exe: AnyExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []
    future = occupy(exe, tmp_path / "gate")
    future.add_done_callback(lambda f: seen.append(("first", f.done())))
    future.add_done_callback(lambda f: seen.append(1 / 0))
    future.add_done_callback(lambda f: seen.append("third"))
    (tmp_path / "gate").touch()
    future.result(60)
    wait_until(lambda: len(seen) == 2, 60.0)
    assert seen == [("first", True), "third"]
    assert "exception calling callback" in caplog.text
    future.add_done_callback(lambda f: seen.append(threading.current_thread() is threading.main_thread()))
    assert seen[-1] is True


def test_callbacks_submit_further_calls(exe: AnyExecutor) -> None:
    numbers: list[int] = []
    over = threading.Event()

    def further(future: Future[int]) -> None:
        numbers.append(future.result())
        if len(numbers) == 5:
            over.set()
        else:
            exe.submit(add, numbers[-1]).add_done_callback(further)

    exe.submit(add, 0).add_done_callback(further)
    assert over.wait(60)
    assert numbers == [1, 2, 3, 4, 5]


# ---------------------------------------------------------------------------------------------------------- map


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map(exe: AnyExecutor, chunksize: int) -> None:
    assert list(exe.map(add, range(7), [10] * 9, chunksize=chunksize)) == list(range(10, 17))
    assert list(exe.map(add, [], chunksize=chunksize)) == []


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_refuses_chunksizes(exe: AnyExecutor, chunksize: int) -> None:
    with pytest.raises(ValueError, match=r"chunksize must be >= 1\."):
        exe.map(add, [1], chunksize=chunksize)


def test_map_yields_what_comes_before_an_exception(exe: AnyExecutor) -> None:
    results = exe.map(fail_at, [2] * 5, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(Mine):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_gives_up_at_the_timeout(exe: AnyExecutor) -> None:
    results = exe.map(time.sleep, [0.01, 1.0], timeout=0.7)
    assert next(results) is None
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)


def test_an_abandoned_map_cancels_the_rest(exe: AnyExecutor, tmp_path: Path) -> None:
    results = exe.map(leave_mark, [str(tmp_path)] * 40, range(40))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    exe.shutdown()
    assert len(list(tmp_path.iterdir())) < 40


def test_map_reads_its_iterables_at_once(exe: AnyExecutor) -> None:
    rows = iter(range(4))
    results = exe.map(add, rows)
    assert list(rows) == []
    assert list(results) == [1, 2, 3, 4]


# ----------------------------------------------------------------------------------------------------- shutdown


def test_submit_after_shutdown(make: Make) -> None:
    exe = make(max_workers=1)
    exe.shutdown()
    exe.shutdown()
    with pytest.raises(RuntimeError) as caught:
        exe.submit(add, 1)
    assert str(caught.value) == "cannot schedule new futures after shutdown"
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        exe.map(add, [1])


def test_the_context_manager_waits(make: Make) -> None:
    with make(max_workers=1) as exe:
        futures = [exe.submit(time.sleep, 0.05) for _ in range(3)]
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(add, 1)


def test_the_context_manager_lets_exceptions_pass(make: Make) -> None:
    exe = make(max_workers=1)
    with contextlib.suppress(Mine), exe:
        future = exe.submit(add, 1)
        raise Mine
    assert future.result(0) == 2


def test_shutdown_without_waiting(make: Make, tmp_path: Path) -> None:
    exe = make(max_workers=1)
    running = occupy(exe, tmp_path / "gate")
    waiting = exe.submit(add, 1)
    exe.shutdown(wait=False)
    assert not running.done()
    (tmp_path / "gate").touch()
    assert waiting.result(60) == 2
    exe.shutdown()


def test_shutdown_cancels_what_waits(make: Make, tmp_path: Path) -> None:
    exe = make(max_workers=1)
    running = occupy(exe, tmp_path / "gate")
    waiting = fill(exe, 8)
    exe.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(future.cancelled() for future in waiting), 60.0)
    (tmp_path / "gate").touch()
    exe.shutdown()
    assert running.result(60) is None


def test_no_reference_to_a_result_is_kept(exe: AnyExecutor) -> None:
    future = exe.submit(Result)
    reference = weakref.ref(future.result(60))
    del future
    exe.submit(add, 1).result(60)
    wait_until(lambda: reference() is None, 10.0)


# ------------------------------------------------------------------------------------------------------ asyncio


def test_asyncio(exe: AnyExecutor) -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(exe, add, 1),
            await asyncio.wrap_future(exe.submit(add, 2)),
            *await asyncio.gather(*(loop.run_in_executor(exe, add, i) for i in range(3))),
            *await asyncio.gather(loop.run_in_executor(exe, fail, "text"), return_exceptions=True),
        ]

    *values, error = asyncio.run(main())
    assert values == [2, 3, 1, 2, 3]
    assert isinstance(error, Mine)


def test_asyncio_cancels(exe: AnyExecutor, tmp_path: Path) -> None:
    occupy(exe, tmp_path / "gate")
    waiting = fill(exe, 8)[-1]

    async def main() -> None:
        await asyncio.wait_for(asyncio.wrap_future(waiting), 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    assert waiting.cancelled()
    (tmp_path / "gate").touch()


# -------------------------------------------------------------------------------------------- better than CPython


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest) -> Make:
    return KINDS[request.param]


def test_who_waits_for_calls_that_a_shutdown_cancels_is_told(ours: Make, tmp_path: Path) -> None:
    exe = ours(max_workers=1)
    running = occupy(exe, tmp_path / "gate")
    waiting = [*fill(exe, 4), exe.submit(add, running)]
    exe.shutdown(wait=False, cancel_futures=True)
    assert concurrent.futures.wait(waiting, timeout=30).not_done == set()
    (tmp_path / "gate").touch()
    exe.shutdown()


def test_callbacks_may_shut_down(ours: Make) -> None:
    exe = ours(max_workers=1)
    over = threading.Event()

    def shut_down(_future: object) -> None:
        exe.shutdown(wait=True)
        over.set()

    first = exe.submit(time.sleep, 0.1)
    exe.submit(add, 0, first)
    first.add_done_callback(shut_down)
    assert over.wait(60)
    exe.shutdown()


def test_a_callback_that_ends_a_program_ends_nothing(ours: Make, caplog: pytest.LogCaptureFixture) -> None:
    with ours(max_workers=1) as exe, caplog.at_level(logging.ERROR):
        exe.submit(time.sleep, 0.1).add_done_callback(lambda _: leave(SystemExit))
        assert exe.submit(add, 1).result(60) == 2
    assert "callback of call" in caplog.text


@pytest.mark.parametrize("buffersize", [1, 3])
def test_map_reads_no_further_than_its_buffer(ours: Make, buffersize: int) -> None:
    rows = iter(range(10))
    with ours(max_workers=1) as exe:
        results = exe.map(add, rows, buffersize=buffersize)
        assert next(rows) == buffersize
        assert next(results) == 1
        assert list(results) == [i + 1 for i in [*range(1, buffersize), *range(buffersize + 1, 10)]]


def test_a_fork_is_told_that_it_has_no_executor(ours: Make) -> None:
    with ours(max_workers=1) as exe:
        assert exe.submit(add, 1).result(60) == 2
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                exe.shutdown(wait=True)
                exe.submit(add, 1)
            except RuntimeError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert "make another one here" in os.read(reader, 1000).decode()
        assert exe.submit(add, 2).result(60) == 3
        os.close(reader)
        os.close(writer)
