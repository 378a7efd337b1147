"""Slurm itself: arrays and single jobs, their outputs and ends, orders to them, and submissions that are killed."""

from __future__ import annotations

import os
import pwd
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from clusters.slurm import SlurmCluster, running_slurm, until

from expyre import states
from expyre.errors import QueueFull, SchedulerError, SubmitFailed, TransportError
from expyre.schedulers import Slurm, Submission
from expyre.schedulers.units import Limits
from expyre.states import ALIVE, End

Make = Callable[..., Submission]
LATER = "#SBATCH --begin=now+1hour"


@pytest.fixture
def make(slurm_env: SlurmCluster, tmp_path: Path) -> Make:
    """A function that makes jobs with directories and scripts."""
    return _maker(tmp_path / "place")


def _maker(place: Path) -> Make:
    def job(id: str, *commands: str, **kwargs: Any) -> Submission:
        directory = place / f"run_{id}"
        directory.mkdir(parents=True)
        values: dict[str, Any] = {"partition": "normal", "max_time": 300, "token": f"token-of-{id}", **kwargs}
        sub = Submission(id=id, directory=str(directory), commands=commands, **values)
        (directory / "job.script.slurm").write_text(Slurm(None).script(sub), "utf-8", "surrogateescape")
        return sub

    return job


def submit(queue: Slurm, subs: Sequence[Submission]) -> list[str]:
    answers = queue.submit_many(subs)
    assert all(isinstance(answer, str) for answer in answers.values()), answers
    return [str(answers[sub.id]) for sub in subs]


def ended(queue: Slurm, ids: Sequence[str]) -> dict[str, End]:
    """Wait for the ends of jobs and return them."""
    until(lambda: not any(listing.state in ALIVE for listing in queue.listing(ids).values()), f"the end of {ids}")
    return queue.explain(ids)


def state_is(queue: Slurm, id: str, state: str) -> None:
    until(lambda: queue.status(id)[id] == state, f"{state} of {id}")


def output(sub: Submission, kind: str = "stdout") -> str:
    return (Path(sub.directory) / f"job.{sub.id}.{kind}").read_text()


def read(sub: Submission, name: str) -> str:
    path = Path(sub.directory) / name
    return until(lambda: path.exists() and path.read_text(), str(path))


def test_members_of_an_array_are_jobs_of_their_own(make: Make) -> None:
    commands = ["echo well", "exit 3", "kill -KILL $$", "echo late; sleep 600"]
    subs = [make(f"job{i}", f"echo member {i}; echo to stderr >&2; {text}") for i, text in enumerate(commands)]
    queue = Slurm(None)
    ids = submit(queue, subs)
    array = ids[0].partition("_")[0]
    assert ids == [f"{array}_{i}" for i in range(4)]
    assert queue.find([sub.token for sub in subs], str(Path(subs[0].directory).parent)) == {
        sub.token: id for sub, id in zip(subs, ids, strict=True)
    }
    until(lambda: "late" in read(subs[3], f"job.{subs[3].id}.stdout"), "the last member")
    queue.cancel(ids[3])
    ends = ended(queue, ids)
    assert [(ends[id].reason, ends[id].exit_code) for id in ids[:3]] == [
        (states.END_COMPLETED, 0),
        (states.END_DIED, 3),
        (states.END_DIED, 137),
    ]
    assert ends[ids[3]].reason == states.END_CANCELLED
    assert [output(sub).splitlines()[0] for sub in subs] == [f"member {i}" for i in range(4)]
    # what Slurm itself says is with the job as well
    until(lambda: "CANCELLED AT" in output(subs[3], "stderr"), "Slurm's message")
    assert [read(sub, "_expyre_queue_id").strip() for sub in subs] == ids
    listings = queue.listing(ids)
    assert [listings[id].state for id in ids] == ["done", "failed", "failed", "done"]


def test_names_may_hold_anything(make: Make, tmp_path: Path) -> None:
    odd = ["a b", "q'\"$(touch OWNED)`x`", "%j_%a%%", "n\nl\n#SBATCH --time=9", "é=+;&&|<>*?[]{}", "-x", " "]
    maker = _maker(tmp_path / "pl'a ce%j \\$HOME")
    subs = [*(maker(id, "pwd") for id in odd), maker("other", "pwd", max_time=240)]
    queue = Slurm(None)
    ids = submit(queue, subs)
    assert {end.reason for end in ended(queue, ids).values()} == {states.END_COMPLETED}
    assert [output(sub) for sub in subs] == [f"{sub.directory}\n" for sub in subs]
    plain = [make(id, "pwd", max_time=60 * n) for n, id in enumerate([*odd, "plain"], 5)]
    ids = submit(queue, plain)
    assert {end.reason for end in ended(queue, ids).values()} == {states.END_COMPLETED}
    assert [output(sub) for sub in plain] == [f"{sub.directory}\n" for sub in plain]
    assert not list(tmp_path.rglob("OWNED"))


def test_resources_are_asked_for(make: Make) -> None:
    header = ("#SBATCH --partition={partition} --nodes={num_nodes} --ntasks-per-node=2 --cpus-per-task=2",)
    nodes = {"num_nodes": 2, "num_cores": 8, "num_cores_per_node": 4, "num_gpus": 2, "max_mem": 4_000_000}
    show = "echo $EXPYRE_NUM_NODES $EXPYRE_NUM_CORES_PER_NODE $EXPYRE_NUM_CORES $EXPYRE_MAX_TIME $CUDA_VISIBLE_DEVICES"
    memory = "scontrol show job $SLURM_JOB_ID | grep -o 'MinMemoryNode=[^ ]*'; umask"
    sub = make("big", f"{show}; {memory}", header=header, nodes=nodes)
    old = os.umask(0o027)
    try:
        [id] = submit(Slurm(None), [sub])
    finally:
        os.umask(old)
    assert ended(Slurm(None), [id])[id].reason == states.END_COMPLETED
    assert output(sub) == "2 4 8 300 0,1\nMinMemoryNode=1954M\n0027\n"


def test_jobs_are_held_released_and_cancelled(make: Make) -> None:
    queue = Slurm(None)
    ids = submit(queue, [make(f"job{i}", "sleep 600", header=(LATER,)) for i in range(3)])
    [alone] = submit(queue, [make("alone", "sleep 600", header=(LATER, "#SBATCH --nice=1"))])
    queue.hold([ids[0], alone])
    assert list(queue.status([*ids, alone]).values()) == ["held", "queued", "queued", "held"]
    why = queue.why_pending([*ids, alone])
    assert "xpr release" in why[ids[0]]
    until(lambda: queue.why_pending(ids).get(ids[1]) == "BeginTime", "the reason")
    queue.release([ids[0], alone])
    assert set(queue.status([*ids, alone]).values()) == {"queued"}
    queue.cancel(ids[1])
    state_is(queue, ids[1], "done")
    queue.cancel([*ids, alone, "99999999"])
    assert {end.reason for end in ended(queue, [*ids, alone]).values()} == {states.END_CANCELLED}
    queue.cancel([])
    queue.cancel(ids)
    with pytest.raises(SchedulerError, match="scontrol hold"):
        queue.hold([ids[0], alone])


def test_one_job_through_all_its_states(slurm_env: SlurmCluster, tmp_path: Path) -> None:
    queue = Slurm(None)
    work = tmp_path / "work"
    work.mkdir()
    nodes = {"num_nodes": 1, "num_cores": 1, "num_cores_per_node": 1}
    header = ["#SBATCH --partition={partition}", "#SBATCH --hold"]
    id = queue.submit("one", work, "normal", ["pwd", "sleep 600"], 600, header, nodes)
    assert queue.status(id) == {id: "held"}
    queue.release(id)
    state_is(queue, id, "running")
    stdout = work / "job.one.stdout"
    until(lambda: stdout.exists() and stdout.read_text() == f"{work}\n", "the output")
    queue.cancel(id)
    state_is(queue, id, "done")
    (tmp_path / "second").mkdir()
    with pytest.raises(SubmitFailed, match="invalid partition"):
        queue.submit("two", tmp_path / "second", "nowhere", [], 600, header, nodes)


def test_why_jobs_never_start(make: Make) -> None:
    queue = Slurm(None)
    [failed] = submit(queue, [make("failed", "exit 1")])
    ended(queue, [failed])
    subs = [
        make("after", header=(f"#SBATCH --dependency=afterok:{failed}",)),
        make("huge", header=("#SBATCH -N 2 -w node1",)),
    ]
    [after, _] = submit(queue, subs)
    until(lambda: "never starts" in queue.why_pending([after]).get(after, ""), "the reason")


def test_a_job_that_submits_leaves_nothing_of_itself(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CPUS_PER_TASK", "SBATCH_TIMELIMIT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "1-3")
    monkeypatch.setenv("EXPYRE_MAX_TIME", "7")
    sub = make("inner", "echo $EXPYRE_NUM_CORES_PER_NODE [$EXPYRE_MAX_TIME]", max_time=None)
    queue = Slurm(None)
    [id] = submit(queue, [sub])
    assert id.isdigit()
    ended(queue, [id])
    assert output(sub) == "1 []\n"
    assert read(sub, "_expyre_queue_id") == f"{id}\n"


def test_limits_and_caps_hold(make: Make, slurm_env: SlurmCluster) -> None:
    queue = Slurm(None, options={"max_running": 1})
    asked = queue.limits()
    assert asked.array_size is not None
    assert asked.array_size > 1
    assert queue.limits() is asked
    queue._limits = Limits(3)  # type: ignore[misc]
    ids = submit(queue, [make(f"job{i}", "sleep 600") for i in range(4)])
    assert len({id.partition("_")[0] for id in ids}) == 2
    state_is(queue, ids[0], "running")
    assert "JobArrayTaskLimit" in until(lambda: queue.why_pending(ids).get(ids[2]), "the reason")


def test_a_node_that_fails_is_named(make: Make, slurm_env: SlurmCluster) -> None:
    queue = Slurm(None)
    [id] = submit(queue, [make("victim", "sleep 600", header=("#SBATCH --no-requeue -w node2",))])
    state_is(queue, id, "running")
    slurm_env.set_node_down("node2")
    assert ended(queue, [id])[id].reason == states.END_NODE_FAILED
    slurm_env.set_node_up("node2")


def test_a_requeued_and_a_suspended_job_live_on(make: Make, slurm_env: SlurmCluster) -> None:
    queue = Slurm(None)
    sub = make("again", "echo once >>times; sleep 600")
    [id] = submit(queue, [sub])
    read(sub, "times")
    slurm_env.run("scontrol", "suspend", id)
    assert queue.status(id) == {id: "running"}
    assert queue.explain([id]) == {}
    slurm_env.run("scontrol", "resume", id)
    slurm_env.run("scontrol", "requeue", id)
    until(lambda: queue.status(id)[id] in ("queued", "held"), "requeued")
    assert queue.explain([id]) == {}


# -- killed submissions ------------------------------------------------------------------------------------------

_SUBMITTER = """
import sys
from expyre.schedulers import Slurm, Submission
queue = Slurm(None)
queue.limits()
sys.stdout.write("ready")
sys.stdout.flush()
sys.stdin.read(1)
queue.submit_many({subs!r})
sys.stdout.write("done")
"""


def _killed(subs: Sequence[Submission], delay: float, shell_too: bool) -> None:
    command = [sys.executable, "-c", _SUBMITTER.format(subs=list(subs))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdin
    assert process.stdout
    process.stdout.read(5)
    process.stdin.write(b"x")
    process.stdin.flush()
    time.sleep(delay)
    process.kill()
    if shell_too:
        for path in Path(subs[0].directory).parent.glob("_expyre_submit/*/pid"):
            try:
                os.killpg(int(path.read_text().split()[1]), signal.SIGKILL)
            except (ProcessLookupError, IndexError):
                continue
    process.communicate()


@pytest.mark.parametrize("shell_too", [False, True], ids=["client", "shell"])
def test_jobs_of_a_killed_process_are_in_the_queue_once(
    make: Make, slurm_env: SlurmCluster, tmp_path: Path, shell_too: bool
) -> None:
    for trial in range(5):
        maker = _maker(tmp_path / str(trial))
        subs = [maker(f"a{i}", header=(LATER,)) for i in range(3)]
        subs.append(maker("alone", header=(LATER,), max_time=240))
        _killed(subs, random.uniform(0, 0.12), shell_too)
        queue = Slurm(None)
        queue.settle_time = 1.0  # type: ignore[misc]
        found = queue.find([sub.token for sub in subs], str(tmp_path / str(trial)))
        rest = [sub for sub in subs if sub.token not in found]
        ids = [*found.values(), *(submit(queue, rest) if rest else [])]
        assert sorted(ids) == sorted(slurm_env.jobs()), f"trial {trial}: {found}"
        slurm_env.scancel_all()


@pytest.mark.slow  # Slurm's commands try for half a minute
@pytest.mark.timeout(240)
def test_while_the_controller_is_away_nothing_is_decided(make: Make, slurm_env: SlurmCluster) -> None:
    queue = Slurm(None)
    first, second = make("first", "sleep 600"), make("second", "sleep 600")
    ids = submit(queue, [first])
    slurm_env.stop_controller()
    with pytest.raises(SchedulerError):
        queue.listing(ids)
    with pytest.raises((SchedulerError, TransportError)):
        queue.submit_many([second])
    slurm_env.start_controller()
    found = queue.find([first.token, second.token], str(Path(first.directory).parent))
    assert found[first.token] == ids[0]
    rest = [sub for sub in (second,) if sub.token not in found]
    both = [*found.values(), *(submit(queue, rest) if rest else [])]
    assert sorted(slurm_env.jobs()) == sorted(both)
    assert set(queue.status(ids).values()) <= {"running", "queued"}


def test_accounting_tells_what_the_queue_has_forgotten(
    slurm_accounting: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm_accounting.env().items():
        monkeypatch.setenv(name, value)
    maker, queue = _maker(tmp_path / "place"), Slurm(None)
    greedy = "python3 -c 'x = b\"x\" * 400_000_000; import time; time.sleep(60)'"
    subs = [maker("bad", "exit 5"), maker("slow", "sleep 600"), maker("greedy", greedy, nodes={"max_mem": 51200})]
    ids = submit(queue, subs)
    state_is(queue, ids[1], "running")
    queue.cancel(ids[1])
    ended(queue, ids)
    plain = queue._asked
    monkeypatch.setattr(queue, "_asked", lambda script: plain(script.replace("ask squeue squeue", "ask squeue false")))
    ends = until(lambda: (e := queue.explain(ids)).keys() == set(ids) and e, "the accounts")
    assert [ends[id].reason for id in ids] == [states.END_DIED, states.END_CANCELLED, states.END_OUT_OF_MEMORY], ends
    assert ends[ids[0]].exit_code == 5
    assert f"by {os.getuid()}" in ends[ids[1]].detail


@pytest.mark.slow  # a Slurm of its own, with accounting
def test_limits_and_forgotten_jobs_are_found_in_the_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := SlurmCluster.missing(accounting=True):
        pytest.skip(reason)
    settings = {"AccountingStorageEnforce": "associations,limits,qos", "MinJobAge": 2}
    with running_slurm(accounting=True, settings=settings) as cluster:
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        maker, queue = _maker(tmp_path / "place"), Slurm(None)
        subs = [*(maker(f"job{i}") for i in range(3)), maker("alone", max_time=240)]
        ids = submit(queue, subs)
        until(lambda: not cluster.run("squeue", "--noheader", "--states=all").strip(), "their purge")
        for pattern in ("_expyre_submit/*/*/answer", "_expyre_submit/*/*/status", "*/_expyre_queue_id"):
            for path in (tmp_path / "place").glob(pattern):
                path.unlink()
        found = Slurm(None).find([sub.token for sub in subs], str(tmp_path / "place"))
        assert [found[sub.token] for sub in subs] == ids
        assert {end.reason for end in queue.explain(ids).values()} == {states.END_COMPLETED}
        cluster.run("sacctmgr", "-i", "modify", "user", pwd.getpwuid(os.getuid()).pw_name, "set", "maxsubmitjobs=5")
        assert Slurm(None).limits().submitted == 5
        queue._limits = Limits(1000)  # type: ignore[misc]
        answers = queue.submit_many([maker(f"more{i}", header=(LATER,)) for i in range(9)])
        assert len(cluster.jobs()) == sum(isinstance(answer, str) for answer in answers.values()) > 2
        assert sum(isinstance(answer, QueueFull) for answer in answers.values()) >= 4
        cluster.scancel_all()
