"""What goes to workers and back: large, small, with arrays and without, unchanged by what happens to it meanwhile."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executor_calls import await_file
from executor_tools import KINDS, OURS, wait_until

from expyre import Executor


@pytest.fixture(scope="module", params=OURS)
def exe(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with KINDS[request.param](max_workers=1) as executor:
        yield executor  # type: ignore[misc]


def check(array: Any) -> tuple[bool, bool, float]:
    flags = array.flags.writeable, array.flags.aligned
    array += 1
    return *flags, float(array.sum())


KINDS_OF_VALUES = [bytes, bytearray, "x".__mul__, "é".__mul__, np.ones, lambda n: [b"a" * n, "b" * n, [n]]]
SIZES = [0, 1, 1000, 16 * 1024, 130_000, 131_040, 131_072, 140_000, 3_000_000, 20_000_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", KINDS_OF_VALUES)
def test_payloads_of_any_size(exe: Executor, make: Any, size: int) -> None:
    value = make(size)
    found = exe.submit(list, (value,)).result(60)[0]
    assert type(found) is type(value)
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


def test_large_payloads_behind_a_long_call_go_to_another_worker(tmp_path: Path) -> None:
    """What they lie in is used again, by calls that come later."""
    values = [np.full(20_000 + 4_000 * (i % 70), i) for i in range(300)]  # at most 2.4 MB, 350 MB in all
    with Executor(max_workers=2, block_allocation=True) as executor:
        executor.submit(abs, 1).result(60)
        for i in range(3):
            gate = tmp_path / str(i)
            held = executor.submit(await_file, str(gate))
            futures = [executor.submit(operator.itemgetter(0), (value,)) for value in values[i::3]]
            for future, value in zip(futures, values[i::3], strict=True):
                assert np.array_equal(future.result(60), value)
            assert not held.done()
            gate.touch()
            held.result(60)


def test_arrays_can_be_written_to(exe: Executor) -> None:
    for size in (10, 3000, 200_000):
        array = np.ones(size)
        assert exe.submit(check, array).result(60) == (True, True, 2.0 * size)
        found = exe.submit(operator.itemgetter(0), (array, b"odd", np.zeros(size))).result(60)
        assert check(found) == (True, True, 2.0 * size)
        assert array.sum() == size
        array.flags.writeable = False
        assert not exe.submit(operator.attrgetter("flags.writeable"), array).result(60)


def test_many_arrays_in_one_argument(exe: Executor) -> None:
    arrays = [np.full(3000, i, dtype=np.float64) for i in range(1200)]
    assert [float(each[-1]) for each in exe.submit(list, arrays).result(60)] == list(range(1200))
    turned = np.arange(90_000).reshape(300, 300).T[::2]
    assert np.array_equal(exe.submit(operator.itemgetter(0), [turned]).result(60), turned)


@pytest.mark.parametrize("size", [10, 100_000, 300_000])
def test_what_happens_to_an_argument_later_does_not_matter(exe: Executor, size: int, tmp_path: Path) -> None:
    running = exe.submit(await_file, str(tmp_path / "gate"))
    wait_until(running.running, 60.0)
    data, numbers = bytearray(size), [1] * size
    waiting = exe.submit(lambda *args: list(map(sum, args)), data, numbers)
    data.extend(b"abc")
    numbers.clear()
    (tmp_path / "gate").touch()
    assert waiting.result(60) == [0, size]


def test_large_closures_are_not_kept(exe: Executor) -> None:
    """Each has its array; those of one size must not be taken for each other."""
    for i in range(3):
        array = np.full(100_000, i)
        assert exe.submit(lambda: int(array.max())).result(60) == i  # noqa: B023
        text = str(i) * 2_000_000
        assert exe.submit(lambda: text[-1]).result(60) == str(i)  # noqa: B023
    rss = [exe.submit(resident, np.ones(10**6)).result(60) for _ in range(12)]
    assert rss[-1] < rss[1] + 40_000


def resident(_array: Any) -> int:
    """Return the memory of this process in kB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def test_many_functions(exe: Executor) -> None:
    if exe._options.block_allocation:
        futures = [exe.submit(eval(f"lambda: {i}")) for i in range(600)]
        assert [future.result(60) for future in futures] == list(range(600))
        again = functools.partial(operator.add, 1)
        assert [exe.submit(again, i).result(60) for i in range(3)] == [1, 2, 3]


def test_functions_that_are_made_for_each_call_are_not_kept(exe: Executor) -> None:
    import gc
    import weakref

    references = []
    for i in range(3):
        function = lambda i=i: i  # noqa: E731
        references.append(weakref.ref(function))
        exe.submit(function).result(60)
    for i in range(300):
        exe._service.backend._pickles.functions.pickled(lambda i=i: i)  # type: ignore[attr-defined]
    del function
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
