"""What calls ask for: all parameters, mistakes in them, and that nobody gets what another one has."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from executor_calls import add
from executor_places import cores, directory, meet, most_at_once, note_begin, pinned_span, span, threads
from executor_tools import KINDS, OURS

from expyre import Executor
from expyre.errors import RequestError
from expyre.executor.requests import Mistakes, Request

ALL_CORES = os.sched_getaffinity(0)


pytestmark = pytest.mark.usefixtures("own_claims")


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return KINDS[request.param]


# -------------------------------------------------------------------------------------------------------- mistakes

WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"max_cores": 0}, ["max_cores=0: must be an integer of at least 1"]),
    ({"max_workers": "2"}, ["max_workers='2': must be an integer"]),
    ({"max_workers": True}, ["max_workers=True"]),
    ({"cores_per_worker": 1.5}, ["cores=1.5: must be an integer"]),
    ({"threads_per_core": -1}, ["threads_per_core=-1"]),
    ({"gpus_per_worker": -1}, ["gpus_per_worker=-1"]),
    ({"oversubscribe": 1}, ["oversubscribe=1: must be True or False"]),
    *[
        ({name: "no"}, [f"{name}='no': must be True or False"])
        for name in ("block_allocation", "cache", "disable_dependencies", "plot_dependency_graph")
    ],
    ({"hostname_localhost": "maybe", "cache": 1}, ["hostname_localhost='maybe': must be True or", "cache=1: must be"]),
    ({"cwd": 5}, ["cwd=5"]),
    ({"cwd": __file__}, ["is not a directory"]),
    ({"command_line_argument_lst": "--mem=1"}, ["must be a list of words"]),
    ({"max_time": "soon"}, ["max_time='soon'"]),
    ({"max_time": 0}, ["max_time=0: must be more than 0 s"]),
    ({"max_time": float("nan")}, ["max_time=nan"]),
    ({"refresh_rate": 0}, ["refresh_rate=0"]),
    ({"restart_limit": -1}, ["restart_limit=-1"]),
    ({"init_function": add}, ["init_function needs block_allocation=True"]),
    ({"init_function": 3, "block_allocation": True}, ["init_function=3 is not a function"]),
    ({"backend": "locla"}, ["backend='locla' is unknown", "did you mean 'local'?"]),
    ({"resource_dict": {"core": 2}}, ["'core' is unknown", "did you mean 'cores'?"]),
    ({"resource_dict": {5: 2}}, ["5 is unknown"]),
    ({"resource_dict": {"gpu": 1, "core": 1}}, ["did you mean 'gpus_per_core'?", "did you mean 'cores'?"]),
    ({"resource_dict": {"gpus_": 1}}, ["did you mean 'gpus_per_core'?"]),
    ({"max_cores": 1, "cores_per_worker": 2}, ["2 cores are asked for, there are 1 (max_cores)"]),
    ({"max_cores": 3, "cores_per_worker": 2, "threads_per_core": 2}, ["2 cores with 2 threads each", "there are 3"]),
    ({"gpus_per_worker": 3}, ["3 GPUs are asked for, there are 2"]),
    ({"resource_dict": [1]}, ["resource_dict=[1]: must be a dict"]),
    ({"resource_dict": "cores", "max_cores": 0}, ["resource_dict='cores': must be a dict", "max_cores=0"]),
    (
        {"max_cores": 2, "cores_per_worker": 8, "gpus_per_worker": 3, "threads_per_core": 0},
        ["threads_per_core=0", "8 cores are asked for, there are 2", "3 GPUs are asked for, there are 2"],
    ),
    ({"cores_per_worker": 0, "gpus_per_worker": 3, "restart_limit": -1}, ["cores=0", "3 GPUs", "restart_limit=-1"]),
    (
        {"max_cores": 0, "threads_per_core": 0, "cwd": 5, "resource_dict": {"gpus_per_cores": 1, "cors": 2}},
        ["max_cores=0", "threads_per_core=0", "cwd=5", "did you mean 'gpus_per_core'?", "did you mean 'cores'?"],
    ),
]


@pytest.mark.parametrize(("given", "texts"), WRONG)
def test_mistakes_are_reported_together(
    given: dict[str, Any], texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,1")
    with pytest.raises(RequestError) as caught:
        Executor(**given)
    assert isinstance(caught.value, ValueError)
    assert [text for text in texts if text not in str(caught.value)] == []


def test_mistakes_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,1")
    with Executor(max_cores=2) as exe:
        with pytest.raises(RequestError, match=r"resource_dict: cores=0.*'gpu_per_core' is unknown \(did you mean"):
            exe.submit(add, 1, resource_dict={"cores": 0, "gpu_per_core": 1})
        with pytest.raises(RequestError, match=r"3 cores are asked for, there are 2.*4 GPUs are asked for, there are"):
            exe.submit(add, 1, resource_dict={"cores": 3, "gpus_per_worker": 4})
        with pytest.raises(RequestError, match=r"threads_per_core=0.*9 cores are .* 2 \(max.*18 GPUs are .* are 2"):
            exe.submit(add, 1, resource_dict={"cores": 9, "gpus_per_core": 2, "threads_per_core": 0})
        with pytest.raises(RequestError, match="must be a dict"):
            exe.submit(add, 1, resource_dict=["cores"])  # type: ignore[arg-type]
        assert exe.submit(add, 1).result(60) == 2


def test_calls_of_a_block_ask_for_what_it_has() -> None:
    with Executor(max_cores=2, block_allocation=True, threads_per_core=2) as exe:
        with pytest.raises(RequestError, match="with block_allocation all calls run in the same workers"):
            exe.submit(add, 1, resource_dict={"threads_per_core": 1})
        same = {"cores": 1, "threads_per_core": 2, "executor": None, "hostname_localhost": False, "cwd": None}
        assert exe.submit(add, 1, resource_dict=same).result(60) == 2


@pytest.mark.parametrize(
    ("given", "cores", "gpus"),
    [
        ({"gpus_per_worker": 2, "cores": 2}, 2, 2),
        ({"gpus_per_core": 2, "cores": 2}, 2, 4),
        ({"gpus_per_core": 2, "cores_per_worker": 3, "gpus_per_worker": 6}, 3, 6),
        ({"gpus_per_core": 0, "gpus_per_worker": 0}, 1, 0),
    ],
)
def test_ways_to_ask_for_gpus(given: dict[str, Any], cores: int, gpus: int) -> None:
    mistakes = Mistakes("x")
    found = Request.read(given, mistakes)
    mistakes.finish()
    assert (found.cores, found.gpus) == (cores, gpus)


def test_contradicting_gpus() -> None:
    mistakes = Mistakes("x")
    Request.read({"gpus_per_core": 2, "gpus_per_worker": 3}, mistakes)
    with pytest.raises(RequestError, match="contradict"):
        mistakes.finish()


# ---------------------------------------------------------------------------------------------------------- places


def test_threads(ours: Callable[..., Any]) -> None:
    with ours(max_workers=1, threads_per_core=2) as exe:
        assert exe.submit(threads).result(60) == {"2"}
    with Executor(max_cores=2) as exe:
        assert exe.submit(threads, resource_dict={"threads_per_core": 2}).result(60) == {"2"}
        assert exe.submit(threads).result(60) == {"1"}


def test_directory(ours: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ours(max_workers=1, cwd=tmp_path / "made" / "here") as exe:
        assert exe.submit(directory).result(60) == str(tmp_path / "made" / "here")
    monkeypatch.chdir(tmp_path)
    with Executor(max_workers=1, cwd="relative") as exe:
        assert exe.submit(directory).result(60) == str(tmp_path / "relative")
        there = exe.submit(directory, resource_dict={"cwd": "other"})
        assert there.result(60) == str(tmp_path / "other")
    with ours(max_workers=1) as exe:
        assert exe.submit(directory).result(60) == str(tmp_path)


@pytest.mark.parametrize("block", [True, False])
def test_workers_are_pinned_to_different_cores(block: bool) -> None:
    if len(ALL_CORES) < 2:
        pytest.skip("needs two cores")
    with Executor(max_cores=2, block_allocation=block) as exe:
        found = [future.result(60) for future in [exe.submit(pinned_span, 0.2) for _ in range(6)]]
    assert all(len(each) == 1 for each, _, _ in found)
    for core in ALL_CORES:
        assert not any(core in each for each, _, _ in found) or (
            most_at_once((1, begin, end) for each, begin, end in found if core in each) == 1
        )
    with Executor(max_cores=2, threads_per_core=2, block_allocation=block) as exe:
        assert len(exe.submit(cores).result(60)) == 2


def test_nobody_is_pinned_who_shares(ours: Callable[..., Any]) -> None:
    with ours(max_workers=1) as exe:  # oversubscribe=True
        assert exe.submit(cores).result(60) == ALL_CORES
    with Executor(max_workers=len(ALL_CORES) + 1) as exe:
        assert exe.submit(cores).result(60) == ALL_CORES
    with Executor(max_cores=len(ALL_CORES)) as exe:
        assert exe.submit(cores, resource_dict={"oversubscribe": True}).result(60) == ALL_CORES
        assert len(exe.submit(cores).result(60)) == 1
        with Executor(max_cores=1) as second:  # the first one has claimed all cores
            assert second.submit(cores).result(60) == ALL_CORES
    with Executor(max_cores=len(ALL_CORES)) as third:
        assert len(third.submit(cores).result(60)) == 1


# ------------------------------------------------------------------------------------------------ never too much


def test_calls_of_mixed_sizes_take_no_more_than_there_is() -> None:
    sizes = [1, 3, 1, 2, 4, 1, 1, 2, 3, 1, 4, 2]
    with Executor(max_cores=4) as exe:
        futures = [exe.submit(span, n, 0.1, resource_dict={"threads_per_core": n}) for n in sizes]
        spans = [future.result(60) for future in futures]
    assert most_at_once(spans) <= 4


@pytest.mark.parametrize("given", [{"max_workers": 2}, {"max_workers": 2, "max_cores": 5}, {"max_cores": 2}])
def test_no_more_workers_than_were_asked_for(given: dict[str, Any]) -> None:
    for block in (True, False):
        with Executor(block_allocation=block, **given) as exe:
            spans = [future.result(60) for future in [exe.submit(span, 1, 0.1) for _ in range(6)]]
        assert most_at_once(spans) <= 2


def test_two_calls_run_at_the_same_time(ours: Callable[..., Any], tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    with ours(max_workers=2) as exe:
        for future in [exe.submit(meet, here, there), exe.submit(meet, there, here)]:
            future.result(60)


def test_small_calls_overtake_a_large_one_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expyre.executor.workers import staffing

    monkeypatch.setattr(staffing, "_PATIENCE", 0.3)
    order = str(tmp_path / "order")
    with Executor(max_cores=2) as exe:
        exe.submit(note_begin, order, "first", 0.2)
        large = exe.submit(note_begin, order, "large", 0.0, resource_dict={"threads_per_core": 2})
        small = [exe.submit(note_begin, order, "small", 0.1) for _ in range(40)]
        large.result(60)
        for future in small:
            future.result(60)
    begun = Path(order).read_text().split()
    assert 1 <= begun.index("large") - 1 <= 30
    assert len(begun) == 42


# ------------------------------------------------------------------------------------------------- races of threads


def test_submissions_from_many_threads_meet_a_shutdown(ours: Callable[..., Any]) -> None:
    for _ in range(5):
        exe = ours(max_workers=2)
        futures: list[Any] = []
        refused: list[str] = []
        begun = threading.Barrier(5)

        def submit(exe: Any = exe, futures: Any = futures, refused: Any = refused, begun: Any = begun) -> None:
            begun.wait()
            for i in range(5):
                try:
                    futures.append((i, exe.submit(add, i)))
                except RuntimeError as error:
                    refused.append(str(error))

        with ThreadPoolExecutor(5) as pool:
            for _ in range(4):
                pool.submit(submit)
            begun.wait()
            pool.submit(exe.shutdown, wait=True)
        assert len(futures) + len(refused) == 20
        assert set(refused) <= {"cannot schedule new futures after shutdown"}
        assert [future.result(60) for _, future in futures] == [i + 1 for i, _ in futures]
