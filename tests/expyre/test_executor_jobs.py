"""Calls of an Executor as jobs of a system: recorded, submitted together and once, found again, failed by name."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_jobs_tools import Place, check_that_a_killed_script_finds_its_jobs, place_for_jobs
from job_calls import note, wait_for
from queue_tools import until

from expyre import Executor, config
from expyre.errors import (
    ExPyReJobDiedError,
    ExPyReTimeoutError,
    KeyUnstableError,
    PlanEnd,
    RemoteTraceback,
    RequestError,
    TimedOut,
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(config, "_current", None)
    monkeypatch.chdir(tmp_path)
    with place_for_jobs(tmp_path) as found:
        yield found


@pytest.fixture
def narrow_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A queue of one core."""
    monkeypatch.setattr(config, "_current", None)
    monkeypatch.chdir(tmp_path)
    with place_for_jobs(tmp_path, cores=1) as found:
        yield found


def fail(ledger: object, word: str) -> None:
    note(ledger, word)
    raise LookupError(word)


def end(how: int) -> None:
    os.kill(os.getpid(), how)


def surroundings(name: str) -> tuple[str, str | None, str]:
    Path("made.txt").write_text("made")
    return Path(name).read_text(), os.environ.get("COLOUR"), os.environ["OMP_NUM_THREADS"]


# ------------------------------------------------------------------------------------------------ results


def test_calls_are_jobs_and_later_executors_find_their_results(place: Place) -> None:
    for _ in range(2):
        with Executor(backend="queue") as executor:
            words = list(executor.map(note, [place.ledger] * 6, "abcdef"))
            chained = executor.submit(note, place.ledger, executor.submit(note, place.ledger, "g"))
            assert words == list("abcdef")
            assert chained.result() == "g"
    assert place.ran() == [*"abcdefg"], "each ran once; the last two are the same call"
    assert set(place.statuses().values()) == {"succeeded"}


def test_equal_calls_are_one_job_and_share_no_value(place: Place) -> None:
    with Executor(backend="queue") as executor:
        futures = [executor.submit(sorted, [3, 1, 2]) for _ in range(3)]
        values = [future.result() for future in futures]
    assert values == [[1, 2, 3]] * 3
    assert values[0] is not values[1]
    assert list(place.statuses()) == ["sorted"]


def test_calls_that_come_together_are_submitted_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    system = place.project.systems["queue"]
    real, sizes = system.submit_many, []
    monkeypatch.setattr(system, "submit_many", lambda jobs, mine: (sizes.append(len(jobs)), real(jobs, mine))[1])
    with Executor(backend="queue") as executor:
        assert list(executor.map(abs, range(-40, 0))) == list(range(40, 0, -1))
    assert sum(sizes) == 40
    assert len(sizes) <= 3


def test_calls_are_taken_in_while_others_are_waited_for(place: Place) -> None:
    with Executor(backend="queue") as executor:
        long = executor.submit(wait_for, place.ledger, "long", place.root / "go")
        until(lambda: place.ran() == ["long"])
        assert executor.submit(note, place.ledger, "short").result(200) == "short"
        assert not long.done()
        (place.root / "go").touch()
    assert long.result() == "long"


def test_exceptions_come_as_they_were_and_are_no_results_for_later(place: Place) -> None:
    with Executor(backend="queue") as executor:
        for _ in range(2):
            with pytest.raises(LookupError, match="bad") as caught:
                executor.submit(fail, place.ledger, "bad").result(200)
            assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert place.ran() == ["bad", "bad"]


def test_what_died_is_named_and_is_submitted_again_by_the_next_run(place: Place) -> None:
    with Executor(backend="queue") as executor, pytest.raises(TimedOut):
        executor.submit(wait_for, place.ledger, "w", place.root / "go", resource_dict={"max_time": 1}).result(200)
    (place.root / "go").touch()
    with Executor(backend="queue", max_time="5m") as executor:
        assert executor.submit(wait_for, place.ledger, "w", place.root / "go").result(200) == "w"
    assert len(place.statuses()) == 1


def test_what_died_is_tried_again_up_to_the_limit(place: Place) -> None:
    with Executor(backend="queue", restart_limit=1) as executor, pytest.raises(ExPyReJobDiedError):
        executor.submit(end, signal.SIGSEGV).result(200)
    [row] = place.project.record.query()
    assert row.tries == 1


def test_one_call_that_cannot_be_a_job_does_no_harm_to_others(place: Place) -> None:
    with Executor(backend="queue") as executor:
        lock = executor.submit(note, place.ledger, threading.Lock())
        stream = executor.submit(note, place.ledger, "x", resource_dict={"input_files": ["missing"]})
        good = executor.submit(note, place.ledger, "good")
        with pytest.raises(KeyUnstableError, match=r"args\[1\].*hash_ignore"):
            lock.result(200)
        with pytest.raises(RequestError, match="missing"):
            stream.result(200)
        assert good.result(200) == "good"


def test_a_function_of_the_script_itself_and_a_lambda(place: Place) -> None:
    script = """
import sys
from expyre import Executor
def square(x): return x * x
with Executor(backend="queue") as executor:
    print(executor.submit(square, 3).result(), executor.submit(lambda x: -x, 4).result())
"""
    out, err = place.script(script).communicate(timeout=200)
    assert out == "9 -4\n", err


# ------------------------------------------------------------------------------------- what is asked for


def test_files_variables_and_commands_of_a_job(place: Place) -> None:
    Path("in.txt").write_text("input")
    asked = {
        "input_files": ["in.txt"],
        "output_files": "made.txt",
        "env_vars": ["COLOUR=blue"],
        "pre_cmds": ["echo ' and more' >>in.txt"],
        "threads_per_core": 2,
        "job_name": "surroundings of it",
    }
    with Executor(backend="queue", resource_dict=asked) as executor:
        assert executor.submit(surroundings, "in.txt").result(200) == ("input and more\n", "blue", "2")
    assert Path("made.txt").read_text() == "made"
    [row] = place.project.record.query()
    assert (row.name, row.num_cores) == ("surroundings of it", 2)


def test_all_mistakes_of_a_request_at_once(place: Place) -> None:
    asked = {"max_mem_total": "4GB", "partition": "all", "num_nodes": 0, "env_vars": ["a b"], "oversubscribe": True}
    with pytest.raises(RequestError) as caught:
        Executor(backend="queue", max_workers=0, resource_dict=asked)
    for word in ("'max_mem_tot'", "'partitions'", "num_nodes=0", "'a b'", "oversubscribe", "max_workers=0"):
        assert word in str(caught.value)
    with pytest.raises(RequestError, match=r"^cwd.*; command_line_argument_lst.*; 2 cores .*max_cores"):
        Executor(backend="queue", threads_per_core=2, cwd="/", command_line_argument_lst=["-v"], max_cores=1)
    with Executor(backend="queue") as executor, pytest.raises(RequestError, match="no partition fits"):
        executor.submit(abs, 1, resource_dict={"threads_per_core": 64})


def test_an_unknown_backend_is_told_what_there_is(place: Place) -> None:
    with pytest.raises(RequestError, match=r"'queu'.*did you mean 'queue'.*flux, queue, system:local"):
        Executor(backend="queu")


def test_a_system_that_is_called_like_a_backend(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(place.project.systems, "local", place.project.systems["queue"])
    with Executor(backend="system:local") as executor:
        assert executor.submit(abs, -5).result(200) == 5
    assert [row.system for row in place.project.record.query()] == ["local"]


def test_no_more_jobs_at_a_time_than_workers(place: Place) -> None:
    with Executor(backend="queue", max_workers=1) as executor:
        futures = [executor.submit(wait_for, place.ledger, word, place.root / word) for word in "abc"]
        for index, word in enumerate("abc"):
            until(lambda index=index: len(place.ran()) == index + 1)
            submitted = list(place.project.record.query(status=["submitted", "started"]))
            assert len(submitted) <= 1
            (place.root / word).touch()
        assert [future.result(200) for future in futures] == [*"abc"]


def test_configuration_is_not_read_for_workers_of_this_machine() -> None:
    code = """
import sys
from expyre import Executor
with Executor(backend="local", max_workers=1) as executor:
    assert executor.submit(abs, -1).result() == 1
print([name for name in sys.modules if name.startswith(("expyre.config", "expyre.jobsdb", "sqlite3"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_dry_run_submits_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with Executor(backend="queue") as executor:
        assert executor.submit(abs, -1).result(200) == 1
    monkeypatch.setenv("EXPYRE_DRY_RUN", str(place.root / "plan"))
    with Executor(backend="queue") as executor:
        assert executor.submit(abs, -1).result(200) == 1
        with pytest.raises(PlanEnd):
            executor.submit(abs, -2).result(200)
    assert len(place.statuses()) == 1
    assert '"route": "queue"' in (place.root / "plan").read_text()


# --------------------------------------------------------------------------------- cancelled, killed, ended


def test_a_call_that_waits_in_the_queue_can_be_cancelled_there(narrow_place: Place) -> None:
    place = narrow_place
    with Executor(backend="queue") as executor:
        first = executor.submit(wait_for, place.ledger, "first", place.root / "go")
        until(lambda: first.running() or first.done())
        second = executor.submit(note, place.ledger, "second")
        until(lambda: any(row.status == "submitted" for row in place.project.record.query()))
        assert not first.cancel(), "it runs"
        assert second.cancel()
        assert concurrent.futures.wait([second], 200).done, "who waits for it is told"
        (place.root / "go").touch()
        assert first.result(200) == "first"
    assert place.ran() == ["first"]
    with Executor(backend="queue") as executor:
        assert executor.submit(note, place.ledger, "second").result(200) == "second", "asked for again, it runs"
    assert place.ran() == ["first", "second"]


def test_a_shutdown_may_cancel_what_waits(narrow_place: Place) -> None:
    place = narrow_place
    executor = Executor(backend="queue")
    first = executor.submit(wait_for, place.ledger, "first", place.root / "go")
    until(lambda: first.running() or first.done())
    others = [executor.submit(note, place.ledger, word) for word in "abc"]
    until(lambda: len(list(place.project.record.query(status="submitted"))) == 3)
    executor.shutdown(wait=False, cancel_futures=True)
    done, pending = concurrent.futures.wait(others, 200)
    assert not pending
    assert all(future.cancelled() for future in done)
    (place.root / "go").touch()
    executor.shutdown()
    assert first.result() == "first"
    assert place.ran() == ["first"]


def test_jobs_stay_in_the_queue_when_the_script_ends(place: Place) -> None:
    executor = Executor(backend="queue")
    future = executor.submit(wait_for, place.ledger, "w", place.root / "go")
    until(lambda: future.running() or future.done())
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt
    with pytest.raises(ExPyReTimeoutError, match="found when the script runs again"):
        future.result(0)
    (place.root / "go").touch()
    with Executor(backend="queue") as executor:
        assert executor.submit(wait_for, place.ledger, "w", place.root / "go").result(200) == "w"
    assert place.ran() == ["w"]


@pytest.mark.parametrize("step", ["create.2", "submit.1", "submit.3", "gather.3"])
def test_a_script_that_is_killed_finds_its_jobs_when_it_runs_again(place: Place, step: str) -> None:
    check_that_a_killed_script_finds_its_jobs(place.project, place.root, step, backend="queue")
