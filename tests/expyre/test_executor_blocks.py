"""`Executor` with block_allocation on a system: workers in jobs of the queue of this machine, under another name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest
from block_tools import Ledger, wait_for, work
from clusters.slurm import until
from queue_tools import fresh_queue

from expyre import Executor, config
from expyre.errors import RemoteTraceback, RequestError, WorkerDied


@pytest.fixture
def queue(tmp_path):
    yield from fresh_queue(tmp_path / "queue")


@pytest.fixture
def block(tmp_path, queue, monkeypatch):
    """A function that gives executors whose system, with keys of its own, has the queue of this machine."""
    monkeypatch.setattr(config, "_current", None)
    executors = []

    def make(system=(), **options):
        project = write_config(tmp_path, queue, system)
        config.init(project)
        executors.append(Executor(**{"backend": "here", "block_allocation": True, "max_workers": 2, **options}))
        return executors[-1]

    yield make
    for executor in executors:
        executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def write_config(directory, queue, more=()):
    (directory / ".expyre").mkdir(exist_ok=True)
    system = {
        "host": None,
        "scheduler": "local",
        "rundir": str(directory / "rundir"),
        "scheduler_options": {"dir": str(queue.spool.path), "grace": 0.5},
        "partitions": {"node": {"num_cores": 4, "max_time": "1h", "max_mem": "4GB"}},
        **dict(more),
    }
    (directory / ".expyre" / "config.json").write_text(json.dumps({"systems": {"here": system}}))
    return directory / ".expyre"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


def leftovers(tmp_path):
    return [*(tmp_path / "rundir").rglob("run_*"), *(tmp_path / "rundir").rglob("_expyre_blocks/*")]


def workers(tmp_path):
    """Return how many jobs of workers there are on the host."""
    return len(list((tmp_path / "rundir").rglob("run_block*")))


def offset():
    return {"b": 100, "unknown": 0}


def add(a, b):
    return a + b, os.getpid(), os.environ["OMP_NUM_THREADS"]


def test_workers_stay_for_further_calls_with_what_init_function_gave(block, tmp_path):
    with block(init_function=offset, threads_per_core=2) as executor:
        results = list(executor.map(add, range(50)))
        assert [value for value, *_ in results] == list(range(100, 150))
        assert executor.submit(add, 1, b=2).result()[0] == 3
    assert len({pid for _, pid, _ in results}) <= 2
    assert {threads for *_, threads in results} == {"2"}
    assert not leftovers(tmp_path)
    assert config.project().record.counts() == {}


def test_without_a_run_directory_the_spool_is_beside_the_jobs(block, tmp_path):
    with block({"rundir": None}) as executor:
        assert executor.submit(abs, -3).result() == 3
    assert not list((tmp_path / ".expyre" / "_expyre_blocks").iterdir())


def fail(text):
    raise KeyError(text)


def test_exceptions_come_with_their_traceback(block):
    with block() as executor:
        error = executor.submit(fail, "no such thing").exception()
    assert isinstance(error, KeyError)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "in fail" in str(error.__cause__)


def test_large_arguments_and_results_pass(block):
    data = os.urandom(20_000_000)
    with block() as executor:
        assert executor.submit(bytes.__add__, data, data).result() == data + data


def test_closures_and_what_cannot_be_pickled(block):
    base = 7
    with block() as executor:
        assert executor.submit(lambda x: x + base, 1).result() == 8
        with pytest.raises(RequestError, match="args"):
            executor.submit(len, (i for i in range(3))).result()
        with pytest.raises(TypeError, match="cannot be pickled"):
            executor.submit(lambda: (i for i in range(3))).result()
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            executor.submit(None).result()
        assert executor.submit(abs, -1).result() == 1


def die(path):
    """Die the first time."""
    Path(path).write_text(Path(path).read_text() + "x") if Path(path).exists() else Path(path).write_text("x")
    if Path(path).read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def with_a_class(n):
    class Local:
        value = n

    return lambda: Local.value


@pytest.mark.parametrize("how_many", [1, 2])
def test_each_call_runs_its_own_function_also_where_that_takes_classes_with_it(block, how_many):
    with block(max_workers=how_many) as executor:
        for _ in range(2):
            futures = [executor.submit(with_a_class(n)) for n in range(4)]
            assert [future.result() for future in futures] == [0, 1, 2, 3]


def test_a_call_that_kills_its_process_fails_by_name_and_the_worker_goes_on(block, tmp_path):
    with block(max_workers=1) as executor:
        first, second = executor.submit(die, str(tmp_path / "one")), executor.submit(abs, -2)
        with pytest.raises(WorkerDied, match=r"call .* of die: its process was killed by SIGKILL"):
            first.result(timeout=100)
        assert second.result(timeout=100) == 2


def test_a_call_that_kills_its_process_is_tried_again_up_to_the_limit(block, tmp_path):
    with block(max_workers=1, restart_limit=1) as executor:
        assert executor.submit(die, str(tmp_path / "two")).result(timeout=100) == "alive"
        with pytest.raises(WorkerDied):
            executor.submit(os._exit, 3).result(timeout=100)


def test_a_call_whose_worker_is_killed_fails_and_others_are_served_by_a_new_one(block, ledger):
    with block(max_workers=1) as executor:
        first, second = executor.submit(work, ledger, 1, 600), executor.submit(work, ledger, 2)
        until(lambda: ledger.count("begin", 1))
        os.kill(ledger.worker(), signal.SIGKILL)
        with pytest.raises(WorkerDied, match="the job of its worker has ended"):
            first.result(timeout=100)
        assert second.result(timeout=100)[0] == 2
    assert [ledger.count("begin", i) for i in (1, 2)] == [1, 1]


def broken_init():
    raise OSError("no such data set")


def test_an_init_function_that_fails_fails_all_calls(block):
    with block(init_function=broken_init) as executor:
        futures = [executor.submit(abs, -1) for _ in range(3)]
        for future in futures:
            with pytest.raises(OSError, match="no such data set"):
                future.result(timeout=100)
        with pytest.raises(OSError, match="no such data set"):
            executor.submit(abs, -1).result(timeout=100)


def test_workers_that_never_come_up_are_an_error_with_the_words_of_the_job(block):
    with block({"commands": ["echo the licence server is down >&2", "exit 3"]}) as executor:
        with pytest.raises(WorkerDied, match=r"(?s)before they served a call.*the licence server is down"):
            executor.submit(abs, -1).result(timeout=200)
        with pytest.raises(WorkerDied):
            executor.submit(abs, -1).result(timeout=100)


def test_what_no_partition_has_is_refused_at_once(block):
    with pytest.raises(RequestError, match="no partition fits"):
        block(gpus_per_worker=1)
    with pytest.raises(RequestError, match=r"output_files: workers serve many calls"):
        block(cores_per_worker=2, resource_dict={"output_files": ["*.out"]})


def environment(name):
    return os.environ.get(name), sorted(os.listdir())


def test_workers_get_what_their_jobs_take(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "potential.yace").touch()
    wanted = {"env_vars": ["COLOUR=blue"], "input_files": ["potential.yace"], "pre_cmds": ["touch made_before"]}
    with block(resource_dict={**wanted, "max_mem_tot": "1GB"}) as executor:
        colour, files = executor.submit(environment, "COLOUR").result(timeout=100)
    assert colour == "blue"
    assert {"potential.yace", "made_before"} <= set(files)


def test_futures_wait_run_and_can_be_cancelled_until_a_worker_has_them(block, ledger, tmp_path):
    with block(max_workers=1) as executor:
        first = executor.submit(wait_for, ledger, 1, str(tmp_path / "go"))
        second, third = (executor.submit(work, ledger, i) for i in (2, 3))
        until(first.running)
        assert not first.cancel()
        assert second.cancel()
        until(lambda: len(list((tmp_path / "rundir").rglob("calls/*/0*"))) == 1, "the withdrawal")
        (tmp_path / "go").touch()
        assert third.result(timeout=100)[0] == 3
        assert wait([second], timeout=100).done, "who waits for a cancelled future is told"
        with pytest.raises(CancelledError):
            second.result()
    assert [ledger.count("begin", i) for i in (1, 2, 3)] == [1, 0, 1]


def test_a_shutdown_may_cancel_what_has_not_begun(block, ledger, tmp_path):
    executor = block(max_workers=1)
    futures = [executor.submit(wait_for, ledger, i, str(tmp_path / "go")) for i in range(10)]
    until(lambda: any(future.running() for future in futures))
    executor.shutdown(wait=False, cancel_futures=True)
    until(lambda: sum(future.cancelled() for future in futures) == 9)
    until(lambda: not list((tmp_path / "rundir").rglob("calls/*/0*")), "the withdrawal")
    (tmp_path / "go").touch()
    executor.shutdown()
    assert ledger.count("begin") == 1
    assert all(future.done() for future in futures)


def test_there_are_as_many_workers_as_calls_up_to_the_limit(block, ledger, tmp_path):
    with block(max_workers=3) as executor:
        executor.submit(abs, -1).result(timeout=100)
        assert workers(tmp_path) == 1
        futures = [executor.submit(work, ledger, i, 1) for i in range(6)]
        until(lambda: workers(tmp_path) == 3)
        assert {future.result(timeout=100)[0] for future in futures} == set(range(6))


def test_idle_workers_end_and_new_calls_get_new_ones(block, monkeypatch, tmp_path):
    monkeypatch.setenv("EXPYRE_BLOCK_IDLE", "1s")
    monkeypatch.setenv("EXPYRE_BLOCK_LEASE", "4s")
    with block(max_workers=1) as executor:
        _, first, _ = executor.submit(add, 1, 2).result(timeout=100)
        until(lambda: not workers(tmp_path))
        _, second, _ = executor.submit(add, 1, 2).result(timeout=100)
    assert first != second
    assert not leftovers(tmp_path)


def test_a_variable_that_is_no_time_is_a_mistake(block, monkeypatch):
    monkeypatch.setenv("EXPYRE_BLOCK_IDLE", "soon")
    with pytest.raises(RequestError, match="EXPYRE_BLOCK_IDLE=soon"):
        block()


SCRIPT = """
import sys
from block_tools import Ledger, wait_for, work
from expyre import Executor
with Executor(backend="here", block_allocation=True, max_workers=1) as executor:
    executor.submit(work, Ledger(sys.argv[1]), 1).result()
    executor.submit(work, Ledger(sys.argv[1]), 2, 2).result()
"""


def test_workers_of_a_script_that_is_killed_end_by_themselves(tmp_path, queue, ledger):
    project = write_config(tmp_path, queue)
    here = Path(__file__).parent
    env = {
        **os.environ,
        "EXPYRE_ROOT": str(project),
        "EXPYRE_BLOCK_LEASE": "2s",
        "PYTHONPATH": f"{here}:{here.parents[1]}",
    }
    script = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "ledger")], env=env, cwd=tmp_path)
    until(lambda: ledger.count("begin", 2))
    worker = ledger.worker()
    script.kill()
    script.wait()
    until(lambda: not Path(f"/proc/{worker}").exists(), "the end of the worker")
    assert ledger.count("end", 2) == 1, "what runs is finished"
    [note] = (tmp_path / "rundir").rglob("workers/w1")
    assert "nothing was heard of the script" in json.loads(note.read_text())["why"]


def test_what_killed_scripts_have_left_goes_after_a_week(block, tmp_path):
    with block() as executor:
        executor.submit(abs, -1).result(timeout=100)
        [spool] = (tmp_path / "rundir").rglob("_expyre_blocks/*")
    for name, days in (("old", 8), ("new", 6)):
        (spool.parent / name).mkdir()
        (spool.parent / name / "alive").touch()
        then = time.time() - days * 86400
        os.utime(spool.parent / name / "alive", (then, then))
    with block() as executor:
        executor.submit(abs, -1).result(timeout=100)
    assert os.listdir(spool.parent) == ["new"]
