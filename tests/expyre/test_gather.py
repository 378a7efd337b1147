"""The watcher against queues that answer late, wrong or not at all; answers are scripted, jobs' files are real."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from expyre import gather
from expyre.config import Project
from expyre.errors import Cancelled, ExPyReTimeoutError, Lost, OutOfMemory, QueueFull, SchedulerError, TransportError
from expyre.func import Call, create_jobs, start_jobs
from expyre.gather import sync
from expyre.launch import withdraw
from expyre.owners import owner_token
from expyre.schedulers.base import Listing, Scheduler
from expyre.states import DONE, OTHER, QUEUED, RUNNING, End
from expyre.system import System

PARTITIONS = {"p": {"num_cores": 1, "max_time": None, "max_mem": None}}


class Scripted(Scheduler):
    """A queue that accepts everything and says what it was told to say, one entry for each listing."""

    name = "scripted"
    poll_range = (0.001, 0.01)

    def __init__(self, host, **_):
        super().__init__(host)
        self.answers = []
        self.ends = {}
        self.accepted = {}
        self.listed = 0
        self.refuse_once = None
        self.room = 1000
        self.submissions = []
        self.on_listing = lambda: None

    def submit_many(self, subs, pre_submit_cmds=()):
        taken = subs[: self.room]
        self.room -= len(taken)
        self.submissions.append(len(taken))
        for sub in taken:
            self.accepted.setdefault(sub.token, str(len(self.accepted)))
        if self.refuse_once is not None:
            error, self.refuse_once = self.refuse_once, None
            raise error
        full = {sub.id: QueueFull("no more") for sub in subs[len(taken) :]}
        return {sub.id: self.accepted[sub.token] for sub in taken} | full

    def find(self, tokens, place=""):
        return {token: self.accepted[token] for token in tokens if token in self.accepted}

    def listing(self, ids):
        self.listed += 1
        self.on_listing()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {i: Listing(answer) for i in ids} if answer else {}

    def explain(self, ids):
        return {i: self.ends[i] for i in ids if i in self.ends}

    def hold(self, remote_ids, verbose=False):
        raise NotImplementedError

    release = hold

    def cancel(self, remote_ids, verbose=False):
        pass

    def why_pending(self, ids):
        return {}


@pytest.fixture
def project(tmp_path):
    (tmp_path / ".expyre").mkdir()
    project = Project(stage_dir=tmp_path / ".expyre")
    project.systems = {"s": System(None, Scripted, partitions=PARTITIONS)}
    yield project
    project.close()


@pytest.fixture
def queue(project):
    return project.systems["s"].scheduler


def jobs_of(project, n=1):
    return create_jobs([Call(f"j{i}", abs, (-i,)) for i in range(n)], project)


def started(project, n=1):
    jobs = jobs_of(project, n)
    start_jobs(jobs, {"max_time": 10, "num_nodes": 1}, "s")
    return jobs


def run_here(job, status=0):
    """Do in this process what the job's script would do."""
    import subprocess
    import sys

    from expyre import stage

    text = "\n".join(stage.job_commands(job.stage_dir, sys.executable))
    done = subprocess.run(["sh"], input=text, text=True, cwd=job.stage_dir, check=False)
    assert done.returncode == status


def watch(jobs, **kwargs):
    return list(gather.as_completed(jobs, quiet=True, **{"timeout": 20, **kwargs}))


@pytest.mark.parametrize("answer", [SchedulerError("down"), "", OTHER, QUEUED, RUNNING, DONE])
def test_a_result_outranks_every_word_of_the_queue(project, queue, answer):
    [job] = started(project)
    run_here(job)
    queue.answers = [answer]
    [outcome] = watch([job])
    assert outcome.result() == 0


def test_a_queue_that_cannot_be_asked_kills_nobody(project, queue, monkeypatch):
    [job] = started(project)
    queue.answers = [SchedulerError("down")] * 30 + [RUNNING]
    [outcome] = watch([job], timeout=0.5)
    assert isinstance(outcome.error, TimeoutError)
    assert project.record.row(job.id).status == "submitted"
    assert project.record.row(job.id).unknown_since is None


def test_a_disk_that_is_away_kills_nobody(project, queue, tmp_path):
    rundir = tmp_path / "disk"
    project.systems["s"].remote_rundir = str(rundir)
    [job] = started(project)
    queue.answers = [""]
    queue.ends = {job.remote_id: End("ExPyReJobDiedError")}
    rundir.rename(tmp_path / "away")
    [outcome] = watch([job], timeout=0.3)
    assert isinstance(outcome.error, TimeoutError)
    (tmp_path / "away").rename(rundir)
    run_here(job)
    for path in job.stage_dir.iterdir():
        path.replace(rundir / job.stage_dir.name / path.name)
    assert watch([job])[0].result() == 0


class Hanging(Scripted):
    """A queue that is asked by a script, which hangs the first time."""

    asked = 0

    def listing_script(self, ids):
        self.asked += 1
        return "sleep 600" if self.asked == 1 else "true"

    def parse_listing(self, text, ids):
        return {}


def test_a_host_that_hangs_is_asked_again(project, tmp_path, monkeypatch):
    monkeypatch.setattr("expyre.system.looking._PATIENCE", 1.0)
    project.systems["s"] = System(None, Hanging, partitions=PARTITIONS, rundir=str(tmp_path / "there"))
    [job] = started(project)
    job.stage_dir, here = tmp_path / "there" / job.stage_dir.name, job.stage_dir
    run_here(job)
    job.stage_dir = here
    assert watch([job])[0].result() == 0
    assert project.systems["s"].scheduler.asked == 2


def test_a_job_that_nobody_knows_is_lost_after_its_budget_and_revived_by_a_late_result(project, queue, monkeypatch):
    [job] = started(project)
    queue.answers = [RUNNING, ""]
    late = iter([1000.0 + 7 * i for i in range(1000)])
    monkeypatch.setattr(time, "time", lambda: next(late))
    [outcome] = watch([job])
    assert isinstance(outcome.error, Lost)
    assert "xpr retry" in str(outcome.error)
    assert queue.listed > 3
    monkeypatch.undo()
    run_here(job)
    [outcome] = watch([job])
    assert outcome.result() == 0


def test_a_job_that_was_cancelled_and_left_no_trace_is_not_lost(project, queue, monkeypatch):
    [job] = started(project)
    job.cancel()
    queue.answers = [RUNNING, ""]
    late = iter([1000.0 + 3 * i for i in range(1000)])
    monkeypatch.setattr(time, "time", lambda: next(late))
    [outcome] = watch([job])
    assert isinstance(outcome.error, Cancelled)
    assert queue.listed < 12


def test_a_result_outranks_a_cancellation(project, queue):
    [job] = started(project)
    job.cancel()
    run_here(job)
    queue.answers = [""]
    [outcome] = watch([job])
    assert outcome.result() == 0
    assert project.record.row(job.id).reason is None


def test_silence_before_the_watch_began_does_not_count(project, queue):
    from expyre.jobsdb import Change

    [job] = started(project)
    project.record.step([Change(job.id, details={"unknown_since": time.time() - 1e6})])
    queue.answers = [""]
    [outcome] = watch([job], timeout=0)
    assert isinstance(outcome.error, TimeoutError)
    assert project.record.row(job.id).status == "submitted"


def test_accounting_names_the_end(project, queue):
    [job] = started(project)
    queue.answers = [DONE]
    queue.ends = {job.remote_id: End("OutOfMemory", "oom-kill", 137)}
    [outcome] = watch([job])
    assert isinstance(outcome.error, OutOfMemory)
    assert "oom-kill" in str(outcome.error)
    assert project.record.row(job.id).exit_code == 137


def test_one_listing_serves_all_jobs(project, queue):
    jobs = started(project, 50)
    for job in jobs[:5]:
        run_here(job)
    queue.answers = [RUNNING]
    before = queue.listed
    outcomes = watch(jobs, timeout=0)
    assert queue.listed == before + 1
    assert sum(outcome.error is None for outcome in outcomes) == 5


def test_a_submission_whose_answer_was_lost_is_adopted_by_the_next_run(project, queue, monkeypatch):
    """The queue takes the jobs, the connection breaks: the next attempt finds them there and submits none again."""
    monkeypatch.setenv("EXPYRE_RETRY", "1 0")
    queue.refuse_once = SchedulerError("connection lost")
    jobs = jobs_of(project, 3)
    with pytest.raises(SchedulerError):
        start_jobs(jobs, {"max_time": 10, "num_nodes": 1}, "s")
    assert [project.record.row(job.id).status for job in jobs] == ["created"] * 3
    again = started(project, 3)
    assert [job.id for job in again] == [job.id for job in jobs]
    assert sorted(job.remote_id for job in again) == ["0", "1", "2"]
    assert len(queue.accepted) == 3


@pytest.mark.parametrize("error", [SchedulerError("controller away"), TransportError("connection lost")])
def test_a_submission_whose_answer_was_lost_is_adopted_at_once(project, queue, monkeypatch, error):
    monkeypatch.setenv("EXPYRE_RETRY", "2 0")
    queue.refuse_once = error
    jobs = started(project, 3)
    assert sorted(job.remote_id for job in jobs) == ["0", "1", "2"]
    assert len(queue.accepted) == 3


def test_what_cannot_be_mended_by_trying_again_is_not_tried_again(project, queue, monkeypatch):
    monkeypatch.setenv("EXPYRE_RETRY", "5 100")
    queue.refuse_once = TransportError("the host key is not known", transient=False)
    with pytest.raises(TransportError, match="host key"):
        started(project, 3)
    queue.answers = [TransportError("the host key is not known", transient=False)]
    [job] = started(project)
    with pytest.raises(TransportError, match="host key"):
        watch([job])


def test_more_jobs_than_the_system_may_queue_are_submitted_as_room_comes(project, queue):
    project.systems["s"].max_queued = 2
    jobs = started(project, 5)
    assert [job.remote_id for job in jobs].count(None) == 3
    assert {job.row.submit_state for job in jobs if job.remote_id is None} == {"waiting"}
    in_queue = []
    queue.answers = [RUNNING]
    queue.on_listing = lambda: in_queue.append(run_submitted(jobs))
    outcomes = watch(jobs)
    assert sorted(outcome.result() for outcome in outcomes) == [0, 1, 2, 3, 4]
    assert max(in_queue) == 2


def test_jobs_that_a_full_queue_has_refused_wait(project, queue):
    queue.room = 2
    jobs = started(project, 5)
    assert [job.remote_id for job in jobs].count(None) == 3

    def make_room():
        queue.room += run_submitted(jobs)

    queue.answers = [RUNNING]
    queue.on_listing = make_room
    assert sorted(outcome.result() for outcome in watch(jobs)) == [0, 1, 2, 3, 4]


def run_submitted(jobs):
    """Run what is in the queue; return how many jobs that were."""
    rows = jobs[0].project.record.rows([job.id for job in jobs])
    todo = [job for job in jobs if rows[job.id].remote_id and rows[job.id].status in ("submitted", "started")]
    for job in todo:
        run_here(job)
    return len(todo)


def test_failed_jobs_are_tried_again_together(project, queue):
    from expyre.retry import Retry

    jobs = started(project, 3)
    ids = [job.remote_id for job in jobs]
    queue.ends = {i: End("TimedOut") for i in ids}
    queue.answers = ["", RUNNING]
    queue.submissions.clear()
    looks = iter([lambda: None])
    queue.on_listing = lambda: next(looks, lambda: run_submitted(jobs))()
    outcomes = watch(jobs, retry=Retry(1, time_factor=3))
    assert sorted(outcome.result() for outcome in outcomes) == [0, 1, 2]
    assert queue.submissions == [3]
    assert all(project.record.row(job.id).resources_dict["max_time"] == 30 for job in jobs)
    notes = " ".join(str(note) for *_, note in project.record.history(jobs[0].id))
    assert "tried again after TimedOut, with time=30" in notes


def test_whoever_waits_for_one_job_learns_of_all_jobs_of_the_system(project, queue):
    jobs = started(project, 4)
    queue.answers = [RUNNING]
    for job in jobs:
        run_here(job)
    assert [job.get_results(quiet=True)[0] for job in jobs] == [0, 1, 2, 3]
    assert queue.listed == 1


def test_whoever_waits_for_one_job_may_leave_the_others_alone(project, queue):
    jobs = started(project, 2)
    queue.answers = [RUNNING]
    for job in jobs:
        run_here(job)
    assert jobs[0].get_results(sync_all=False, quiet=True)[0] == 0
    assert project.record.row(jobs[1].id).status == "submitted"


def test_the_failures_of_others_are_theirs(project, queue):
    jobs = started(project, 3)
    queue.answers = [RUNNING, ""]
    queue.ends = {jobs[1].remote_id: End("OutOfMemory", "oom-kill", 137)}
    for job in (jobs[0], jobs[2]):
        run_here(job)
    assert jobs[0].get_results(quiet=True)[0] == 0
    with pytest.raises(OutOfMemory):
        jobs[1].get_results(quiet=True)
    assert jobs[2].get_results(quiet=True)[0] == 2


def test_trouble_with_other_jobs_is_theirs(project, queue, monkeypatch, caplog):
    jobs = started(project, 2)
    queue.answers = [RUNNING]
    for job in jobs:
        run_here(job)

    def collect(self, directories):
        if jobs[1].stage_dir in directories:
            raise TransportError("cannot read all of it", transient=False)

    monkeypatch.setattr(System, "collect", collect)
    assert jobs[0].get_results(quiet=True)[0] == 0
    assert "cannot read all of it" in caplog.text
    with pytest.raises(TransportError):
        jobs[1].get_results(quiet=True)


def test_a_failure_that_is_known_is_not_looked_for_again(project, queue):
    [job] = create_jobs([Call("root", math.sqrt, (-1.0,))], project)
    start_jobs([job], {"max_time": 10, "num_nodes": 1}, "s")
    queue.answers = [RUNNING]
    run_here(job, status=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="math domain error"):
            job.get_results(quiet=True)
    assert queue.listed == 1


def test_a_queue_is_asked_no_faster_than_it_likes(project, queue):
    queue.poll_range = (0.3, 1.0)
    [job] = started(project)
    queue.answers = [RUNNING]
    asked = []
    queue.on_listing = lambda: asked.append(time.monotonic())
    for _ in range(3):
        job.sync_remote_results_status()
    assert [later - earlier >= 0.3 for earlier, later in pairwise(asked)] == [True, True]


def test_a_look_is_good_for_all_who_want_one(project, queue):
    queue.poll_range = (300.0, 300.0)
    jobs = started(project, 8)
    queue.answers = [RUNNING]
    for job in jobs[:4]:
        with pytest.raises(ExPyReTimeoutError):
            job.get_results(timeout=0, quiet=True)
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda job: watch([job], timeout=0, others=True)[0], jobs))
    assert all(isinstance(outcome.error, ExPyReTimeoutError) for outcome in outcomes)
    assert queue.listed == 1


def test_those_who_wait_for_their_turn_share_one_look(project, queue):
    jobs = started(project, 6)
    queue.answers = [RUNNING]
    first, go_on = threading.Event(), threading.Event()

    def listing():
        first.set()
        go_on.wait(60)

    queue.on_listing = listing
    threads = [threading.Thread(target=job.sync_remote_results_status) for job in jobs]
    threads[0].start()
    assert first.wait(60)
    for thread in threads[1:]:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)  # until all of them ask, most likely
        go_on.set()
    assert queue.listed == 2


def test_a_look_that_failed_is_good_for_nobody(project, queue):
    jobs = started(project, 2)
    queue.poll_range = (0.001, 0.01)
    queue.answers = [TransportError("gone"), RUNNING]
    for job in jobs:
        job.sync_remote_results_status()
    assert [project.record.row(job.id).remote_status for job in jobs] == [RUNNING, RUNNING]


def test_a_job_that_waits_for_room_is_cancelled_and_never_submitted(project, queue):
    project.systems["s"].max_queued = 1
    jobs = started(project, 3)
    jobs[1].cancel()
    assert project.record.row(jobs[1].id).status == "died"
    queue.answers = [RUNNING]
    queue.on_listing = lambda: run_submitted([job for job in jobs if job is not jobs[1]])
    outcomes = {outcome.job.id: outcome for outcome in watch(jobs)}
    assert [outcomes[jobs[i].id].result() for i in (0, 2)] == [0, 2]
    assert isinstance(outcomes[jobs[1].id].error, Cancelled)
    assert len(queue.accepted) == 2


def test_a_job_that_is_being_submitted_is_not_taken_back(project, queue):
    project.systems["s"].max_queued = 1
    jobs = started(project, 2)
    waiting = project.record.row(jobs[1].id)
    claims = project.record.claim_submission([waiting.id], {waiting.id: "f" * 16}, owner_token())
    assert claims == {waiting.id: "claimed"}
    assert withdraw(project, [waiting], "cancelled") == set()
    row = project.record.row(waiting.id)
    assert (row.status, row.submit_state, row.token) == ("created", "submitting", "f" * 16)


def test_a_look_that_failed_has_kept_nobody_busy(project, queue):
    [job] = started(project)
    queue.answers = [TransportError("gone"), RUNNING]
    looks = []
    for count in (0, 1):
        sync(project, [job.row], looked=looks.append)
        assert len(looks) == count
