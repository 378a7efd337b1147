"""The queue on this machine, with real processes: budget, limits, survival, exactly one submission."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from queue_tools import Queue, fresh_queue, until

from expyre.errors import SchedulerError, SubmitFailed
from expyre.node.localqueue import remote
from expyre.transports import LocalTransport

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    monkeypatch.setenv("EXPYRE_LOCAL_CORES", "4")
    monkeypatch.setenv("EXPYRE_LOCAL_IDLE", "5")
    monkeypatch.delenv("EXPYRE_LOCAL_GPUS", raising=False)
    yield from fresh_queue(tmp_path)


def test_a_job_runs_as_if_its_submitter_had_started_it(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "it's mine\nreally")
    show = "pwd; printf '%s' \"$MINE\"; echo $EXPYRE_NUM_CORES-$EXPYRE_NUM_NODES >&2"
    job = queue.submit(show, nodes={"num_cores": 2})
    assert queue.wait(job) == ["done"]
    directory = queue.root / "job1"
    assert (directory / "job.job1.stdout").read_text() == f"{directory}\nit's mine\nreally"
    assert (directory / "job.job1.stderr").read_text() == "2-1\n"
    assert (directory / "job.script.local").exists()
    assert queue.scheduler.explain([job]) == {}
    assert (queue.spool.path.stat().st_mode & 0o777) == 0o700


def test_a_job_starts_soon_when_the_supervisor_is_up(queue: Queue) -> None:
    queue.wait(queue.submit("true"))
    delays = []
    for i in range(5):
        begin = time.time()
        job = queue.submit("date +%s.%N > when")
        queue.wait(job)
        delays.append(float((queue.root / f"job{i + 2}" / "when").read_text()) - begin)
    assert min(delays) < 0.2  # 0.015 on an idle machine


def test_a_script_that_fails_is_explained(queue: Queue) -> None:
    job = queue.submit("exit 3")
    assert queue.wait(job) == ["failed"]
    end = queue.scheduler.explain([job])[job]
    assert (end.reason, end.exit_code) == ("ExPyReJobDiedError", 3)
    assert "status 3" in end.detail


def test_a_directory_that_is_gone_ends_the_job_with_the_reason(queue: Queue) -> None:
    first = queue.submit("sleep 0.5", nodes={"num_cores": 4})
    job = queue.submit("true")
    shutil.rmtree(queue.root / "job2")
    assert queue.wait(first, job) == ["done", "failed"]
    assert "could not be started" in queue.scheduler.explain([job])[job].detail


def test_time_limit_ends_the_whole_tree(queue: Queue) -> None:
    escape = "setsid sh -c 'trap \"\" TERM; sleep 77' & (setsid sleep 78 &) ; trap '' TERM; sleep 79; sleep 79"
    job = queue.submit(escape, max_time=1)
    until(lambda: len(queue.members(job)) >= 5)
    begin = time.monotonic()
    assert queue.wait(job) == ["timeout"]
    assert time.monotonic() - begin < 40  # of 77 s or more
    assert queue.members(job) == []
    end = queue.scheduler.explain([job])[job]
    assert end.reason == "TimedOut"
    assert "1 s" in end.detail


def test_what_a_job_leaves_running_ends_with_it(queue: Queue) -> None:
    job = queue.submit("(setsid sleep 76 &); env -i sleep 75 & exit 0")
    assert queue.wait(job) == ["done"]
    until(lambda: not queue.members(job))


def test_memory_above_the_request_ends_the_job(queue: Queue) -> None:
    eat = f"{sys.executable} -c 'import time; x = b\"x\" * 200_000_000; time.sleep(30)'"
    job = queue.submit(eat, nodes={"max_mem": 100_000})
    assert queue.wait(job) == ["failed"]
    end = queue.scheduler.explain([job])[job]
    assert end.reason == "OutOfMemory"
    assert "asked for 100000 kB" in end.detail


def test_memory_shared_by_processes_counts_once(queue: Queue) -> None:
    code = "import os, time; x = b'x' * 100_000_000; [os.fork() for _ in range(2)]; time.sleep(1.5)"
    job = queue.submit(f'{sys.executable} -c "{code}"', nodes={"max_mem": 200_000})
    assert queue.wait(job) == ["done"]


def test_fifty_jobs_never_use_more_than_the_budget(queue: Queue) -> None:
    trace = queue.root / "trace"
    subs = [
        queue.submission(f"echo +{n} >> {trace}; sleep 0.0{n}; echo -{n} >> {trace}", nodes={"num_cores": n})
        for n in [1, 3, 1, 2, 4] * 10
    ]
    ids = [str(id) for id in queue.scheduler.submit_many(subs).values()]
    assert set(queue.wait(*ids, seconds=40)) == {"done"}
    used, most = 0, 0
    for line in trace.read_text().splitlines():
        used += int(line)
        most = max(most, used)
    assert used == 0
    assert 3 <= most <= 4


def test_partition_caps_hold_within_the_budget(queue: Queue) -> None:
    trace = queue.root / "trace"
    command = f"echo +1 >> {trace}; sleep 0.05; echo -1 >> {trace}"
    subs = [queue.submission(command, partition="small", partition_limit={"num_cores": 2}) for _ in range(8)]
    ids = [str(id) for id in queue.scheduler.submit_many(subs).values()]
    assert set(queue.wait(*ids)) == {"done"}
    used = [int(line) for line in trace.read_text().splitlines()]
    assert max(sum(used[: i + 1]) for i in range(len(used))) == 2


@pytest.mark.parametrize(
    ("nodes", "words"),
    [({"num_cores": 5}, "5 cores, there are 4"), ({"max_mem": 1 << 40}, "kB of memory"), ({"num_gpus": 3}, "3 GPUs")],
)
def test_what_can_never_run_is_refused(
    queue: Queue, nodes: dict[str, int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "2")
    sub = queue.submission("true", nodes=nodes)
    answer = queue.scheduler.submit_many([sub])[sub.id]
    assert isinstance(answer, SubmitFailed)
    assert words in str(answer)
    with pytest.raises(SubmitFailed, match="unwritable"):
        queue.scheduler.submit("unwritable", "/proc/nowhere", "p", ["true"], 10, [], {"num_nodes": 1, "num_cores": 1})


def test_gpus_are_handed_out(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "3,5")
    show = 'echo "<$CUDA_VISIBLE_DEVICES>"; sleep 0.3'
    ids = [queue.submit(show, nodes={"num_gpus": n}) for n in (1, 1, 0, 2)]
    assert set(queue.wait(*ids)) == {"done"}
    shown = [(queue.root / f"job{i}" / f"job.job{i}.stdout").read_text().strip() for i in (1, 2, 3, 4)]
    assert sorted(shown[:2]) == ["<3>", "<5>"]
    assert shown[2:] == ["<>", "<3,5>"]


def test_hold_release_cancel(queue: Queue) -> None:
    first = queue.submit("sleep 60", nodes={"num_cores": 4})
    held, waiting = queue.submit("true"), queue.submit("true")
    queue.is_running(first)
    queue.scheduler.hold(held)
    assert queue.scheduler.status([held, waiting]) == {held: "held", waiting: "queued"}
    why = queue.scheduler.why_pending([held, waiting])
    assert "held" in why[held]
    assert "1 cores: 0 free" in why[waiting]
    with pytest.raises(SchedulerError, match="running"):
        queue.scheduler.hold([first])
    queue.scheduler.cancel([first, waiting])
    assert queue.scheduler.status([first, held, waiting]) == {first: "done", held: "held", waiting: "done"}
    assert {end.reason for end in queue.scheduler.explain([first, waiting]).values()} == {"Cancelled"}
    assert queue.members(first) == []
    assert not (queue.root / "job3" / "job.job3.stdout").exists()
    queue.scheduler.release(held)
    assert queue.wait(held) == ["done"]
    queue.scheduler.cancel([first, held, "12345678999"])  # all gone: nothing to complain of


def test_the_same_token_is_submitted_once(queue: Queue) -> None:
    count = queue.root / "count"
    sub = queue.submission(f"echo x >> {count}; sleep 0.2", token="abc")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: queue.scheduler.submit_many([sub])[sub.id], range(8)))
    assert len(set(answers)) == 1
    assert queue.scheduler.find(["abc", "xyz"]) == {"abc": answers[0]}
    queue.wait(str(answers[0]))
    assert queue.scheduler.submit_many([sub])[sub.id] == answers[0]
    time.sleep(0.2)
    assert count.read_text() == "x\n"


def _env(repo_root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{repo_root}:{repo_root / 'tests' / 'expyre'}"}


_SUBMITTER = """\
import sys
from pathlib import Path
from queue_tools import Queue
queue = Queue(Path(sys.argv[1]))
for i in range(5):
    sub = queue.submission("echo $$ >> ran", id=f"j{i}", token=f"{sys.argv[2]}-{i}",
                           directory=queue.root / f"{sys.argv[2]}-{i}")
    print(queue.scheduler.submit_many([sub])[sub.id])
"""


def test_many_processes_submit_at_the_same_time(queue: Queue, repo_root: Path) -> None:
    words = [sys.executable, "-c", _SUBMITTER, str(queue.root)]
    submitters = [
        subprocess.Popen([*words, str(i % 3)], env=_env(repo_root), stdout=subprocess.PIPE, text=True) for i in range(6)
    ]
    ids = {id for process in submitters for id in process.communicate()[0].split()}
    assert len(ids) == 15  # each token was submitted by two of them
    assert set(queue.wait(*ids)) == {"done"}
    assert [len(path.read_text().split()) for path in queue.root.glob("?-?/ran")] == [1] * 15
    assert queue.supervisor()


def test_jobs_outlive_the_script_the_terminal_and_hangups(queue: Queue, repo_root: Path) -> None:
    code = f"""\
import os, sys, time
from pathlib import Path
from queue_tools import Queue
queue = Queue(Path({str(queue.root)!r}))
print(queue.submit("sleep 1; echo done > proof"), flush=True)
time.sleep(60)
"""
    import pty

    master, slave = pty.openpty()
    words, out = [sys.executable, "-c", code], subprocess.PIPE
    script = subprocess.Popen(words, env=_env(repo_root), stdin=slave, stdout=out, start_new_session=True, text=True)
    assert script.stdout is not None
    job = script.stdout.readline().strip()
    queue.count = 1
    queue.is_running(job)
    os.close(slave)
    os.close(master)  # the terminal is gone
    os.killpg(script.pid, signal.SIGHUP)
    os.killpg(script.pid, signal.SIGKILL)
    script.communicate()
    assert queue.wait(job) == ["done"]
    assert (queue.root / "job1" / "proof").exists()


def test_a_killed_supervisor_is_replaced_and_its_jobs_are_taken_over(queue: Queue) -> None:
    quick = queue.submit("sleep 0.3; exit 4")
    slow = queue.submit("sleep 1.5; echo x > proof")
    late = queue.submit("trap '' TERM; sleep 60; sleep 60", max_time=3)
    blocked = queue.submit("true", nodes={"num_cores": 4})
    for job in (quick, slow, late):
        queue.is_running(job)
    first = queue.supervisor()
    os.kill(first, signal.SIGKILL)
    until(lambda: queue.supervisor() == 0)
    time.sleep(0.5)  # one of the jobs ends while nobody watches
    assert queue.wait(quick, slow, late, blocked) == ["failed", "done", "timeout", "done"]
    assert queue.supervisor() not in (0, first)
    assert queue.scheduler.explain([quick])[quick].exit_code == 4
    assert (queue.root / "job2" / "proof").exists()
    assert queue.members(late) == []


def test_a_job_recorded_as_starting_when_the_supervisor_died_runs_once(queue: Queue) -> None:
    queue.is_running(queue.submit("sleep 0.6", nodes={"num_cores": 4}))
    job = queue.submit("echo x >> ran")
    first = queue.supervisor()
    os.kill(first, signal.SIGKILL)
    until(lambda: queue.supervisor() == 0)
    from expyre.node.localqueue.processes import boot_id

    with queue.spool.connect() as db:
        db.execute("UPDATE jobs SET state = 'running', pid = NULL, boot = ? WHERE id = ?", [boot_id(), job])
    assert queue.wait(job) == ["done"]
    assert (queue.root / "job2" / "ran").read_text() == "x\n"


def test_after_a_restart_of_the_machine_running_jobs_are_known_to_be_gone(queue: Queue) -> None:
    job = queue.submit("sleep 60")
    queue.is_running(job)
    os.kill(queue.supervisor(), signal.SIGKILL)
    until(lambda: queue.supervisor() == 0)
    with queue.spool.connect() as db:
        db.execute("UPDATE jobs SET boot = 'another boot'")
    assert queue.wait(job) == ["failed"]
    assert queue.scheduler.explain([job])[job].reason == "NodeFailed"


def test_the_supervisor_goes_away_and_comes_back(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_IDLE", "0.2")
    queue.wait(queue.submit("true"))
    until(lambda: queue.supervisor() == 0)
    assert queue.wait(queue.submit("true")) == ["done"]
    log = queue.spool.log.read_text()
    assert "Traceback" not in log


@pytest.mark.parametrize("name", ["a b", "$(touch pwned)", "it's;`id`", "x&y", "new\nline", "-rf", "ünï*?"])
def test_hostile_names_are_only_names(queue: Queue, name: str) -> None:
    job = queue.submit("echo out", id=name, directory=queue.root / name)
    assert queue.wait(job) == ["done"]
    assert (queue.root / name / f"job.{name}.stdout").read_text() == "out\n"
    assert not list(queue.root.rglob("pwned"))


def test_commands_before_submission_shape_the_environment(queue: Queue) -> None:
    sub = queue.submission('echo "$WORD"')
    answer = queue.scheduler.submit_many([sub], ["export", "WORD=x", ";", "export WORD=$WORD-y"])[sub.id]
    queue.wait(str(answer))
    assert (queue.root / "job1" / "job.job1.stdout").read_text() == "x-y\n"
    with pytest.raises(SubmitFailed, match="pre_submit_cmds"):
        queue.scheduler.submit_many([queue.submission("true")], ["false"])


def test_the_queue_of_another_host_is_asked_through_its_transport(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run, directory = LocalTransport().run, str(queue.spool.path)
    assert remote.call(run, sys.executable, "find", {"tokens": ["x"]}, directory) == {}
    job = queue.submit("true")
    queue.wait(job)
    answer = remote.call(run, sys.executable, "listing", {"ids": [job]}, directory)
    assert answer == {job: {"state": "done", "reason": ""}}
    with pytest.raises(remote.RemoteQueueError, match="nowhere"):
        remote.call(run, "/nowhere/python", "find", {"tokens": []}, directory)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs to mount a small file system")
def test_a_full_disk_is_a_refusal_with_the_path(queue: Queue) -> None:
    small = queue.root / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mount is not allowed here")
    try:
        (small / "job").mkdir()
        with pytest.raises(OSError, match="No space"):
            (small / "filler").write_bytes(b"x" * 200_000)
        sub = queue.submission("true", directory=small / "job")
        answer = queue.scheduler.submit_many([sub])[sub.id]
        assert isinstance(answer, SubmitFailed)
        assert "No space left" in str(answer)
        assert str(small / "job") in str(answer)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_spool_that_cannot_be_used_is_a_scheduler_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    queue = Queue(tmp_path)
    queue.scheduler.options["dir"] = str(blocker / "spool")
    with pytest.raises(SchedulerError, match="local queue"):
        queue.submit("true")


def test_answers_are_plain_data(queue: Queue) -> None:
    from expyre.node.localqueue import api

    job = queue.submit("true")
    queue.wait(job)
    for command in ("listing", "explain", "why_pending", "hold", "release", "cancel"):
        json.dumps(api.call(command, {"ids": [job]}, str(queue.spool.path)))
