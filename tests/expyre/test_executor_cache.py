"""Results of calls are kept and found again by value, and nothing is believed that was not kept here."""

from __future__ import annotations

import concurrent.futures
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from executor_tools import run, script
from job_calls import note, wait_for
from queue_tools import until

from expyre import Executor, config
from expyre.errors import KeyUnstableError, RequestError

Make = Callable[[], Executor]


def ran(ledger: Path) -> list[str]:
    return sorted(ledger.read_text().split()) if ledger.exists() else []


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("results/??/*") if path.is_file())


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where calls note that they have run."""
    return tmp_path / "ledger"


@pytest.fixture(params=[True, False], ids=["block", "per_call"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A function that gives executors with the same directory of results."""
    return lambda: Executor(
        max_workers=2, oversubscribe=True, block_allocation=request.param, cache_directory=str(tmp_path / "kept")
    )


def squares(ledger: Path, count: int) -> np.ndarray:
    note(ledger, count)
    return np.arange(count) ** 2


def test_results_are_found_by_later_executors(make: Make, ledger: Path) -> None:
    for _ in range(2):
        with make() as executor:
            first = executor.submit(squares, ledger, 100_000)
            second = executor.submit(note, ledger, executor.submit(np.sum, first))
            assert first.result()[-1] == 99_999**2
            assert second.result() == sum(i * i for i in range(100_000))
            first.result()[0] = 5  # arrays can be written to, and what is kept does not change
            third = executor.submit(squares, ledger, 100_000, resource_dict={}).result()
            assert third[0] == 0
            assert third.flags.writeable
            assert executor.submit(squares, ledger, count=3).result().tolist() == [0, 1, 4]
    assert len(ran(ledger)) == 3


def test_results_of_others_are_part_of_the_key(make: Make, ledger: Path) -> None:
    for _ in range(2):
        with make() as executor:
            first = executor.submit(note, ledger, "[1]")
            assert executor.submit(note, ledger, first).result() == "[1]"  # the same call as the first
            assert executor.submit(note, ledger, [first]).result() == ["[1]"]
    with make() as executor:
        assert executor.submit(note, ledger, ["[1]"]).result() == ["[1]"]
    assert ran(ledger) == ["['[1]']", "[1]"]


def test_results_are_found_by_later_interpreters_in_the_project(tmp_path: Path) -> None:
    (tmp_path / ".expyre").mkdir()
    (tmp_path / ".expyre" / "config.json").write_text("{}")
    script = """
import sys
from expyre import Executor
def work(ledger, number):
    with open(ledger, "a") as file:
        print(number, file=file)
    return {"square": number * number}
with Executor(max_workers=2, cache=True, resource_dict={"threads_per_core": int(sys.argv[1])}) as executor:
    print([future.result() for future in [executor.submit(work, "ledger", i) for i in (2, 3, 2)]])
"""
    (tmp_path / "script.py").write_text(script)
    env = {name: value for name, value in os.environ.items() if name != "EXPYRE_ROOT"}
    for threads in "12":
        words = [sys.executable, "script.py", threads]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
        assert done.stdout == "[{'square': 4}, {'square': 9}, {'square': 4}]\n", done.stderr
    assert ran(tmp_path / "ledger") == ["2", "3"]
    assert (tmp_path / ".expyre" / "_executor_cache" / "results").is_dir()


def test_equal_calls_under_way_run_once(make: Make, ledger: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with make() as executor:
        futures = [executor.submit(wait_for, ledger, [1], go) for _ in range(4)]
        until(lambda: ran(ledger) == ["[1]"])
        assert not futures[0].cancel(), "it runs"
        go.touch()
        values = [future.result(100) for future in futures]
    assert values == [[1]] * 4
    assert len({id(value) for value in values}) == 4, "nobody shares a value"
    assert ran(ledger) == ["[1]"]


def test_a_call_is_cancelled_when_nobody_wants_it(ledger: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Executor(max_workers=1, cache_directory=str(tmp_path / "kept")) as executor:
        first = executor.submit(wait_for, ledger, "first", go)
        until(first.running)
        wanted = [executor.submit(note, ledger, "wanted") for _ in range(2)]
        unwanted = [executor.submit(note, ledger, "unwanted") for _ in range(2)]
        assert wanted[0].cancel()
        assert [future.cancel() for future in unwanted] == [True, True]
        assert not concurrent.futures.wait([wanted[0], *unwanted], 100).not_done
        late = executor.submit(note, ledger, "unwanted")
        assert late.cancel()
        go.touch()
        assert wanted[1].result(100) == "wanted"
    assert ran(ledger) == ["first", "wanted"]


def fail(ledger: Path, go: Path) -> None:
    wait_for(ledger, "failed", go)
    raise LookupError("on purpose")


def test_failures_are_not_kept_and_go_to_all(make: Make, ledger: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with make() as executor:
        for count in (1, 2):
            calls = [executor.submit(fail, ledger, go) for _ in range(3)]
            until(lambda count=count: len(ran(ledger)) == count)  # type: ignore[misc]
            go.touch()
            assert [repr(call.exception(100)) for call in calls] == ["LookupError('on purpose')"] * 3
            assert len(ran(ledger)) == count
            go.unlink()
    assert files(tmp_path / "kept") == []


def test_an_argument_without_a_stable_value_is_named(make: Make, ledger: Path) -> None:
    with make() as executor:
        error = executor.submit(note, ledger, {"of": threading.Lock()}).exception(100)
    assert isinstance(error, KeyUnstableError)
    assert re.search(r"args\[1\].*executor without a cache", str(error))


def preset() -> dict[str, int]:
    return {"offset": 1}


def other_preset() -> dict[str, int]:
    return {"offset": 2}


def add(number: int, offset: int) -> int:
    return number + offset


def test_what_workers_were_set_up_with_is_part_of_the_key(tmp_path: Path) -> None:
    for init, value in ((preset, 11), (other_preset, 12)):
        with Executor(
            max_workers=1, cache_directory=str(tmp_path), block_allocation=True, init_function=init
        ) as executor:
            assert executor.submit(add, 10).result(100) == value


def iter_of(count: int) -> object:
    return (i for i in range(count))


def test_a_result_that_cannot_be_kept_is_delivered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        concurrent.futures.ThreadPoolExecutor(1) as theirs,
        Executor(executor=theirs, cache_directory=str(tmp_path)) as executor,
    ):
        assert next(executor.submit(iter_of, 3).result(100)) == 0
    assert "is not kept" in caplog.text


@pytest.mark.parametrize("harm", ["cut", "changed", "forged", "swapped"])
def test_a_file_that_is_not_what_was_kept_is_not_unpickled(
    make: Make, ledger: Path, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with make() as executor:
        executor.submit(note, ledger, 1).result()
    [file] = files(tmp_path / "kept")
    assert file.stat().st_mode & 0o777 == 0o600
    data = bytearray(file.read_bytes())
    if harm == "changed":
        data[10] ^= 1
    elif harm == "forged":
        data = bytearray(b"cos\nabort\n(tR.") + data[14:]
    elif harm == "swapped":
        with make() as executor:
            executor.submit(note, ledger, 2).result()
        ledger.write_text("1\n")
        [other] = [path for path in files(tmp_path / "kept") if path != file]
        data = bytearray(other.read_bytes())
    file.write_bytes(data[:-7] if harm == "cut" else data)
    with make() as executor:
        assert executor.submit(note, ledger, 1).result() == 1
    assert ran(ledger) == ["1", "1"]
    assert "the call is computed again" in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o755], ids=["written", "read"])
def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "open" / "results"
    place.mkdir(parents=True)
    place.chmod(mode)
    with pytest.raises(RequestError, match=r"results cannot be kept in .*open.*others may write there.*chmod 700"):
        Executor(cache_directory=str(place.parent))
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="results cannot be kept in"):
        Executor(cache_directory=str(tmp_path / "file"))


def test_arrays_and_the_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_current", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    array = np.arange(100_000.0)
    for _ in range(2):
        with Executor(max_workers=1, block_allocation=True, cache=True) as executor:
            found = executor.submit(np.multiply, array, 2.0).result()
            assert np.array_equal(found, 2 * array)
    assert len(files(tmp_path / ".expyre" / "_executor_cache")) == 1


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


def test_a_script_that_is_killed_and_run_again_makes_only_what_is_missing(tmp_path: Path) -> None:
    with script(TEXT, tmp_path) as running:
        running.wait_for_file("there")
        os.kill(running.process.pid, 9)
    assert ran(tmp_path / "ran") == ["0", "1", "2"]
    (tmp_path / "again").touch()
    assert run(TEXT, tmp_path) == "150\n"
    assert ran(tmp_path / "ran") == ["0", "1", "2", "3", "4", "5"]


def test_jobs_of_a_system_need_no_second_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executor_jobs_tools import place_for_jobs

    monkeypatch.setattr(config, "_current", None)
    with place_for_jobs(tmp_path) as place:
        for _ in range(2):
            with Executor(backend="queue", cache=True) as executor:
                assert executor.submit(note, place.ledger, "x").result(200) == "x"
        assert place.ran() == ["x"]
        assert not list(tmp_path.rglob("_executor_cache"))
