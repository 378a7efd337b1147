"""Jobs that run out of time bring back what is finished; the rest becomes jobs of its own, until all is done."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase.atoms import Atoms

from expyre.errors import TimedOut
from wfl.autoparallelize import autoparallelized
from wfl.autoparallelize.deadline import Guard, PartialResults
from wfl.autoparallelize.output import ItemResults
from wfl.autoparallelize.pool import do_in_pool
from wfl.configset import OutputSpec


@pytest.fixture
def seconds_left(monkeypatch):
    """A function that lets this process be a job that should have its results ready in so many seconds."""

    def set_left(seconds: float) -> None:
        monkeypatch.setenv("EXPYRE_MAX_TIME", "1000")
        monkeypatch.setenv("EXPYRE_TIME_MARGIN", "100")
        monkeypatch.setenv("EXPYRE_JOB_STARTED", str(time.time() - 900 + seconds))

    alarm = signal.setitimer(signal.ITIMER_REAL, 0)  # that of pytest
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    yield set_left
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *alarm)


def nap(items):
    for seconds in items:
        time.sleep(seconds)
    return list(items)


def busy(items):
    """Take time, and do not let go for an error."""
    for seconds in items:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except Exception:
                continue
    return list(items)


def partial(**kwargs):
    return do_in_pool(**{"outputspec": ItemResults(may_be_partial=True), **kwargs})


@pytest.mark.parametrize(
    ("start", "op"), [("fork", nap), ("fresh", nap), ("here", nap), ("here", busy), ("executor", nap)]
)
def test_what_runs_is_given_up(seconds_left, monkeypatch, start, op):
    if start in ("fork", "fresh"):
        monkeypatch.setenv("WFL_POOL_START", start)
    workers = 2 if start in ("fork", "fresh") else 0
    long = 3.0 if start == "executor" else 30.0
    items = [0.01, 0.02, 0.03, long, 0.04] if start == "here" else [0.01, 0.02, long, 0.03, 0.04]
    expected = [3, 4] if start == "here" else [2]
    with ThreadPoolExecutor(2) as pool:
        executor = pool if start == "executor" else None
        for seconds in (0.7, 2.0, 5.0, 15.0):  # until this machine is fast enough
            seconds_left(seconds)
            found = partial(num_python_subprocesses=workers, iterable=items, op=op, executor=executor)
            assert found.total == 5
            assert items.index(long) in found.unfinished
            assert found.results == {i: items[i] for i in range(5) if i not in found.unfinished}
            if found.unfinished == expected:
                break
    assert found.unfinished == expected


started: list[subprocess.Popen[bytes]] = []


def sleep_in_a_process(items):
    started.append(subprocess.Popen(["sleep", "60"] if items[0] else ["true"]))
    started[-1].wait()
    return items


def test_of_what_runs_only_its_own_processes_are_ended(seconds_left):
    with subprocess.Popen(["sleep", "60"]) as bystander:
        seconds_left(1.5)
        found = partial(num_python_subprocesses=0, iterable=[0, 1], op=sleep_in_a_process)
        assert found.unfinished == [1]
        assert [process.wait(30) for process in started] == [0, -signal.SIGKILL]
        assert bystander.poll() is None
        bystander.kill()


def test_tiny_items_before_a_long_one_are_not_lost(seconds_left, monkeypatch):
    monkeypatch.setenv("WFL_POOL_START", "fork")
    for workers in (2, 0):
        seconds_left(1.5)
        found = partial(num_python_subprocesses=workers, iterable=[0] * 4000 + [30] + [0] * 10, op=nap)
        assert 4000 in found.unfinished
        assert found.results


def test_what_would_not_fit_is_not_begun(seconds_left):
    begun = []

    def noted_nap(items):
        begun.extend(items)
        return nap(items)

    seconds_left(1.0)
    found = partial(num_python_subprocesses=0, iterable=[0.6, 0.61, 0.62], op=noted_nap)
    assert found.unfinished == [1, 2]
    assert begun == [0.6]


def test_nothing_is_given_up_while_nothing_is_finished(seconds_left):
    for workers in (0, 1):
        seconds_left(0.1)
        found = partial(num_python_subprocesses=workers, iterable=[0.4, 0.4], op=nap)
        assert found.unfinished == [1]


def test_all_is_a_list_as_always(seconds_left):
    seconds_left(60)
    for workers in (0, 2):
        assert partial(num_python_subprocesses=workers, iterable=range(300), op=list) == list(range(300))
    assert partial(iterable=[], op=list) == []


def test_only_what_may_be_partial_is_cut_short(seconds_left):
    seconds_left(-5)
    assert do_in_pool(0, iterable=range(5), op=list, outputspec=ItemResults()) == list(range(5))
    assert do_in_pool(0, iterable=configs([0] * 5), op=list, outputspec=OutputSpec()) is not None


def test_without_a_limit_nothing_is_guarded(monkeypatch):
    monkeypatch.delenv("EXPYRE_MAX_TIME", raising=False)
    handler = signal.getsignal(signal.SIGALRM)
    assert partial(num_python_subprocesses=0, iterable=range(5), op=list) == list(range(5))
    assert signal.getsignal(signal.SIGALRM) is handler


def test_the_evidence_of_the_runner_is_left_all_the_same(seconds_left):
    rung = []

    def handler(*_):
        rung.append(1)

    handler.of_the_time_limit = True
    signal.signal(signal.SIGALRM, handler)
    seconds_left(0.3)
    assert partial(num_python_subprocesses=0, iterable=[0.01, 5.0], op=nap).unfinished == [1]
    assert rung == [1]
    assert signal.getsignal(signal.SIGALRM) is handler


def test_the_alarm_of_somebody_else_is_left_alone(seconds_left):
    def handler(*_):
        raise AssertionError

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 50)
    seconds_left(0.2)
    assert 2 in partial(num_python_subprocesses=0, iterable=[0.01, 0.5, 5.0], op=nap).unfinished
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 40


def test_the_guard_learns_what_calls_take():
    left = [100.0]
    guard = Guard(lambda: left[0])
    assert guard.allows()
    assert guard.patience() is None
    guard.learn(2, 6.0)
    guard.learn(1, 30.0)
    guard.learn(1, 3.1)
    assert guard.expected == 3.1
    left[0] = 3.0
    assert not guard.allows()
    assert not guard.is_over()
    left[0] = -1.0
    assert guard.is_over()
    assert guard.patience() == 0.0


def test_results_name_what_is_missing():
    found = PartialResults(4, {0: None, 2: "x"})
    assert found.unfinished == [1, 3]
    assert repr(found) == "<PartialResults: 2 of 4; unfinished: items 1, 3>"


# ------------------------------------------------------------------------------------------------- real jobs


@autoparallelized()
def work(atoms, log, _autopara_per_item_info=None):
    """Note each configuration, take the time that it says, and draw a number."""
    for at, info in zip(atoms, _autopara_per_item_info, strict=True):
        time.sleep(at.info["seconds"])
        with open(log, "a") as file:
            file.write(f"{at.info['i']}\n")
        at.info["r"] = float(info["rng"].normal()) if "rng" in info else 0.0
        at.info["pid"] = os.getpid()
    return atoms


def configs(seconds):
    return [Atoms("H", info={"i": i, "seconds": s}) for i, s in enumerate(seconds)]


@pytest.fixture
def project(tmp_path, monkeypatch, repo_root):
    from expyre import config

    (tmp_path / "_expyre").mkdir()
    monkeypatch.setenv("EXPYRE_LOCAL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("EXPYRE_LOCAL_CORES", "4")
    monkeypatch.setenv("PYTHONPATH", f"{repo_root}:{os.path.dirname(__file__)}")
    monkeypatch.chdir(tmp_path)
    config.init(tmp_path / "_expyre")
    return config


def remote_info(margin=5, **more):
    return {"sys_name": "local", "job_name": "work", "resources": {"num_cores": 1, "max_time": 8},
            "exact_fit": False, "partial_node": True, "num_inputs_per_queued_job": 4, "check_interval": 1,
            "timeout": 200, "env_vars": ["WFL_NUM_PYTHON_SUBPROCESSES=2", f"EXPYRE_TIME_MARGIN={margin}"],
            "hash_ignore": ["log"], **more}


def computed(log):
    return sorted(int(line) for line in Path(log).read_text().split())


def test_the_rest_goes_on_in_jobs_of_its_own(project, tmp_path, caplog, monkeypatch):
    seconds = [0.1, 60, 0.1, 0.1, 0.1, 0.1, 0.1]

    def run(seconds, log, keep=False, **info):
        with monkeypatch.context() as patch:
            if keep:
                patch.setenv("WFL_EXPYRE_NO_MARK_PROCESSED", "1")
            found = work(configs(seconds), OutputSpec(), log, rng=np.random.default_rng(3), autopara_info=info)
        return [(at.info["i"], at.info.get("r"), at.info.get("EXPYRE_REMOTE_JOB_FAILED")) for at in found]

    log = str(tmp_path / "log")
    here = run([0] * 7, "/dev/null", num_python_subprocesses=0)
    # the second configuration takes longer than any job may: all others are there, once
    with caplog.at_level(logging.WARNING), pytest.raises(TimedOut):
        run(seconds, log, remote_info=remote_info())
    assert computed(tmp_path / "log") == [0, 2, 3, 4, 5, 6]
    assert "left unfinished: item 1; job work_chunk_0_rest" in caplog.text
    assert "for item 1: TimedOut" in caplog.text
    rows = list(project.project().record.query())
    assert {row.name for row in rows} >= {"work_chunk_0", "work_chunk_0_rest", "work_chunk_1"}
    # what has no result may be left out in the next run
    left_out = run(seconds, log, remote_info=remote_info(ignore_failed_jobs=True), keep=True)
    assert [found for found in left_out if found[0] != 1] == [found for found in here if found[0] != 1]
    assert left_out[1] == (1, None, True)
    # in the next run, what was too short is submitted again with more time, and there is no end of the world
    more = remote_info(resources={"num_cores": 1, "max_time": 100}, resubmit_killed_jobs=True)
    for row in rows:
        if row.name.endswith("_rest"):
            shorten(row)
    assert run(seconds, log, remote_info=more) == here
    assert computed(tmp_path / "log") == list(range(7))
    assert {row.status for row in project.project().record.query()} == {"processed"}


def shorten(row):
    """Let the naps of a staged job be short ones."""
    from expyre import stage

    function, args, kwargs = stage.read_task(row.from_dir, row.hmac_key)
    for at in kwargs["iterable"]:
        at.info["seconds"] = 0.1
    stage.write_task(row.from_dir, function, args, kwargs, row.hmac_key)


def test_again_and_again_with_more_time(project, tmp_path):
    info = remote_info(
        num_inputs_per_queued_job=3, env_vars=["EXPYRE_TIME_MARGIN=6"],
        retry={"max_retries": 1, "on": ["TimedOut"], "time_factor": 2},
    )
    found = work(
        configs([1.5, 1.5, 1.5]), OutputSpec(), str(tmp_path / "log"), autopara_info={"remote_info": info}
    )
    assert [at.info["i"] for at in found] == [0, 1, 2]
    assert computed(tmp_path / "log") == [0, 1, 2]
    times = {row.name: row.resources_dict["max_time"] for row in project.project().record.query()}
    assert times == {"work_chunk_0": 8, "work_chunk_0_rest": 16}
    assert len({at.info["pid"] for at in found}) >= 2


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from test_walltime import configs, work
from wfl.configset import OutputSpec
print("found", [int(at.info["i"]) for at in work(configs([0.1, 2.2, 0.1]), OutputSpec("out.xyz"), {log!r})])
"""


def test_killed_while_the_rest_is_on_its_way(project, tmp_path, monkeypatch):
    info = remote_info(env_vars=["EXPYRE_TIME_MARGIN=6"])
    monkeypatch.setenv("WFL_EXPYRE_INFO", json.dumps({"work": info}))
    script = SCRIPT.format(here=os.path.dirname(__file__), log=str(tmp_path / "log"))

    def run(**more):
        return subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, **more}, capture_output=True, text=True, timeout=120
        )

    for place in ("rest.created", "rest.submitted"):
        assert run(EXPYRE_KILL_AT=place).returncode == -signal.SIGKILL
    done = run()
    assert done.stdout == "found [0, 1, 2]\n", done.stderr
    assert computed(tmp_path / "log") == [0, 1, 2]
    assert len(list(project.db.jobs())) in (2, 3)  # nothing is given up while it is the first
