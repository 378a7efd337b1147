"""GPUs: nobody shares one who has not asked for that, whichever executor or script has it."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from executor_places import gpus, meet, most_at_once
from executor_tools import HEAD_OF_SCRIPTS, OURS, script, wait_until

from expyre import Executor
from expyre.executor.workers import gpus as waiting
from expyre.executor.workers import staffing

pytestmark = pytest.mark.usefixtures("own_claims")


@pytest.fixture(autouse=True)
def short_idling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staffing, "_IDLE", 0.3)
    monkeypatch.setattr(staffing, "_LOOK", 0.2)


@pytest.fixture(params=OURS)
def block(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "block")


def test_gpus_are_not_shared(block: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,GPU-1")
    with Executor(max_workers=4, gpus_per_worker=1, block_allocation=block) as exe:
        found = [future.result(60) for future in [exe.submit(gpus, 0.2) for _ in range(6)]]
    assert set().union(*(names for _, _, names in found)) <= {"0", "GPU-1"}
    for gpu in ("0", "GPU-1"):
        mine = [(1, begin, end) for begin, end, names in found if gpu in names]
        assert not mine or most_at_once(mine) == 1
    assert all(len(names) == 1 for _, _, names in found)


def test_gpus_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,1")
    with Executor(max_cores=2) as exe:
        assert exe.submit(gpus).result(60)[2] == set()
        assert exe.submit(gpus, resource_dict={"gpus_per_core": 2}).result(60)[2] == {"0", "1"}
        shared = exe.submit(gpus, resource_dict={"gpus_per_core": 2, "oversubscribe": True})
        assert shared.result(60)[2] == {"0", "1"}
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "none")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with Executor(max_cores=1) as exe:
        assert os.environ["CUDA_VISIBLE_DEVICES"] in exe.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(60)


def gpus_at_once(here: str, there: str) -> set[str]:
    """Return the GPUs of a call that runs at the same time as another one."""
    meet(here, there)
    return gpus()[2]


def test_those_who_share_use_all_gpus(block: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "4")
    ring = [str(tmp_path / str(i)) for i in range(4)]
    shared = {"oversubscribe": True, "gpus_per_worker": 2, "block_allocation": block}
    with Executor(max_workers=4, **shared) as exe:
        futures = [exe.submit(gpus_at_once, ring[i], ring[i - 1]) for i in range(4)]
        counts = Counter(gpu for future in futures for gpu in future.result(60))
    assert counts == {"0": 2, "1": 2, "2": 2, "3": 2}


# ------------------------------------------------------------------------------------------------- several executors


def test_executors_wait_for_each_others_gpus(block: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where workers that stay have them: these go when they have nothing to do and somebody waits."""
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,1")
    with (
        Executor(max_workers=2, gpus_per_worker=1, block_allocation=block) as one,
        Executor(max_workers=2, gpus_per_worker=1, block_allocation=block) as two,
    ):
        futures = [executor.submit(gpus, 0.2) for _ in range(4) for executor in (one, two)]
        found = [future.result(60) for future in futures]
        assert one.submit(gpus).result(60)[2] < {"0", "1"}
    for gpu in ("0", "1"):
        mine = [(1, begin, end) for begin, end, names in found if gpu in names]
        assert mine
        assert most_at_once(mine) == 1


def test_calls_that_need_results_of_another_executor_with_the_same_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,1")
    with (
        Executor(gpus_per_worker=2, max_workers=1, block_allocation=True) as one,
        Executor(gpus_per_worker=2, max_workers=1) as two,
    ):
        chain: Future[Any] = one.submit(gpus)
        for executor in (two, one, two):
            chain = executor.submit(lambda before: (before[0] + 1, 0, gpus()[2]), chain)
        assert chain.result(60)[2] == {"0", "1"}


def test_who_gives_a_gpu_back_leaves_it_to_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "1")
    with Executor(max_workers=1, gpus_per_worker=1) as many, Executor(max_workers=1, gpus_per_worker=1) as one:
        futures = [many.submit(gpus, 0.2) for _ in range(12)]
        wait_until(futures[0].running, 60)
        one.submit(gpus).result(60)
        assert not futures[-1].done()


def test_gpus_that_others_have_may_be_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "1")
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    with Executor(gpus_per_worker=1) as one, Executor(gpus_per_worker=1, oversubscribe=True) as two:
        futures = [one.submit(gpus_at_once, here, there), two.submit(gpus_at_once, there, here)]
        assert [future.result(60) for future in futures] == [{"0"}, {"0"}]


def nested(block: bool) -> list[set[str]]:
    with Executor(max_workers=2, gpus_per_worker=1, block_allocation=block) as exe:
        return [future.result(60)[2] for future in [exe.submit(gpus) for _ in range(3)]]


def test_an_executor_within_a_call_gives_out_the_gpus_of_the_call(block: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("EXPYRE_LOCAL_GPUS", raising=False)
    with Executor(max_workers=1, gpus_per_worker=1, block_allocation=block) as exe:
        assert exe.submit(nested, block).result(60) == [{"3"}] * 3


SCRIPT = HEAD_OF_SCRIPTS + """
def hold():
    Path("begun").write_text("yes\\n")
    time.sleep(100)

with Executor(max_workers=1, gpus_per_worker=2) as exe:
    exe.submit(hold).result()
"""


def test_gpus_of_a_script_come_back_when_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "_LONG", 0.1)
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,1")
    with script(SCRIPT, tmp_path) as other, Executor(max_workers=1, gpus_per_worker=1) as exe:
        other.wait_for_file("begun")
        future = exe.submit(gpus)
        assert exe.submit(len, "abc", resource_dict={"gpus_per_worker": 0}).result(60) == 3
        with caplog.at_level(logging.WARNING):
            wait_until(lambda: "GPUs that other executors of yours have" in caplog.text, 60)
        assert f"(processes: {other.process.pid})" in caplog.text
        assert not future.running()
        os.kill(other.process.pid, signal.SIGKILL)
        assert future.result(60)[2] < {"0", "1"}
    assert len(caplog.records) == 1


def test_a_call_that_waits_for_a_gpu_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "1")
    with Executor(gpus_per_worker=1) as one, Executor(gpus_per_worker=1) as two:
        long = one.submit(gpus, 1.0)
        wait_until(long.running, 60)
        waits = two.submit(gpus)
        two.shutdown(cancel_futures=True)
        assert waits.cancelled()
        assert not long.done()
