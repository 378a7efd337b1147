"""Futures among arguments: at any depth, of any executor, in chains of any length, failed and cancelled."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import operator
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from executor_calls import Mine, add, await_file, fail
from executor_tools import KINDS, OURS, run, wait_until

from expyre import Executor
from expyre.errors import InputFailed, RequestError
from expyre.executor.arguments import futures_in, with_results


@pytest.fixture(scope="module")
def exe() -> Iterator[Executor]:
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as executor:
        yield executor


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class Pair(NamedTuple):
    one: Any
    other: Any


@dataclasses.dataclass(frozen=True)
class Frozen:
    one: Any
    other: Any = 0


@dataclasses.dataclass(slots=True)
class Slots:
    one: Any
    later: Any = dataclasses.field(init=False)


class Named(dict[str, Any]):
    label = ""


# ------------------------------------------------------------------------------------------------------- arguments

NESTED = [
    (lambda f: f(1), 1),
    (lambda f: [f(1), [f(2), (f(3),)]], [1, [2, (3,)]]),
    (lambda f: {"a": f(1), f("b"): [f(2)]}, {"a": 1, "b": [2]}),
    (lambda f: {f(1), 2}, {1, 2}),
    (lambda f: frozenset([f(1)]), frozenset([1])),
    (lambda f: Pair(f(1), [f(2)]), Pair(1, [2])),
    (lambda f: Frozen(f(1), Frozen(f(2))), Frozen(1, Frozen(2))),
    (lambda f: collections.OrderedDict(a=f(1)), collections.OrderedDict(a=1)),
    (lambda f: collections.defaultdict(list, {1: [f(2)]}), collections.defaultdict(list, {1: [2]})),
    (lambda f: [], []),
    (lambda f: "text", "text"),
    (lambda f: f(None), None),
]


@pytest.mark.parametrize(("make", "expected"), NESTED)
def test_futures_at_any_depth(make: Callable[[Any], Any], expected: Any) -> None:
    given = make(done)
    found = with_results(given)
    assert (found, type(found)) == (expected, type(expected))
    assert len(futures_in([given])) == len(futures_in([make(done)]))


def test_what_holds_no_future_is_not_copied() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    shared = {"a": cycle}
    value = [shared, shared, Frozen(shared)]
    assert with_results(value) is value
    partly = with_results([shared, done(1), shared])
    assert partly[0] is shared
    assert partly[2] is shared


def test_what_is_met_twice_stays_one() -> None:
    inner = [done(1)]
    found = with_results({"a": inner, "b": (inner,)})
    assert found["a"] is found["b"][0]
    assert inner[0].done()  # what the caller has is not changed


def test_attributes_of_subclasses_stay() -> None:
    named = Named(a=done(1))
    named.label = "mine"
    found = with_results(named)
    assert (found, found.label, type(found)) == ({"a": 1}, "mine", Named)
    slots = with_results(Slots(done(1)))
    assert (slots.one, hasattr(slots, "later")) == (1, False)
    assert collections.defaultdict(list, a=1) == with_results(collections.defaultdict(list, a=done(1)))


def test_nesting_may_be_deep() -> None:
    value: Any = done(1)
    for _ in range(5000):
        value = [value]
    value = with_results(value)
    while isinstance(value, list):
        (value,) = value
    assert value == 1


def test_what_holds_itself_may_hold_futures() -> None:
    cycle: list[Any] = [done(1)]
    pair = (cycle, {"a": cycle})
    cycle.append(pair)
    found = with_results(pair)
    assert found[0][0] == 1
    assert found[0][1] is found
    assert found[1]["a"] is found[0]


# ----------------------------------------------------------------------------------------------------------- calls


def test_futures_as_arguments(exe: Executor) -> None:
    one = exe.submit(add, 1)
    other = exe.submit(add, one, other=one)
    assert other.result(60) == 4
    assert exe.submit(sum, [one, other, exe.submit(add, other)]).result(60) == 11
    assert exe.submit(dict, a=one).result(60) == {"a": 2}
    assert list(exe.map(add, [one, other], [one, 1])) == [4, 5]
    assert list(exe.map(add, [one, other], [one, 1], chunksize=2)) == [4, 5]


@pytest.mark.parametrize("kind", OURS)
def test_a_diamond(kind: str) -> None:
    with KINDS[kind](max_workers=2) as exe:
        top = exe.submit(add, 0)
        sides = [exe.submit(add, top, i) for i in range(4)]
        assert exe.submit(sum, sides).result(60) == 10


def test_futures_of_others(exe: Executor) -> None:
    with ThreadPoolExecutor(1) as pool, Executor(max_workers=1, oversubscribe=True) as second:
        slow = pool.submit(lambda: time.sleep(0.2) or 5)
        assert exe.submit(add, slow, second.submit(add, slow)).result(60) == 11


def test_futures_are_left_alone_if_asked() -> None:
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True, disable_dependencies=True) as exe:
        assert exe.submit(add, 1).result(60) == 2
        with pytest.raises(RequestError, match=r"args\[0\] is a concurrent.futures._base.Future"):
            exe.submit(add, done(1)).result(60)


def test_shutdown_waits_for_futures_of_others() -> None:
    foreign: Future[int] = Future()
    exe = Executor(max_workers=1, block_allocation=True, oversubscribe=True)
    waiting = exe.submit(add, foreign)
    exe.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        exe.submit(add, 1)
    threading.Timer(0.2, foreign.set_result, [1]).start()
    exe.shutdown()
    assert waiting.result(0) == 2


def test_shutdown_cancels_what_waits_for_others() -> None:
    foreign: Future[int] = Future()
    with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
        waiting = [exe.submit(add, foreign), exe.submit(add, foreign)]
        later = exe.submit(add, waiting[0])
        waiting[0].add_done_callback(lambda _: exe.shutdown(wait=True))
        exe.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    assert later.cancelled() or isinstance(later.exception(60), InputFailed)
    foreign.set_result(1)


# -------------------------------------------------------------------------------------------------------- failures


def test_a_failed_input(exe: Executor) -> None:
    bad = exe.submit(fail, "text")
    middle = exe.submit(add, [bad])
    last = exe.submit(add, middle, exe.submit(add, 1))
    with pytest.raises(InputFailed, match=r"call \d+ of add was not run because an input failed: Mine: text") as caught:
        last.result(60)
    assert caught.value.__cause__ is middle.exception()
    assert middle.exception().__cause__ is bad.exception()  # type: ignore[union-attr]
    assert type(bad.exception()) is Mine


def test_a_cancelled_input(exe: Executor, tmp_path: Path) -> None:
    running = exe.submit(await_file, str(tmp_path / "gate"))
    wait_until(running.running, 60.0)
    time.sleep(0.05)  # a worker that seems to be done soon gets the next call already
    waiting = exe.submit(add, 1)
    last = exe.submit(add, waiting)
    assert waiting.cancel()
    with pytest.raises(InputFailed, match="an input was cancelled") as caught:
        last.result(60)
    assert isinstance(caught.value.__cause__, CancelledError)
    (tmp_path / "gate").touch()


def test_a_dependent_is_cancelled(exe: Executor) -> None:
    foreign: Future[int] = Future()
    waiting = exe.submit(add, foreign)
    assert waiting.cancel()
    assert concurrent.futures.wait([waiting], 10).done == {waiting}
    foreign.set_result(1)
    assert exe.submit(add, foreign).result(60) == 2


def test_an_input_that_cannot_be_put_in_its_place(exe: Executor) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        exe.submit(len, {exe.submit(list)}).result(60)
    assert exe.submit(add, 1).result(60) == 2


# --------------------------------------------------------------------------------------------------- large numbers


def test_a_chain_of_ten_thousand(exe: Executor) -> None:
    future = exe.submit(add, 0)
    for _ in range(10_000):
        future = exe.submit(add, future)
    assert future.result(120) == 10_001


def test_a_chain_that_fails_at_its_start(exe: Executor) -> None:
    foreign: Future[int] = Future()
    first = future = exe.submit(add, foreign)
    for _ in range(10_000):
        future = exe.submit(add, future)
    foreign.set_exception(Mine("text"))
    error = future.exception(120)
    assert isinstance(error, InputFailed)
    assert len(str(error)) < 200
    steps = 0
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause, steps = cause.__cause__, steps + 1
    assert (steps, cause) == (10_001, foreign.exception())
    assert first.exception() is not None
    assert "Mine: text" in "".join(traceback.format_exception_only(error))
    del error, cause, future, first


def test_ten_thousand_that_wait_for_one(exe: Executor) -> None:
    foreign: Future[int] = Future()
    waiting = [exe.submit(operator.neg, foreign) for _ in range(10_000)]
    foreign.set_exception(Mine("text"))
    assert all(isinstance(future.exception(60), InputFailed) for future in waiting)


MEMORY = """
import gc, os, time, tracemalloc
from concurrent.futures import Future
from expyre import Executor
exe = Executor(max_workers=1, block_allocation=True, oversubscribe=True)
gate = Future()
exe.submit(abs, 1).result()
def hold():
    while not os.path.exists("gate"):
        time.sleep(0.01)
running = exe.submit(hold)
time.sleep(0.1)
gc.collect()
tracemalloc.start()
futures = [exe.submit(pow, i, 2) for i in range(10_000)] + [exe.submit(pow, gate, i) for i in range(10_000)]
gc.collect()
each = tracemalloc.get_traced_memory()[0] / len(futures)
tracemalloc.stop()
def busy():
    begin = time.process_time()
    time.sleep(1.0)
    return time.process_time() - begin
used = next((used for _ in range(5) if (used := busy()) < 0.1), None)
print(each < 3000 or each, used is not None)
open("gate", "w").close()
gate.set_result(1)
print(sum(f.result() for f in futures) == sum(i * i for i in range(10_000)) + 10_000)
"""


def test_what_waits_costs_little_memory_and_no_time(tmp_path: Path) -> None:
    assert run(MEMORY, tmp_path, 120) == "True True\nTrue\n"


def test_an_input_does_not_keep_what_was_made_of_it(exe: Executor) -> None:
    import gc
    import weakref

    first: Future[int] = Future()
    future = exe.submit(add, first)
    middle = weakref.ref(future)
    last = exe.submit(add, future)
    first.set_result(1)
    assert last.result(60) == 3
    del future
    exe.submit(add, 1).result(60)
    gc.collect()
    wait_until(lambda: middle() is None, 10.0)
