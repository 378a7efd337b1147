"""The record under many writers: processes, threads, forks, and writers that are killed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from expyre import states
from expyre.jobsdb import Change, JobsDB, NewJob
from expyre.owners import owner_token

WORKERS = 3
FILES = itertools.count()
JOURNALS = ["wal", "truncate"]
LIVE = set(states.GROUPS["can_produce_results"])


# one writer after the other, through different doors, against a plain dict


class RecordMachine(RuleBasedStateMachine):
    """Three doors to one file (two records and a plain SQLite client) against a dict of statuses and keys."""

    jobs = Bundle("jobs")
    statuses = st.sampled_from(states.STATUSES)
    doors = st.sampled_from([0, 1])

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.unlocked = False
        self.model: dict[str, tuple[str, str]] = {}  # id -> (status, key), in order of creation

    @initialize()
    def open(self) -> None:
        self.path = Path(os.environ["EXPYRE_TEST_FOLDER"]) / f"machine{next(FILES)}.db"
        self.doors_ = [JobsDB(self.path), JobsDB(self.path)]
        self.plain = sqlite3.connect(self.path, isolation_level=None)

    def teardown(self) -> None:
        for door in (*self.doors_, self.plain):
            door.close()
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()

    def owner(self, key: str) -> str | None:
        return next((id for id, (status, own) in self.model.items() if own == key and status in LIVE), None)

    @rule(target=jobs, door=doors, keys=st.lists(st.sampled_from("xyz"), min_size=1, max_size=4), status=statuses)
    def insert(self, door: int, keys: list[str], status: str) -> Any:
        rows = [NewJob(f"j{next(self.numbers)}", "n", "/", "s", key, status=status) for key in keys]
        expected = {}
        for row in rows:
            owner = self.owner(str(row.key))
            expected[row.id] = owner or row.id
            if owner is None:
                self.model[row.id] = (status, str(row.key))
        assert self.doors_[door].insert_jobs(rows) == expected
        return multiple(*{id for id in expected.values() if id == expected.get(id)})

    @rule(door=doors, id=jobs, status=statuses, expect=st.none() | st.lists(statuses).map(tuple), force=st.booleans())
    def step(self, door: int, id: str, status: str, expect: tuple[str, ...] | None, force: bool) -> None:
        changed = self.doors_[door].step([Change(id, status, expect=expect)], force=force)
        if id not in self.model:
            assert changed == set()
            return
        old, key = self.model[id]
        allowed = (force or status in states.STEPS[old]) and (expect is None or old in expect) and status != old
        assert changed == ({id} if allowed else set())
        if allowed:
            self.model[id] = (status, key)

    @rule(id=jobs, status=statuses)
    def older_program_updates(self, id: str, status: str) -> None:
        self.plain.execute("UPDATE jobs SET status = ? WHERE id = ?", (status, id))
        if id in self.model:
            self.model[id] = (status, self.model[id][1])

    @rule(id=consumes(jobs), door=st.sampled_from([0, 1, 2]))
    def remove(self, id: str, door: int) -> None:
        if self.model.pop(id, None) is None:
            return
        if door == 2:
            self.plain.execute("DELETE FROM jobs WHERE id = ?", (id,))
        else:
            self.doors_[door].remove(id)

    @precondition(lambda self: not self.unlocked)
    @rule(door=doors)
    def unlock(self, door: int) -> None:
        self.unlocked = True
        self.plain.close()
        self.doors_[door].unlock()
        self.plain = sqlite3.connect(self.path, isolation_level=None)

    @invariant()
    def all_doors_see_the_model(self) -> None:
        for door in self.doors_:
            assert {row.id: row.status for row in door.query()} == {id: s for id, (s, _) in self.model.items()}
            assert sum(door.counts().values()) == len(self.model)
            found = door.find_live([("s", key) for key in "xyz"])
            assert {key: row.id for (_, key), row in found.items()} == {
                key: owner for key in "xyz" if (owner := self.owner(key)) is not None
            }
        ongoing = [id for id, (status, _) in self.model.items() if status in states.GROUPS["ongoing"]]
        assert [row["id"] for row in self.doors_[0].jobs(status="ongoing")] == ongoing
        assert self.plain.execute("SELECT count(*) FROM details").fetchone()[0] == len(self.model)


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["EXPYRE_TEST_FOLDER"] = str(tmp_path_factory.mktemp("machines"))
    yield
    del os.environ["EXPYRE_TEST_FOLDER"]


TestRecordMachine = RecordMachine.TestCase
TestRecordMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


# several processes at the same time


def perform(path: str, worker: int, program: list[tuple[Any, ...]], gate: Any) -> list[Any]:
    """Do a program of inserts, steps and claims as soon as all workers are ready; return what was answered."""
    answers: list[Any] = []
    with JobsDB(path) as db:
        owner = f"{owner_token()}:{worker}"
        gate.wait(30)
        for number, (what, *arguments) in enumerate(program):
            note = f"{worker}.{number}"
            if what == "insert":
                rows = [NewJob(f"{note}.{key}", "n", "/", "s", key) for key in arguments[0]]
                answers.append(db.insert_jobs(rows))
            elif what == "step":
                ids, status = arguments
                answers.append(sorted(db.step([Change(id, status, note=note) for id in ids])))
            else:
                answers.append(db.claim_submission(arguments[0], dict.fromkeys(arguments[0], note), owner))
    return answers


@pytest.fixture(scope="module")
def team() -> Iterator[Any]:
    """Yield a function that lets several processes work on one file and gathers their answers."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(WORKERS) as pool:

        def work(path: Path, programs: list[list[tuple[Any, ...]]]) -> list[list[Any]]:
            gate = manager.Barrier(len(programs))
            jobs = [(str(path), worker, program, gate) for worker, program in enumerate(programs)]
            return pool.starmap(perform, jobs, chunksize=1)

        yield work


IDS = [f"job{i}" for i in range(4)]
some_ids = st.lists(st.sampled_from(IDS), unique=True, min_size=1)
operations = st.one_of(
    st.tuples(st.just("insert"), st.lists(st.sampled_from("xyz"), unique=True, min_size=1)),
    st.tuples(st.just("step"), some_ids, st.sampled_from(states.STATUSES)),
    st.tuples(st.just("claim"), some_ids),
)
programs = st.lists(st.lists(operations, min_size=1, max_size=8), min_size=WORKERS, max_size=WORKERS)


@pytest.mark.parametrize("mode", JOURNALS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(work=programs)
def test_nothing_is_lost_and_nothing_happens_twice(
    team: Any, tmp_path: Path, mode: str, work: list[list[tuple[Any, ...]]]
) -> None:
    path = tmp_path / f"jobs{next(FILES)}.db"
    with JobsDB(path) as db:
        if mode != "wal":
            db.db.execute("PRAGMA journal_mode = truncate")
        db.insert_jobs([NewJob(id, "n", "/") for id in IDS])
        answers = team(path, work)
        check_steps(db, work, answers)
        check_claims(db, work, answers)
        check_inserts(db, work, answers)
        assert db.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def answered(work: list[Any], answers: list[Any], what: str) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    for worker, program in enumerate(work):
        for number, operation in enumerate(program):
            if operation[0] == what:
                yield f"{worker}.{number}", operation, answers[worker][number]


def check_steps(db: JobsDB, work: list[Any], answers: list[Any]) -> None:
    """Each change that was answered as made is in the history once, and each history is a path of allowed steps."""
    told = Counter((id, note) for note, _, ids in answered(work, answers, "step") for id in ids)
    kept: Counter[tuple[str, str]] = Counter()
    for id in IDS:
        lines = db.history(id)
        path = [line[1] for line in lines]
        assert path[0] == states.CREATED
        for old, new in itertools.pairwise(path):
            assert old == new or new in states.STEPS[str(old)]
        assert path[-1] == db.row(id).status
        kept.update((id, line[3]) for line in lines if line[3] is not None)
    assert told == kept


def check_claims(db: JobsDB, work: list[Any], answers: list[Any]) -> None:
    claims = [answer for _, _, answer in answered(work, answers, "claim")]
    for id in IDS:
        words = Counter(answer[id] for answer in claims if id in answer)
        backs = sum(1 for line in db.history(id)[1:] if line[1] == states.CREATED and line[2] is None)
        assert words["stale"] == 0
        assert words["claimed"] <= 1 + backs
        if words["taken"]:
            assert words["claimed"]


def check_inserts(db: JobsDB, work: list[Any], answers: list[Any]) -> None:
    owners: dict[str, set[str]] = {}
    for _, _, answer in answered(work, answers, "insert"):
        for new, owner in answer.items():
            owners.setdefault(new[-1], set()).add(owner)
    for key, found in owners.items():
        assert len(found) == 1
        assert {row.id for row in db.query(id=rf"\d.*\.{key}")} == found


@pytest.mark.parametrize("mode", JOURNALS)
def test_two_thousand_jobs_wanted_by_all_are_made_and_claimed_once(team: Any, tmp_path: Path, mode: str) -> None:
    keys = [f"k{i}" for i in range(200)]
    with JobsDB(tmp_path / "jobs.db") as db:
        db.db.execute(f"PRAGMA journal_mode = {mode}")
        db.insert_jobs([NewJob(key, "n", "/") for key in keys])
        orders = [random.Random(worker).sample(keys, len(keys)) for worker in range(WORKERS)]
        lots = [[("claim", order[i : i + 5]) for i in range(0, len(keys), 5)] for order in orders]
        words = Counter(
            (id, word) for answers in team(tmp_path / "jobs.db", lots) for a in answers for id, word in a.items()
        )
        assert all(words[key, "claimed"] == 1 and words[key, "taken"] == WORKERS - 1 for key in keys)
        lots = [[("insert", order[i : i + 5]) for i in range(0, len(keys), 5)] for order in orders]
        owners = [a for answers in team(tmp_path / "jobs.db", lots) for a in answers]
        assert len({owner for answer in owners for owner in answer.values()}) == len(keys)
        assert len(list(db.query(name="n"))) == 2 * len(keys)


# writers that are killed

HALF_WAY = """
import sys
from expyre.jobsdb import JobsDB, NewJob, inserting
db = JobsDB(sys.argv[1])
db.insert_jobs([NewJob(f"whole{i}", "n", "/", "s", f"w{i}") for i in range(10)])
with db._connections.writing() as connection:
    connection.execute("PRAGMA cache_size = 10")  # so that pages are written before the commit
    inserting.insert(connection, [NewJob(f"half{i}", "n", "/", "s", f"h{i}") for i in range(5000)], {})
    connection.execute("UPDATE jobs SET status = 'died' WHERE id LIKE 'whole%'")
    print("half way", flush=True)
    input()
"""
ON_AND_ON = """
import sys
from expyre.jobsdb import Change, JobsDB, NewJob
db = JobsDB(sys.argv[1])
for i in range(10**9):
    ids = [f"{sys.argv[2]}.{i}.{k}" for k in range(10)]
    rows = [NewJob(id, "n", "/", "s", id, parts_json="x" * 500) for id in ids]
    db.insert_jobs(rows)
    db.step([Change(row.id, "submitted", details={"token": "t"}) for row in rows])
    print(i, flush=True)
"""


@pytest.mark.parametrize("mode", JOURNALS)
def test_a_writer_killed_half_way_leaves_the_record_as_it_was(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_DB_JOURNAL", mode)
    path = tmp_path / "jobs.db"
    with subprocess.Popen([sys.executable, "-c", HALF_WAY, str(path)], stdin=-1, stdout=-1) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half way\n"
        writer.kill()
    with JobsDB(path) as db:
        assert [row.id for row in db.query()] == [f"whole{i}" for i in range(10)]
        assert db.counts() == {(None, "created"): 10}
        assert db.find_live([("s", "h0")]) == {}
        assert db.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.insert_jobs([NewJob("half0", "n", "/", "s", "h0")]) == {"half0": "half0"}


@pytest.mark.parametrize("mode", JOURNALS)
def test_writers_killed_at_any_time_lose_nothing_they_had_finished(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_DB_JOURNAL", mode)
    path = tmp_path / "jobs.db"
    JobsDB(path).close()
    writers = [
        subprocess.Popen([sys.executable, "-c", ON_AND_ON, str(path), str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    finished = []
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for pause, writer in zip((0.2, 0.35), writers, strict=True):
        time.sleep(pause)
        writer.kill()
        assert writer.stdout is not None
        finished.append(int(("-1\n" + writer.stdout.read()).split()[-1]))
        writer.stdout.close()
        writer.wait()
    with JobsDB(path) as db:
        assert db.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for number, last in enumerate(finished):
            batches = Counter(row.id.rsplit(".", 1)[0] for row in db.query(id=rf"{number}\..*"))
            assert set(batches.values()) <= {10}
            done = Counter(row.id.rsplit(".", 1)[0] for row in db.query(status="submitted", id=rf"{number}\..*"))
            assert all(done[f"{number}.{i}"] == 10 for i in range(last + 1))
            assert len(batches) - len(done) <= 1
            assert len(done) - (last + 1) <= 1


# threads and forks


def test_threads_share_a_record(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        gate = threading.Barrier(8)

        def work(thread: int) -> dict[str, str]:
            gate.wait(10)
            answers: dict[str, str] = {}
            for number in range(10):
                answers.update(db.insert_jobs([NewJob(f"{thread}.{number}", "n", "/", "s", f"k{number}")]))
                db.step([Change(answers[f"{thread}.{number}"], "submitted", note="x")])
            return answers

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(work, range(8)))
        assert len({owner for answer in answers for owner in answer.values()}) == 10
        assert db.counts() == {(None, "submitted"): 10}
        assert all(Counter(line[1] for line in db.history(row.id))["submitted"] >= 1 for row in db.query())


def test_connections_of_ended_threads_are_closed(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        for _ in range(20):
            thread = threading.Thread(target=db.counts)
            thread.start()
            thread.join()
        assert len(db._connections._open) <= 3


def in_child(call: Any) -> int:
    """Run a function in a forked process that ends as any Python process does; return its exit code."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_process_uses_connections_of_its_own(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        db.add("parent", "n", "/")
        inherited = db.db

        def child() -> None:
            assert db.db is not inherited
            db.add("child", "n", "/")

        assert in_child(child) == 0
        db.add("parent again", "n", "/")
        assert [row.id for row in db.query()] == ["parent", "child", "parent again"]
        assert db.db is inherited


def test_a_fork_amid_a_transaction_leaves_it_to_the_parent(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db", busy_timeout=0.05) as db:

        def child() -> None:
            assert list(db.query()) == []
            try:
                db.add("child", "n", "/")
            except RuntimeError:
                return
            raise AssertionError("the lock of the parent did not hold")

        with db._connections.writing() as connection:
            connection.execute("INSERT INTO jobs VALUES ('a', 'a', '/', 'created', NULL, NULL, NULL, 1, NULL)")
            assert in_child(child) == 0
        assert [row.id for row in db.query()] == ["a"]


def test_processes_of_a_forking_pool_share_a_record(tmp_path: Path) -> None:
    code = f"""
import multiprocessing
from expyre.jobsdb import JobsDB, NewJob
db = JobsDB({str(tmp_path / "jobs.db")!r})
db.add("parent", "n", "/")
def work(number):
    return db.insert_jobs([NewJob(f"{{number}}", "n", "/", "s", f"k{{number % 5}}")])
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        answers = pool.map(work, range(40), chunksize=1)
    print(len(set(owner for answer in answers for owner in answer.values())), len(list(db.query())))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("5 6\n", "")


def test_a_child_that_ends_does_not_touch_the_log_of_its_parent(tmp_path: Path) -> None:
    code = f"""
import os, sys
from expyre.jobsdb import JobsDB
db = JobsDB({str(tmp_path / "jobs.db")!r})
db.add("before", "n", "/")
if os.fork() == 0:
    sys.exit()
os.wait()
assert os.path.exists(str(db.db_filename) + "-wal")
db.add("after", "n", "/")
print([row.id for row in JobsDB(db.db_filename).query()])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("['before', 'after']\n", "")


def test_a_plain_client_and_a_record_write_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    code = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=20)
for i in range(100):
    with db:
        db.execute("INSERT INTO jobs VALUES (?, 'n', '/', 'created', NULL, NULL, NULL, 1, NULL)", (f"plain{i}",))
    with db:
        db.execute("UPDATE jobs SET status = 'submitted' WHERE id = ?", (f"plain{i}",))
"""
    with JobsDB(path) as db, subprocess.Popen([sys.executable, "-c", code, str(path)]) as other:
        for i in range(100):
            db.insert_jobs([NewJob(f"ours{i}", "n", "/", "s", f"k{i}")])
        assert other.wait(60) == 0
        assert db.counts() == {(None, "created"): 100, (None, "submitted"): 100}
        with closing(sqlite3.connect(path)) as plain:
            assert plain.execute("SELECT count(*) FROM details").fetchone() == (200,)
