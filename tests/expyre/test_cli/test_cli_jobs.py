"""Commands that act on jobs, with real jobs on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import XPR, on_terminal, plain
from click.testing import Result

from expyre.config import Project
from expyre.func import ExPyRe

Xpr = Callable[..., Result]
Add = Callable[..., str]

ONE_CORE = {"max_time": "1m", "num_cores": 1}


def talk(lines: int, error: str | None = None) -> int:
    print("talking", flush=True)
    for i in range(lines):
        time.sleep(0.05)
        print("line", i, flush=True)
    if error:
        raise ValueError(error)
    return lines


def wait_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.02)
    return "done"


def start(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> ExPyRe:
    job = ExPyRe(name, function=function, args=args, kwargs=kwargs)
    job.start(ONE_CORE, "local", exact_fit=False, partial_node=True, python_cmd=sys.executable)
    return job


def status_of(project: Project, job: ExPyRe) -> str:
    return project.record.row(job.id).status


def until(xpr: Xpr, project: Project, job: ExPyRe, *statuses: str) -> None:
    deadline = time.monotonic() + 150
    while status_of(project, job) not in statuses:
        assert time.monotonic() < deadline, status_of(project, job)
        time.sleep(0.05)
        xpr("sync", "-s", "*")


def test_a_job_from_the_queue_to_its_end(xpr: Xpr, project: Project, tmp_path: Path) -> None:
    job = start("waiter", wait_for, str(tmp_path / "go"))
    until(xpr, project, job, "started")
    assert f"waiter ({job.id[-8:]}" not in xpr("why", "waiter").stdout
    assert "(started): it is running" in xpr("why", "waiter").stdout
    (tmp_path / "go").touch()
    until(xpr, project, job, "succeeded")
    assert "its results wait to be fetched" in xpr("why", job.id[-8:]).stdout
    assert job.get_results()[0] == "done"


def test_sync_says_what_changed(xpr: Xpr, project: Project) -> None:
    job = start("talk", talk, 0)
    time.sleep(1)
    err = ""
    while "to done" not in err:
        err = xpr("sync", "-v").stderr
    assert f"Update remote status of {job.id} to done\n" in err
    assert f"Update status of {job.id} to succeeded\n" in err
    assert xpr("sync").stderr == "No jobs to sync\n"


def test_sync_leaves_jobs_alone_that_were_never_submitted(xpr: Xpr, project: Project, add: Add) -> None:
    job = add("new")
    assert "1 of 1 job never submitted" in xpr("sync").stderr
    assert project.record.row(job).status == "created"


def test_jobs_that_wait_for_room_are_cancelled(xpr: Xpr, add: Add, project: Project) -> None:
    waiting = add("relax", system="local", submit_state="waiting")
    created = add("relax")
    told = xpr("cancel", "relax").stderr
    assert "1 of 2 jobs not in a queue: nothing to cancel" in told
    assert "1 job that waited for room in its queue: will not be submitted" in told
    assert [project.record.row(id).status for id in (waiting, created)] == ["died", "created"]
    assert "somebody cancelled it" in xpr("why", waiting).stdout


def test_cancel_and_retry(xpr: Xpr, project: Project, tmp_path: Path) -> None:
    job = start("waiter", wait_for, str(tmp_path / "go"))
    until(xpr, project, job, "started")
    assert "cancel: 1 of 1 job (" in xpr("cancel", "waiter").stderr
    until(xpr, project, job, "died")
    told = xpr("why", "waiter").stdout
    assert "somebody cancelled it" in told
    assert f"xpr retry {job.id[-8:]}" in told
    first = project.record.row(job.id).remote_id
    (tmp_path / "go").touch()
    out = xpr("retry", job.id[-8:], "--time-factor", "2", "--python-cmd", sys.executable)
    assert out.stderr == "Submitted 1 job again\n"
    until(xpr, project, job, "succeeded")
    row = project.record.row(job.id)
    assert row.remote_id != first
    assert row.resources_dict["max_time"] == 120
    assert row.tries == 1
    assert "xpr retry" in [note for *_, note in project.record.history(job.id)]


def test_hold_and_release(xpr: Xpr, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_CORES", "1")
    first = start("first", wait_for, str(tmp_path / "go"))
    until(xpr, project, first, "started")
    second = start("second", talk, 0)
    assert "hold: 1 of 1 job" in xpr("hold", "second").stderr
    xpr("sync")
    assert project.record.row(second.id).remote_status == "held"
    told = xpr("why", "second").stdout
    assert "(submitted): it is held in the queue" in told
    assert "xpr release" in told
    assert "release: 1 of 1 job" in xpr("release", "second").stderr
    (tmp_path / "go").touch()
    until(xpr, project, second, "succeeded")


def test_orders_the_queue_refuses_fail(xpr: Xpr, project: Project, tmp_path: Path) -> None:
    job = start("waiter", wait_for, str(tmp_path / "go"))
    until(xpr, project, job, "started")
    assert "hold: 0 of 1 job" in xpr("hold", "waiter", code=1).stderr
    (tmp_path / "go").touch()
    until(xpr, project, job, "succeeded")
    assert "nothing to cancel" in xpr("cancel", "waiter").stderr
    for command in ("cancel", "hold", "release", "retry", "rm", "fail_job"):
        assert f"{command} needs at least one job or filter" in xpr(command, code=1).stderr


def test_retry_keeps_what_is_there_if_the_request_cannot_be_met(xpr: Xpr, project: Project) -> None:
    job = start("talk", talk, 1, error="no way")
    until(xpr, project, job, "failed")
    assert "no partition fits" in xpr("retry", "talk", "--resources", '{"num_cores": 100000}', code=1).stderr
    assert "'nowhere' is not in the configuration" in xpr("retry", "talk", "--on", "nowhere", code=1).stderr
    for resources, message in (('{"max_tim": 1}', "there is no max_tim; known are: max_time"), ("{", "not JSON")):
        assert message in xpr("retry", "talk", "--resources", resources, code=1).stderr
    assert status_of(project, job) == "failed"
    told = xpr("why", "talk").stdout
    assert "its function raised an error (ValueError: no way)" in told
    assert "line 0" in told


def test_logs_once_and_as_they_come(xpr: Xpr, project: Project) -> None:
    job = start("talk", talk, 20)
    followed: list[str] = []
    thread = threading.Thread(target=lambda: followed.append(xpr("logs", "-f", "--only", "stdout", "talk").stdout))
    thread.start()
    thread.join(20)
    assert followed == ["talking\n" + "".join(f"line {i}\n" for i in range(20))]
    assert status_of(project, job) == "succeeded"
    assert xpr("logs", "talk", "-n", "2", "--only", "stdout").stdout == "line 18\nline 19\n"
    assert f"==> stdout: {job.stage_dir / '_expyre_stdout'} <==\ntalking\n" in xpr("logs", "talk").stdout
    assert json.loads(xpr("logs", "talk", "--json").stdout)["stdout"].startswith("talking\n")


def test_remove_with_files(xpr: Xpr, project: Project, tmp_path: Path) -> None:
    job = start("waiter", wait_for, str(tmp_path / "go"))
    until(xpr, project, job, "started")
    out = xpr("rm", "-c", "-n", "waiter", answers="maybe\ny\n").stdout
    known = f"system=local remote_id={job.remote_id} status=started stage_dir={job.stage_dir}"
    assert out.startswith(f'Delete "{job.id} {known}"\n')
    assert out.count("Enter n to reject or y to accept: ") == 2
    assert not job.stage_dir.exists()
    assert xpr("ls", "-q").stdout == ""


def test_remove_from_the_record_only_says_what_stays(xpr: Xpr, project: Project, tmp_path: Path) -> None:
    job = start("waiter", wait_for, str(tmp_path / "go"))
    assert "Removed 0" not in xpr("rm", "-n", "waiter", answers="n\n").stderr
    out = xpr("rm", "-y", "-n", "waiter")
    assert f"1 job ({job.remote_id}@local); rm -c cancels them" in out.stderr
    assert f"would remove {job.stage_dir}\n" in out.stdout
    assert job.stage_dir.is_dir()
    assert xpr("ls", "-q").stdout == ""
    (tmp_path / "go").touch()


def test_a_lost_job_is_taken_up_again(xpr: Xpr, project: Project) -> None:
    job = start("talk", talk, 0)
    until(xpr, project, job, "succeeded")
    project.record.remove(job.id)
    xpr("create_job", "-d", str(job.stage_dir), "-S", "local")
    row = project.record.row(job.id)
    assert (row.name, row.status, row.remote_id, row.remote_status) == ("talk", "created", "NA", "unknown")
    assert "already has a job" in xpr("create_job", "-d", str(job.stage_dir), "-S", "local", code=1).stderr
    again = ExPyRe("talk", function=talk, args=[0])
    assert again.id == job.id
    xpr("sync")
    assert status_of(project, job) == "succeeded"
    assert again.get_results()[0] == 0


def test_fail_job(xpr: Xpr, project: Project) -> None:
    job = start("talk", talk, 0)
    until(xpr, project, job, "succeeded")
    out = xpr("fail_job", "-s", "*", answers="y\n").stdout
    assert out.startswith(f'Fail "{job.id}"\nEnter n to reject or y to accept: ')
    assert status_of(project, job) == "succeeded"
    xpr("reset_status", "started", "talk")
    with pytest.raises(RuntimeError, match="xpr fail_job"):
        job.get_results(quiet=True)


def test_plan(xpr: Xpr, project: Project, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom math import sqrt\nfrom expyre import ExPyRe\n"
        "job = ExPyRe('root', function=sqrt, args=[float(sys.argv[1])])\n"
        "job.start({'max_time': '1h', 'num_nodes': 1}, 'local')\nprint(job.get_results())\n"
    )
    out = xpr("plan", str(script), "4")
    assert out.stdout.splitlines()[:2] == [
        "Plan (nothing was submitted):",
        "call                 goes to     because of jobs known to submit nodes cores time   ",
    ]
    assert "job.script" not in out.stdout
    (call, *_) = json.loads(xpr("plan", "--json", str(script), "4").stdout)
    assert (call["op"], call["route"], call["misses"], call["max_time"]) == ("root", "local", 1, 3600)
    assert "_expyre_script_core.py" in xpr("plan", "--script", str(script), "4").stdout
    assert xpr("ls", "-q").stdout == ""
    assert "the script stopped" in xpr("plan", str(script), code=1).stdout
    assert "there is no script" in xpr("plan", "nothing.py", code=1).stderr


def test_reset_status_of_all_jobs_asks_on_a_terminal(project: Project, add: Add) -> None:
    jobs = [add("one"), add("two", status="failed")]
    code, out = on_terminal(["reset_status", "processed"], 80, b"n\n")
    assert code == 1
    assert "No filter given: set the status of all 2 jobs to processed? [y/N]" in plain(out)
    assert [project.record.row(job).status for job in jobs] == ["created", "failed"]
    assert subprocess.run([*XPR, "reset_status", "processed"], stdin=subprocess.DEVNULL, check=False).returncode == 0
    assert [project.record.row(job).status for job in jobs] == ["processed", "processed"]
    assert project.record.history(jobs[0])[-1][1:] == ("processed", None, "xpr reset_status")
