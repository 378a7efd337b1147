"""Results that an Executor keeps: found again, by value, and only if they are what was written."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from job_calls import note, wait_for
from queue_tools import until

from expyre import Executor, config
from expyre.errors import KeyUnstableError, RequestError
from expyre.executor.cache.results import MISSING, Results


def ran(ledger: Path) -> list[str]:
    return sorted(ledger.read_text().split()) if ledger.exists() else []


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("results/??/*") if path.is_file())


def fail(ledger: Path) -> None:
    note(ledger, "failed")
    raise LookupError("on purpose")


def squares(ledger: Path, count: int) -> np.ndarray:
    note(ledger, count)
    return np.arange(count) ** 2


def preset() -> dict[str, int]:
    return {"offset": 1}


def other_preset() -> dict[str, int]:
    return {"offset": 2}


def add(number: int, offset: int) -> int:
    return number + offset


@pytest.mark.parametrize("block", [False, True], ids=["per call", "block"])
def test_results_are_found_by_later_executors(tmp_path: Path, block: bool) -> None:
    ledger, kept = tmp_path / "ledger", str(tmp_path / "kept")
    for _ in range(2):
        with Executor(max_workers=2, cache_directory=kept, block_allocation=block) as executor:
            first = executor.submit(squares, ledger, 100_000)
            second = executor.submit(note, ledger, executor.submit(np.sum, first))
            assert first.result()[-1] == 99_999**2
            assert second.result() == sum(i * i for i in range(100_000))
            first.result()[0] = 5  # arrays can be written to, and what is kept does not change
            third = executor.submit(squares, ledger, 100_000).result()
            assert third[0] == 0
            assert third.flags.writeable
    assert len(ran(ledger)) == 2


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


def test_equal_calls_under_way_run_once(tmp_path: Path) -> None:
    ledger, go = tmp_path / "ledger", tmp_path / "go"
    with Executor(max_workers=3, cache_directory=str(tmp_path / "kept")) as executor:
        futures = [executor.submit(wait_for, ledger, [1], go) for _ in range(4)]
        until(lambda: ran(ledger) == ["[1]"])
        assert not futures[0].cancel(), "it runs"
        go.touch()
        values = [future.result(100) for future in futures]
    assert values == [[1]] * 4
    assert len({id(value) for value in values}) == 4, "nobody shares a value"
    assert ran(ledger) == ["[1]"]


def test_a_call_is_cancelled_when_nobody_wants_it(tmp_path: Path) -> None:
    ledger, go = tmp_path / "ledger", tmp_path / "go"
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


def test_failures_are_not_kept_and_go_to_all(tmp_path: Path) -> None:
    with Executor(max_workers=1, cache_directory=str(tmp_path / "kept")) as executor:
        for count in (1, 2):
            with pytest.raises(LookupError, match="on purpose"):
                executor.submit(fail, tmp_path / "ledger").result(100)
            assert len(ran(tmp_path / "ledger")) == count
    assert files(tmp_path / "kept") == []


def test_an_argument_without_a_stable_value_is_named(tmp_path: Path) -> None:
    with Executor(max_workers=1, cache_directory=str(tmp_path / "kept")) as executor:
        error = executor.submit(note, tmp_path / "ledger", {"of": threading.Lock()}).exception(100)
    assert isinstance(error, KeyUnstableError)
    assert re.search(r"args\[1\].*executor without a cache", str(error))


def test_what_workers_were_set_up_with_is_part_of_the_key(tmp_path: Path) -> None:
    for init, value in ((preset, 11), (other_preset, 12)):
        with Executor(
            max_workers=1, cache_directory=str(tmp_path), block_allocation=True, init_function=init
        ) as executor:
            assert executor.submit(add, 10).result(100) == value


def test_a_result_that_cannot_be_kept_is_delivered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        concurrent.futures.ThreadPoolExecutor(1) as theirs,
        Executor(executor=theirs, cache_directory=str(tmp_path)) as executor,
    ):
        assert next(executor.submit(iter_of, 3).result(100)) == 0
    assert "is not kept" in caplog.text


def iter_of(count: int) -> object:
    return (i for i in range(count))


# ----------------------------------------------------------------------------------------------- on disk


def test_only_the_owner_can_read_what_is_kept(tmp_path: Path) -> None:
    os.umask(os.umask(0))
    Results(tmp_path / "kept").store("key", 1)
    for path in (tmp_path / "kept").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir(mode=0o755)
    (tmp_path / "results").chmod(0o755)
    with pytest.raises(RequestError, match="chmod 700"):
        Executor(max_workers=1, cache_directory=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot be kept"):
        Executor(max_workers=1, cache_directory=str(tmp_path / "file"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_is_unpickled_that_was_not_written_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    other = Results(tmp_path / "other")
    other.store("key", Bomb())
    results = Results(tmp_path / "kept")
    results.store("key", "good")
    [mine], [forged] = files(tmp_path / "kept"), files(tmp_path / "other")
    mine.write_bytes(forged.read_bytes())
    assert results.load("key") is MISSING
    assert not (tmp_path / "exploded").exists()
    assert "altered" in caplog.text


@pytest.mark.parametrize("value", ["short", b"x" * 100_000, np.ones(50_000)], ids=["short", "bytes", "array"])
def test_no_damaged_file_is_a_result(tmp_path: Path, value: object) -> None:
    logging.disable(logging.WARNING)
    try:
        results = Results(tmp_path)
        results.store("key", value)
        [path] = files(tmp_path)
        whole = path.read_bytes()
        step = max(1, len(whole) // 60)
        for place in range(0, len(whole), step):
            path.write_bytes(whole[:place])
            assert results.load("key") is MISSING
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert results.load("key") is MISSING
        path.write_bytes(whole + b"\0")
        assert results.load("key") is MISSING
        path.write_bytes(whole)
        assert np.array_equal(results.load("key"), value)
    finally:
        logging.disable(logging.NOTSET)


def test_files_of_two_keys_cannot_be_swapped(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.store("one", 1)
    [one] = files(tmp_path)
    results.store("two", 2)
    [two] = [path for path in files(tmp_path) if path != one]
    two.write_bytes(one.read_bytes())
    assert (results.load("one"), results.load("two")) == (1, MISSING)


def test_links_and_files_that_others_may_write_are_refused(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.store("key", 1)
    [path] = files(tmp_path)
    path.chmod(0o620)
    assert results.load("key") is MISSING
    path.chmod(0o600)
    assert results.load("key") == 1
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert results.load("key") is MISSING


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_others_are_refused(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.store("key", 1)
    [path] = files(tmp_path)
    os.chown(path, 12345, -1)
    assert results.load("key") is MISSING
    os.chown(tmp_path / "results", 12345, -1)
    with pytest.raises(RequestError, match="yours"):
        Results(tmp_path)


def test_a_damaged_result_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for count in (1, 2):
        with Executor(max_workers=1, cache_directory=str(tmp_path / "kept")) as executor:
            assert executor.submit(note, tmp_path / "ledger", "x").result(100) == "x"
        assert len(ran(tmp_path / "ledger")) == count
        [path] = files(tmp_path / "kept")
        path.write_bytes(path.read_bytes()[:-1])
    assert "computed again" in caplog.text


def test_jobs_of_a_system_need_no_second_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executor_jobs_tools import place_for_jobs

    monkeypatch.setattr(config, "_current", None)
    with place_for_jobs(tmp_path) as place:
        for _ in range(2):
            with Executor(backend="queue", cache=True) as executor:
                assert executor.submit(note, place.ledger, "x").result(200) == "x"
        assert place.ran() == ["x"]
        assert not list(tmp_path.rglob("_executor_cache"))
