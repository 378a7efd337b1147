"""Calls as jobs on the embedded queue, through the public class and through the bulk functions."""

import logging
import math
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import expyre.config
from expyre import gather
from expyre.config import Project
from expyre.errors import (
    AuthenticationError,
    Cancelled,
    InvalidCallError,
    KeyUnstableError,
    RecordError,
    RemoteTraceback,
    RequestError,
    StageError,
    SubmitFailed,
    TimedOut,
)
from expyre.func import Call, ExPyRe, ExPyReJobDiedError, ExPyReTimeoutError, create_jobs, start_jobs
from expyre.resources import Resources
from expyre.retry import Retry

ONE_CORE = {"max_time": "5m", "num_cores": 1}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPYRE_LOCAL_DIR", str(tmp_path / "queue"))
    monkeypatch.setenv("EXPYRE_LOCAL_CORES", "4")
    monkeypatch.delenv("EXPYRE_SYS", raising=False)
    (tmp_path / ".expyre").mkdir()
    monkeypatch.chdir(tmp_path)
    expyre.config.init(tmp_path / ".expyre")
    yield expyre.config.project()
    expyre.config.project().close()


def start(job, **kwargs):
    job.start(resources=kwargs.pop("resources", ONE_CORE), system_name="local", **kwargs)


def results(job, **kwargs):
    return job.get_results(timeout=kwargs.pop("timeout", 200), quiet=True, **kwargs)


def say_and_add(a, b=1):
    print("stdout content")
    print("stderr content", file=sys.stderr)
    return a + b


def test_a_call_comes_back_with_what_it_printed(project):
    job = ExPyRe("add+1 two", function=say_and_add, args=[2], kwargs={"b": 3})
    assert (job.status, job.recreated) == ("created", False)
    assert (job.stage_dir / "_expyre_task_in.pckl").exists()
    start(job)
    assert (job.status, job.system_name) == ("submitted", "local")
    assert results(job) == (5, "stdout content\n", "stderr content\n")
    assert job.status == "succeeded"
    assert results(job)[0] == 5
    job.mark_processed()
    with pytest.raises(RequestError, match="processed"):
        results(job)


def test_the_same_call_is_the_same_job_until_it_is_processed(project):
    first = ExPyRe("same", function=say_and_add, args=[1])
    start(first)
    second = ExPyRe("same", function=say_and_add, args=[1])
    start(second)
    assert second.recreated
    assert second.id == first.id
    assert results(second)[0] == 2
    assert ExPyRe("same", function=say_and_add, args=[2]).id != first.id
    assert ExPyRe("other", function=say_and_add, args=[1]).id != first.id
    assert ExPyRe("same", function=say_and_add, args=[1], try_restart_from_prev=False).id != first.id
    first.mark_processed()
    assert ExPyRe("same", function=say_and_add, args=[1]).id not in {first.id}


def test_ignored_arguments_do_not_tell_calls_apart(project):
    first = ExPyRe("j", function=say_and_add, args=[1], kwargs={"b": 1}, hash_ignore=["b"])
    assert ExPyRe("j", function=say_and_add, args=[1], kwargs={"b": 2}, hash_ignore=["b"]).id == first.id


def test_starting_twice_needs_force(project):
    job = ExPyRe("twice", function=say_and_add, args=[1])
    start(job)
    with pytest.raises(InvalidCallError, match="force_rerun"):
        start(job)
    results(job)


def count_runs(path):
    with open(path, "a") as out:
        out.write("x")
    return len(Path(path).read_text())


def test_force_rerun_runs_again_and_old_results_are_not_seen(project, tmp_path):
    job = ExPyRe("force", function=count_runs, args=[str(tmp_path / "runs")])
    start(job)
    assert results(job)[0] == 1
    start(job, force_rerun=True)
    assert results(job)[0] == 2


def test_exceptions_arrive_as_themselves(project):
    job = ExPyRe("log", function=math.log, args=[-1.0])
    start(job)
    with pytest.raises(ValueError, match=r"math domain error|positive input") as caught:
        results(job)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert job.status == "failed"
    assert not ExPyRe("log", function=math.log, args=[-1.0]).recreated


def die():
    print("last words", flush=True)
    os._exit(3)


def test_a_death_without_result_is_reported_with_all_output(project):
    job = ExPyRe("die", function=die)
    start(job)
    with pytest.raises(ExPyReJobDiedError, match=r"(?s)exit status 3.*last words"):
        results(job)


def test_time_limit_and_cancellation_have_names(project):
    slow = ExPyRe("slow", function=time.sleep, args=[100])
    start(slow, resources={"max_time": 1, "num_cores": 1})
    unwanted = ExPyRe("unwanted", function=time.sleep, args=[101])
    start(unwanted)
    with pytest.raises(ExPyReTimeoutError, match="it goes on"):
        results(unwanted, timeout=0)
    unwanted.cancel()
    with pytest.raises(Cancelled):
        results(unwanted)
    with pytest.raises(TimedOut, match="max_time"):
        results(slow)
    assert slow.status == "died"


def test_a_dead_job_is_tried_again_as_the_policy_says(project):
    job = ExPyRe("retry", function=time.sleep, args=[3])
    start(job, resources={"max_time": 1, "num_cores": 1})
    retry = Retry(max_retries=2, on=("TimedOut",), time_factor=60.0)
    outcome = next(gather.as_completed([job], timeout=100, quiet=True, retry=retry))
    assert outcome.result() is None
    assert project.record.row(job.id).tries == 1
    assert project.record.row(job.id).resources_dict["max_time"] == 60


def list_and_write(name):
    Path("out dir").mkdir()
    Path("out dir/result.txt").write_text(Path(name).read_text() * 2)
    return sorted(p.name for p in Path().iterdir() if not p.name.startswith(("_", "job.")))


def test_files_go_there_and_come_back(project, tmp_path):
    Path("in put.txt").write_text("hello")
    job = ExPyRe(
        "files", function=list_and_write, args=["in put.txt"], input_files=["in put.txt"], output_files=["out dir"]
    )
    start(job)
    assert results(job)[0] == ["in put.txt", "out dir"]
    assert Path("out dir/result.txt").read_text() == "hellohello"
    Path("in put.txt").write_text("changed")
    changed = ExPyRe("files", function=list_and_write, args=["in put.txt"], input_files=["in put.txt"])
    assert changed.id != job.id


def test_a_missing_output_file_does_not_hide_the_result(project, caplog):
    job = ExPyRe("absent", function=say_and_add, args=[1], output_files=["nothing*"])
    start(job)
    with caplog.at_level(logging.WARNING):
        assert results(job)[0] == 2
    assert "nothing*" in caplog.text


def test_environment_and_commands(project, monkeypatch):
    monkeypatch.setenv("COPIED", "it's $HOME")
    job = ExPyRe(
        "env",
        function=get_env,
        args=[["A", "B", "COPIED"]],
        pre_run_commands=["export A=1"],
        env_vars=["B=${A}2", "COPIED"],
        post_run_commands=["touch post_was_here"],
    )
    start(job)
    assert results(job)[0] == ["1", "12", "it's $HOME"]
    assert (job.stage_dir / "post_was_here").exists()


def get_env(names):
    return [os.environ.get(name) for name in names]


@pytest.mark.parametrize(
    "name", ["quote'd", 'dou"ble', "$(touch pwned)", "a\nb", "ünïcode 原子", "; rm -rf x", "%s{0}"[:2], "-n", "~"]
)
def test_hostile_names(project, name, tmp_path):
    job = ExPyRe(name, function=say_and_add, args=[1])
    start(job)
    assert results(job)[0] == 2
    assert not (tmp_path / "pwned").exists()
    assert not list(job.stage_dir.glob("pwned"))
    job.clean(wipe=True)
    assert not job.stage_dir.exists()


def test_all_mistakes_of_a_call_at_once(project):
    with pytest.raises(InvalidCallError, match=r"(?s)must not contain \*.*callable.*hash_ignore"):
        ExPyRe("a*b", function=None, hash_ignore=[1.5])
    with pytest.raises(AssertionError):
        ExPyRe("a/b", function=print)
    with pytest.raises(KeyUnstableError, match=r"kwargs\['file'\]"), open(os.devnull) as file:
        ExPyRe("file", function=print, kwargs={"file": file})


def test_unknown_system_and_impossible_request(project):
    job = ExPyRe("where", function=say_and_add, args=[1])
    with pytest.raises(KeyError, match="configured systems: local"):
        job.start(resources=ONE_CORE, system_name="nowhere")
    with pytest.raises(KeyError, match="EXPYRE_SYS"):
        job.start(resources=ONE_CORE)
    with pytest.raises((RequestError, SubmitFailed)):
        job.start(resources={"max_time": 10, "num_nodes": 50}, system_name="local")
    assert job.status == "created"
    start(job)
    assert results(job)[0] == 2


def test_results_of_a_job_that_was_never_started(project):
    with pytest.raises(InvalidCallError, match="start"):
        results(ExPyRe("idle", function=say_and_add, args=[1]))


def test_forged_and_truncated_results_are_refused_then_computed_anew(project, tmp_path):
    job = ExPyRe("forged", function=count_runs, args=[str(tmp_path / "runs")])
    start(job)
    assert results(job)[0] == 1
    path = job.stage_dir / "_expyre_job_succeeded"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(AuthenticationError):
        results(ExPyRe("forged", function=count_runs, args=[str(tmp_path / "runs")]))
    again = ExPyRe("forged", function=count_runs, args=[str(tmp_path / "runs")])
    assert not again.recreated


def test_from_jobsdb_clean_and_wipe(project):
    job = ExPyRe("clean", function=say_and_add, args=[1])
    start(job)
    results(job)
    [same] = ExPyRe.from_jobsdb(expyre.config.db.jobs(name="clean"))
    assert same.id == job.id
    assert same.recreated
    same.clean(dry_run=True)
    assert same.status == "succeeded"
    same.clean()
    assert (job.stage_dir / "_expyre_job_succeeded").read_text() == "CLEANED\n"
    assert (job.stage_dir / "_expyre_job_cleaned").exists()
    same.clean(wipe=True)
    assert not job.stage_dir.exists()
    assert project.record.row(job.id).status == "cleaned"


def square(x):
    return x * x


def test_many_jobs_together(project):
    calls = [Call(f"square_{i}", square, (i,), scope="square") for i in range(30)]
    jobs = create_jobs(calls)
    start_jobs(jobs, Resources(**ONE_CORE), "local")
    values = {outcome.job.row.name: outcome.result() for outcome in gather.as_completed(jobs, timeout=120, quiet=True)}
    assert values == {f"square_{i}": i * i for i in range(30)}
    renamed = create_jobs([Call(f"renumbered_{i + 7}", square, (i,), scope="square") for i in range(30)])
    assert [job.id for job in renamed] == [job.id for job in jobs]


def test_identical_calls_of_one_script_stay_separate_jobs(project):
    ids = [job.id for job in create_jobs([Call("same", square, (3,)) for _ in range(3)])]
    assert len(set(ids)) == 3
    assert [job.id for job in create_jobs([Call("same", square, (3,)) for _ in range(3)])] == ids


def test_failures_do_not_keep_other_results_back(project):
    jobs = create_jobs([Call("root", math.sqrt, (x,)) for x in (4.0, -1.0, 9.0)])
    start_jobs(jobs, ONE_CORE, "local")
    outcomes = {outcome.job.id: outcome for outcome in gather.as_completed(jobs, timeout=200, quiet=True)}
    assert [outcomes[job.id].value for job in jobs] == [2.0, None, 3.0]
    assert isinstance(outcomes[jobs[1].id].error, ValueError)


def test_a_dry_run_submits_and_stages_nothing(project, monkeypatch, tmp_path):
    known = ExPyRe("known", function=square, args=[5])
    start(known)
    results(known)
    monkeypatch.setenv("EXPYRE_DRY_RUN", str(tmp_path / "plan"))
    jobs = create_jobs([Call("known", square, (5,)), Call("new", square, (6,))])
    before = sorted(project.stage_root.iterdir())
    start_jobs(jobs, ONE_CORE, "local")
    assert sorted(project.stage_root.iterdir()) == before
    line = (tmp_path / "plan").read_text()
    assert '"hits": 1, "misses": 1' in line
    assert "_expyre_script_core.py" in line
    assert results(jobs[0])[0] == 25
    with pytest.raises(SystemExit):
        results(jobs[1])


SCRIPT = """
import sys
from expyre.func import ExPyRe
def slow(path):
    import time
    with open(path, "a") as out:
        out.write("x")
    time.sleep(0.5)
    return "done"
job = ExPyRe("slow", function=slow, args=[sys.argv[1]])
job.start(resources={"max_time": 60, "num_cores": 1}, system_name="local")
print(job.get_results(timeout=200, quiet=True)[0])
"""


def test_two_scripts_started_together_make_one_job(project, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path / "runs")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [p.communicate(timeout=200)[0] for p in running] == ["done\n"] * 4
    assert (tmp_path / "runs").read_text() == "x"
    assert len(list(project.record.query())) == 1


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False).returncode != 0:
        pytest.skip("mount is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_stage_disk_is_one_clear_error_and_leaves_nothing(small_disk):
    project = Project(stage_dir=small_disk)
    [kept] = create_jobs([Call("kept", square, (1,))], project)
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(b"x" * 1_000_000)
    with pytest.raises((StageError, RecordError), match=str(small_disk)):
        create_jobs([Call("new", square, (i,)) for i in range(20)], project)
    assert [path.name for path in small_disk.glob("run_*")] == [kept.stage_dir.name]
    (small_disk / "filler").unlink()
    [job, again] = create_jobs([Call("new", square, (1,)), Call("kept", square, (1,))], project)
    assert not job.recreated
    assert again.id == kept.id
    project.close()


def test_an_unwritable_stage_directory_is_one_clear_error(small_disk):
    project = Project(stage_dir=small_disk)
    create_jobs([Call("kept", square, (1,))], project)
    project.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises((StageError, RecordError), match=str(small_disk)):
        create_jobs([Call("new", square, (1,))], project)
    project.close()
