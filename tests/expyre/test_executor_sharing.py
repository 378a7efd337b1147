"""Calls are shared out among workers that stay, and taken back from behind long ones; any mix of calls works."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections import Counter
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from executor_calls import Mine, add, await_file
from executor_faults import pid
from executor_tools import wait_until
from hypothesis import given, settings

from expyre import Executor
from expyre.errors import InputFailed, WorkerDied


def warm(exe: Executor, workers: int) -> None:
    """Have all workers started, and have it found that calls are short."""
    wait([exe.submit(time.sleep, 0.2) for _ in range(workers)])
    for _ in range(4):
        wait([exe.submit(add, i) for i in range(100)])


@pytest.mark.parametrize("large", [0, 200_000])
def test_short_calls_do_not_wait_behind_a_long_one(tmp_path: Path, large: int) -> None:
    gate = tmp_path / "gate"
    with Executor(max_workers=2, block_allocation=True, oversubscribe=True) as exe:
        for _ in range(3):
            warm(exe, 2)
            long = exe.submit(await_file, str(gate))
            short = [exe.submit(len, bytes(large)) for _ in range(200)]
            assert [future.result(60) for future in short] == [large] * 200
            later = [exe.submit(add, i) for i in range(200)]
            assert [future.result(60) for future in later] == list(range(1, 201))
            assert not long.done()
            gate.touch()
            assert long.result(60) is None
            gate.unlink()


def test_calls_are_taken_back_while_their_functions_are_on_the_way() -> None:
    """Each call has a function of its own, so that functions and calls are taken back from between each other."""
    with Executor(max_workers=2, block_allocation=True, oversubscribe=True) as exe:
        for _ in range(5):
            warm(exe, 1)
            futures: list[tuple[Any, Future[Any]]] = [(None, exe.submit(time.sleep, 0.03)) for _ in range(2)]
            futures += [(i, exe.submit(eval(f"lambda: {i}"))) for i in range(60)]
            assert [future.result(60) for _, future in futures] == [value for value, _ in futures]


def test_a_call_whose_function_was_taken_back_is_given_again() -> None:
    """A worker may read a call while its function, sent before, is being taken back."""
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        assert exe.submit(add, 1).result(60) == 2
        backend: Any = exe._service.backend
        (worker,) = backend._dispatcher._workers.values()
        function = lambda: 7  # noqa: E731
        worker._functions.add(backend._pickles.functions.pickled(function).token)  # which it does not have
        futures = [exe.submit(function) for _ in range(5)]
        assert [future.result(60) for future in futures] == [7] * 5


def test_work_is_shared_evenly() -> None:
    with Executor(max_workers=2, block_allocation=True, oversubscribe=True) as exe:
        warm(exe, 2)
        counts = Counter(future.result(60) for future in [exe.submit(pid) for _ in range(1000)])
    assert len(counts) == 2
    assert min(counts.values()) > 100


def test_workers_are_started_as_they_are_needed() -> None:
    with Executor(max_workers=8, block_allocation=True, oversubscribe=True) as exe:
        assert len({exe.submit(pid).result(60) for _ in range(20)}) == 1


# ----------------------------------------------------------------------------------------------------- any mix of calls


@dataclasses.dataclass(frozen=True)
class Step:
    """A call of a random program."""

    seconds: float
    size: int  # of its payload, there and back
    array: bool
    end: str  # "ok", "raise", "die"
    inputs: tuple[int, ...]  # how far back the calls are whose results it takes
    cancelled: bool


STEPS = st.builds(
    Step,
    seconds=st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.03]),
    size=st.sampled_from([0, 10, 10_000, 140_000, 1_500_000]),
    array=st.booleans(),
    end=st.sampled_from(["ok"] * 8 + ["raise", "die"]),
    inputs=st.lists(st.integers(1, 5), max_size=2).map(tuple),
    cancelled=st.sampled_from([False] * 6 + [True]),
)


def work(path: str, number: int, step: Step, payload: Any, inputs: list[Any]) -> tuple[int, Any]:
    """Note that this was called, look at what it got, and end as the step says."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    time.sleep(step.seconds)
    if isinstance(payload, np.ndarray):
        payload += 1
    if step.end == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if step.end == "raise":
        raise Mine(number)
    return number + sum(value for value, _ in inputs), payload


def payload_of(step: Step) -> Any:
    return np.zeros(step.size // 8) if step.array else bytes(step.size)


def expected(steps: list[Step], number: int, ended: dict[int, str], values: dict[int, int]) -> None:
    """Work out how a call ends if it is not cancelled."""
    step = steps[number]
    inputs = [number - back for back in step.inputs if number - back >= 0]
    if any(ended[each] != "ok" for each in inputs):
        ended[number] = "input"
    else:
        ended[number] = step.end
        values[number] = number + sum(values[each] for each in inputs)


PROGRAMS = st.lists(STEPS, min_size=1, max_size=30)
MOSTLY = st.sampled_from([True] * 3 + [False])


@settings(max_examples=7, deadline=None)
@given(steps=PROGRAMS, workers=st.integers(1, 3), block=MOSTLY)
def test_any_mix_of_calls(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], workers: int, block: bool
) -> None:
    path = tmp_path_factory.mktemp("mix") / "calls"
    futures: list[Future[Any]] = []
    with Executor(max_workers=workers, block_allocation=block, oversubscribe=True) as exe:
        for number, step in enumerate(steps):
            inputs = [futures[number - back] for back in step.inputs if number - back >= 0]
            futures.append(exe.submit(work, str(path), number, step, payload_of(step), inputs))
            if step.cancelled:
                futures[-1].cancel()
        assert wait(futures, 100).not_done == set()
    ended: dict[int, str] = {}
    values: dict[int, int] = {}
    for number, (step, future) in enumerate(zip(steps, futures, strict=True)):
        expected(steps, number, ended, values)
        if future.cancelled():
            assert step.cancelled
            ended[number] = "cancelled"
        elif ended[number] == "ok":
            value, payload = future.result()
            assert value == values[number]
            assert np.array_equal(payload, payload_of(step) + 1) if step.array else payload == payload_of(step)
        else:
            kind = {"raise": Mine, "die": WorkerDied, "input": InputFailed}[ended[number]]
            assert type(future.exception()) is kind
    counts = Counter(map(int, path.read_text().split())) if path.exists() else Counter()
    assert counts == Counter(n for n in ended if ended[n] not in ("cancelled", "input"))


def test_what_is_cancelled_while_it_waits_is_not_run(tmp_path: Path) -> None:
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        warm(exe, 1)
        running = exe.submit(await_file, str(tmp_path / "gate"))
        wait_until(running.running, 60.0)
        time.sleep(0.1)
        futures = [exe.submit(Path.touch, tmp_path / str(i)) for i in range(300)]
        cancelled = [future.cancel() for future in futures]
        (tmp_path / "gate").touch()
        wait(futures, 60)
    assert sum(cancelled) > 200
    for i, future in enumerate(futures):
        assert (tmp_path / str(i)).exists() != cancelled[i]
        if cancelled[i]:
            with pytest.raises(CancelledError):
                future.result()
