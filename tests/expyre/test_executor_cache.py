"""Results of calls are kept and found again, and nothing is believed that was not kept here."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from executor_tools import run, script

from expyre import Executor
from expyre.errors import KeyUnstableError, RequestError


def counted(directory, value, seconds=0.0):
    time.sleep(seconds)
    with open(Path(directory, "ran"), "a") as file:
        file.write(f"{value}\n")
    if value == "bad":
        raise ValueError(value)
    return [value] * 2


def ran(directory: Path) -> list[str]:
    path = directory / "ran"
    return path.read_text().split() if path.exists() else []


def kept(directory: Path) -> list[Path]:
    return [path for path in (directory / "results").glob("??/*") if path.is_file()]


@pytest.fixture(params=[True, False], ids=["block", "per_call"])
def make(request, tmp_path):
    return lambda: Executor(
        max_workers=2, oversubscribe=True, block_allocation=request.param, cache_directory=str(tmp_path / "cache")
    )


def test_a_call_is_made_once(make, tmp_path):
    for _ in range(2):
        with make() as executor:
            assert executor.submit(counted, str(tmp_path), 1).result() == [1, 1]
            assert executor.submit(counted, str(tmp_path), value=2).result() == [2, 2]
            assert executor.submit(counted, str(tmp_path), 1, resource_dict={}).result() == [1, 1]
    assert ran(tmp_path) == ["1", "2"]


def test_equal_calls_under_way_are_made_once(make, tmp_path):
    with make() as executor:
        futures = [executor.submit(counted, str(tmp_path), 1, 0.3) for _ in range(5)]
        assert [future.result() for future in futures] == [[1, 1]] * 5
    assert ran(tmp_path) == ["1"]


def test_results_of_others_are_part_of_the_key(make, tmp_path):
    for _ in range(2):
        with make() as executor:
            first = executor.submit(counted, str(tmp_path), 1)
            assert executor.submit(counted, str(tmp_path), first).result() == [[1, 1]] * 2
    assert len(ran(tmp_path)) == 3  # "[1, 1]" are two words
    with make() as executor:
        assert executor.submit(counted, str(tmp_path), [1, 1]).result() == [[1, 1]] * 2
    assert len(ran(tmp_path)) == 3


def test_failures_are_not_kept(make, tmp_path):
    with make() as executor:
        calls = [executor.submit(counted, str(tmp_path), "bad", 0.2) for _ in range(3)]
        assert [str(call.exception()) for call in calls] == ["bad"] * 3
        assert ran(tmp_path) == ["bad"]
        assert executor.submit(counted, str(tmp_path), "bad").exception() is not None
    assert ran(tmp_path) == ["bad"] * 2


def test_a_first_call_that_is_cancelled_leaves_the_others(tmp_path):
    with Executor(max_workers=1, oversubscribe=True, cache_directory=str(tmp_path / "cache")) as executor:
        busy = executor.submit(time.sleep, 1.0)
        futures = [executor.submit(counted, str(tmp_path), 1) for _ in range(3)]
        assert futures[0].cancel()
        assert futures[1].result() == futures[2].result() == [1, 1]
        busy.result()
    assert ran(tmp_path) == ["1"]


def test_what_has_no_stable_value_is_named(make, tmp_path):
    with make() as executor:
        error = executor.submit(counted, str(tmp_path), threading.Lock()).exception()
    assert isinstance(error, KeyUnstableError)
    assert "args[1]" in str(error)


@pytest.mark.parametrize("harm", ["cut", "changed", "forged", "swapped"])
def test_a_file_that_is_not_what_was_kept_is_not_unpickled(make, tmp_path, harm, caplog):
    with make() as executor:
        executor.submit(counted, str(tmp_path), 1).result()
    [file] = kept(tmp_path / "cache")
    assert file.stat().st_mode & 0o777 == 0o600
    data = bytearray(file.read_bytes())
    if harm == "changed":
        data[10] ^= 1
    elif harm == "forged":
        data = bytearray(b"cos\nabort\n(tR.") + data[14:]
    elif harm == "swapped":
        with make() as executor:
            executor.submit(counted, str(tmp_path), 2).result()
        (tmp_path / "ran").write_text("1\n")
        [other] = [path for path in kept(tmp_path / "cache") if path != file]
        data = bytearray(other.read_bytes())
    file.write_bytes(data[:-7] if harm == "cut" else data)
    with make() as executor:
        assert executor.submit(counted, str(tmp_path), 1).result() == [1, 1]
    assert ran(tmp_path) == ["1", "1"]
    assert "the call is computed again" in caplog.text


def test_a_directory_of_others_is_refused(tmp_path):
    place = tmp_path / "open" / "results"
    place.mkdir(parents=True)
    place.chmod(0o777)
    with pytest.raises(RequestError, match=r"results cannot be kept in .*open.*others may write there"):
        Executor(cache_directory=str(place.parent))
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="results cannot be kept in"):
        Executor(cache_directory=str(tmp_path / "file"))


def test_arrays_and_the_usual_place(tmp_path, monkeypatch):
    from expyre import config

    monkeypatch.setattr(config, "_current", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    array = np.arange(100_000.0)
    for _ in range(2):
        with Executor(max_workers=1, block_allocation=True, cache=True) as executor:
            found = executor.submit(np.multiply, array, 2.0).result()
            assert np.array_equal(found, 2 * array)
    assert len(kept(tmp_path / ".expyre" / "_executor_cache")) == 1


TEXT = """
import os, time
from pathlib import Path
from expyre import Executor

def work(n):
    if n == 3 and not Path("again").exists():
        Path("there").write_text("yes\\n")
        time.sleep(600)
    with open("ran", "a") as file:
        file.write(f"{n}\\n")
    return 10 * n

with Executor(max_workers=1, block_allocation=True, cache_directory="cache") as executor:
    futures = [executor.submit(work, n) for n in range(6)]
    print(sum(future.result() for future in futures))
"""


def test_a_script_that_is_killed_and_run_again_makes_only_what_is_missing(tmp_path):
    with script(TEXT, tmp_path) as running:
        running.wait_for_file("there")
        os.kill(running.process.pid, 9)
    assert ran(tmp_path) == ["0", "1", "2"]
    (tmp_path / "again").touch()
    assert run(TEXT, tmp_path) == "150\n"
    assert ran(tmp_path) == ["0", "1", "2", "3", "4", "5"]
