"""The record of jobs: its rows, its filters, its steps and claims."""

from __future__ import annotations

import gc
import pickle
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expyre import owners, states
from expyre.errors import JobNotFoundError
from expyre.jobsdb import Change, JobsDB, NewJob, filters
from expyre.jobsdb.connection import Connections
from expyre.owners import owner_alive, owner_token

NASTY = [
    "it's",
    'a "b"',
    "$(rm -rf x)",
    "`x`; --",
    "line\nbreak",
    "Grüße-水",
    "a+b",
    "%_%",
    "a|b",
    ".*",
    "[x]",
    "\\d",
    "",
]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[JobsDB]:
    with JobsDB(tmp_path / "jobs.db") as record:
        yield record


def new(id: str, key: str | None = None, **more: object) -> NewJob:
    return NewJob(id, f"name_{id}", "/work", "scope", key, **more)  # type: ignore[arg-type]


def ids(rows: object) -> list[str]:
    return [row["id"] if isinstance(row, dict) else row.id for row in rows]  # type: ignore[attr-defined]


# the methods that scripts know


def test_a_row_comes_back_as_it_was_added(db: JobsDB) -> None:
    before = int(time.time())
    db.add("j_1", "j", Path("/work/run_j_1"), "submitted", "cluster", "17", "queued")
    (row,) = db.jobs(readable=False)
    assert list(row) == db.columns
    assert before <= row.pop("creation_time") <= time.time()
    assert list(row.values()) == ["j_1", "j", "/work/run_j_1", "submitted", "cluster", "17", "queued", None]


def test_times_are_readable_unless_asked_otherwise(db: JobsDB) -> None:
    db.add("a", "a", "/")
    (row,) = db.jobs()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row["creation_time"])
    assert row["status_time"] is None


def test_mistakes_in_rows_are_refused(db: JobsDB) -> None:
    db.add("a", "a", "/")
    with pytest.raises(AssertionError, match="wrong"):
        db.add("b", "b", "/", status="wrong")
    with pytest.raises(ValueError, match="already has a job 'a'"):
        db.add("a", "a", "/")
    with pytest.raises(ValueError, match="no jobs 'z'"):
        db.remove("z")
    with pytest.raises(ValueError, match="no jobs 'z'"):
        db.update("z", status="died")
    with pytest.raises(AssertionError, match="wrong"):
        db.update("a", status="wrong")
    with pytest.raises(AssertionError, match="wrong"):
        list(db.jobs(status="wrong"))
    with pytest.raises(ValueError, match="not a regular expression"):
        list(db.jobs(name="("))
    with pytest.raises(sqlite3.OperationalError, match="badfield"):
        db.update("a", badfield=1)
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        db.update("a", **{"status = 'died' --": 1})
    assert ids(db.jobs()) == ["a"]


def test_an_update_sets_the_time_of_the_status_only_when_the_status_changes(db: JobsDB) -> None:
    db.add("a", "a", "/")
    db.update("a", remote_id="7")
    assert next(db.jobs(readable=False))["status_time"] is None
    db.update("a", status="submitted", status_time=5)
    db.update("a", status="submitted", remote_status="running")
    assert next(db.jobs(readable=False))["status_time"] == 5
    db.update("a", status="started")
    assert next(db.jobs(readable=False))["status_time"] > 5


def test_filters_are_regular_expressions_for_whole_strings(db: JobsDB) -> None:
    for id, name, system in (("a_1", "a", "x"), ("ab_1", "ab", None), ("b_1", "b", "y"), ("a_2", "a", "xy")):
        db.add(id, name, "/", system=system)
    assert ids(db.jobs(name="a")) == ["a_1", "a_2"]
    assert ids(db.jobs(name="a|b")) == ["a_1", "b_1", "a_2"]
    assert ids(db.jobs(id="a.*")) == ["a_1", "ab_1", "a_2"]
    assert ids(db.jobs(id=["b_1", ".*_2"])) == ["b_1", "a_2"]
    assert ids(db.jobs(system=".*")) == ["a_1", "b_1", "a_2"]
    assert ids(db.jobs(system="x", name="a")) == ["a_1"]
    assert ids(db.jobs(name=[])) == []


def test_statuses_and_groups_filter(db: JobsDB) -> None:
    for status in states.STATUSES:
        db.add(status, "n", "/", status)
    assert ids(db.jobs(status="ongoing")) == ["created", "submitted", "started"]
    assert ids(db.jobs(status=["can_produce_results", "failed"])) == [
        "created", "submitted", "started", "succeeded", "failed", "died",
    ]  # fmt: skip
    assert ids(db.jobs(status=[])) == []
    assert ids(db.query(status=["failed", "created"], newest_first=True)) == ["failed", "created"]
    with pytest.raises(ValueError, match="unknown status"):
        db.query(status="wrong")


@pytest.mark.parametrize("name", NASTY)
def test_no_name_does_harm(db: JobsDB, name: str) -> None:
    db.add(f"id {name}", name, name, system=name, remote_id=name)
    db.insert_jobs([NewJob(f"new {name}", name, name, name, f"k1:{name}", name, None, system=name)])
    db.update(f"id {name}", remote_status=name)
    assert ids(db.jobs(name=re.escape(name), system=re.escape(name))) == [f"id {name}", f"new {name}"]
    assert db.find_live([(name, f"k1:{name}")])[name, f"k1:{name}"].from_dir == name
    assert db.step([Change(f"new {name}", "submitted", system=name, details={"reason": name}, note=name)])
    assert db.row(f"new {name}").reason == name
    db.remove(f"id {name}")
    assert ids(db.query()) == [f"new {name}"]


def test_the_text_form_lists_everything(db: JobsDB) -> None:
    db.add("a", "a", "/")
    db.add("b", "b", "/")
    first, names, rule, *rows = str(db).splitlines()
    assert first == f"JobsDB {db.db_filename}"
    assert names.split() == db.columns
    assert set(rule) == {"-"}
    assert rows == [str(row) for row in db.jobs()]


def test_a_listing_may_be_worked_through_while_rows_change(db: JobsDB) -> None:
    db.insert_jobs([new(f"j{i:04d}") for i in range(1200)])
    seen = []
    for row in db.jobs(status="created"):
        seen.append(row["id"])
        if len(seen) % 100 == 0:
            db.update(row["id"], status="processed")
            db.add(f"added_{len(seen)}", "late", "/", status="died")
    assert seen == [f"j{i:04d}" for i in range(1200)]


def test_a_listing_holds_no_lock_between_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_DB_JOURNAL", "truncate")
    with (
        JobsDB(tmp_path / "jobs.db", busy_timeout=0.1) as first,
        JobsDB(tmp_path / "jobs.db", busy_timeout=0.1) as second,
    ):
        first.insert_jobs([new(f"j{i}") for i in range(1000)])
        rows = first.query()
        next(rows)
        second.add("other", "n", "/")
        assert len(list(rows)) == 1000


def test_a_record_is_pickled_by_its_file(db: JobsDB) -> None:
    db.add("a", "a", "/")
    with pickle.loads(pickle.dumps(db)) as other:
        assert ids(other.jobs()) == ["a"]


# filters in SQL

LETTERS = "ab+.*|()[]\\?{}^$1,-_é\n"


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@given(st.text(LETTERS, max_size=8), st.lists(st.text(LETTERS, max_size=8), max_size=8))
def test_the_literal_prefix_of_a_pattern_is_one(pattern: str, values: list[str]) -> None:
    try:
        regex = re.compile(pattern, re.DOTALL)
    except re.error:
        return
    prefix, rest = filters.literal_prefix(pattern)
    for value in (*values, prefix, pattern):
        if regex.fullmatch(value):
            assert value.startswith(prefix)
            assert rest or value == prefix
        elif not rest:
            assert value != prefix


@given(st.text(LETTERS, max_size=6))
def test_an_escaped_text_is_looked_up_in_the_index(text: str) -> None:
    if "|" not in text:
        assert filters.literal_prefix(re.escape(text)) == (text, "")


@given(st.text(min_size=1, max_size=4).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)), st.text())
def test_prefix_ranges_agree_with_the_regular_expression(prefix: str, tail: str) -> None:
    end = filters._successor(prefix)
    if end is not None:
        both = [text.encode(errors="surrogatepass") for text in (prefix, prefix + tail, end)]
        assert both[0] <= both[1] < both[2]


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(LETTERS, max_size=4), unique=True, max_size=6), st.text(LETTERS, max_size=5))
def test_a_query_finds_what_python_finds(names: list[str], pattern: str) -> None:
    try:
        regex = re.compile(pattern, re.DOTALL)
    except re.error:
        return
    expected = [name for name in names if regex.fullmatch(name)]
    with JobsDB(_SHARED[0]) as db:
        db.db.execute("DELETE FROM jobs")
        db.insert_jobs([NewJob(f"{i}", name, "/") for i, name in enumerate(names)])
        assert [row.name for row in db.query(name=pattern)] == expected
        assert [row.name for row in db.query(name=pattern, status="ongoing", newest_first=True)] == expected[::-1]


_SHARED: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def _file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    _SHARED.append(tmp_path_factory.mktemp("shared") / "jobs.db")
    yield
    _SHARED.clear()


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 1, 499, 500, 501, 1000, 5000])
def test_pages_join_without_seam(db: JobsDB, limit: int | None, newest_first: bool) -> None:
    rows = [new(f"j{i:04d}", status=states.STATUSES[i % 3]) for i in range(1100)]
    db.insert_jobs(rows)
    expected = [row.id for row in (rows[::-1] if newest_first else rows)][:limit]
    for chosen in ({}, {"status": "ongoing"}, {"id": "j.*"}, {"id": "j.*", "status": "ongoing"}, {"name": ".*"}):
        assert ids(db.query(limit=limit, newest_first=newest_first, **chosen)) == expected  # type: ignore[arg-type]


# jobs by what they compute


def test_one_live_job_of_a_scope_and_key(db: JobsDB) -> None:
    assert db.insert_jobs([new("a", "k1:x"), new("b", "k1:x"), new("c", "k1:y")]) == {"a": "a", "b": "a", "c": "c"}
    assert db.insert_jobs([new("d", "k1:x"), NewJob("e", "n", "/", "other", "k1:x")]) == {"d": "a", "e": "e"}
    assert ids(db.query()) == ["a", "c", "e"]
    assert {pair: row.id for pair, row in db.find_live([("scope", "k1:x"), ("scope", "k1:z")]).items()} == {
        ("scope", "k1:x"): "a"
    }


def test_jobs_without_a_key_are_never_the_same(db: JobsDB) -> None:
    assert db.insert_jobs([new("a"), new("b")]) == {"a": "a", "b": "b"}


@pytest.mark.parametrize("status", states.STATUSES)
def test_a_job_is_found_while_it_can_produce_results(db: JobsDB, status: str) -> None:
    db.insert_jobs([new("a", "k1:x")])
    db.update("a", status=status)
    live = status in states.GROUPS["can_produce_results"]
    assert bool(db.find_live([("scope", "k1:x")])) == live
    assert db.insert_jobs([new("b", "k1:x")]) == {"b": "a" if live else "b"}


def test_mistakes_in_new_jobs_insert_nothing(db: JobsDB) -> None:
    db.add("a", "a", "/")
    with pytest.raises(ValueError, match="already has a job 'a'"):
        db.insert_jobs([new("z"), new("a")])
    with pytest.raises(ValueError, match=r"y: unknown status 'wrong'; x: comes 2 times"):
        db.insert_jobs([new("y", status="wrong"), new("x"), new("x")])
    assert ids(db.query()) == ["a"]
    assert db.insert_jobs([]) == {}


def test_details_of_new_jobs_are_kept(db: JobsDB) -> None:
    job = new("a", "k1:x", func="m.f", hmac_key=b"\0key", resources={"max_time": "1h"}, num_cores=4, partition="p")
    db.insert_jobs([job])
    row = db.row("a")
    assert (row.func, row.hmac_key, row.resources_dict, row.num_cores, row.partition) == (
        "m.f", b"\0key", {"max_time": "1h"}, 4, "p",
    )  # fmt: skip
    assert row.t_created == pytest.approx(time.time(), abs=60)
    with pytest.raises(JobNotFoundError, match="no job 'z'"):
        db.row("z")
    assert list(db.rows(["z", "a"])) == ["a"]


def test_a_removed_job_leaves_nothing(db: JobsDB) -> None:
    db.insert_jobs([new("a", "k1:x", parts_json="{}")])
    db.step([Change("a", "submitted", note="x")])
    db.remove("a")
    for table in ("jobs", "details", "parts", "history", "live"):
        assert db.db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert db.insert_jobs([new("a", "k1:x")]) == {"a": "a"}


# steps


def test_a_step_is_made_once(db: JobsDB) -> None:
    db.insert_jobs([new("a"), new("b")])
    changes = [Change("a", "submitted", remote_id="7", system="s"), Change("b", "submitted"), Change("zz", "died")]
    assert db.step(changes) == {"a", "b"}
    assert db.step(changes[1:]) == set()
    assert db.step([Change("a", "processed", expect=("created", "started"))]) == set()
    assert db.step([Change("a", "processed", expect=("submitted",), details={"num_cores": 2})]) == {"a"}
    row = db.row("a")
    assert (row.status, row.remote_id, row.system, row.num_cores) == ("processed", "7", "s", 2)
    assert db.step([]) == set()


def test_steps_keep_to_the_table_unless_forced(db: JobsDB) -> None:
    for old in states.STATUSES:
        for new_status in states.STATUSES:
            id = f"{old}->{new_status}"
            db.add(id, "n", "/", old)
            allowed = new_status in states.STEPS[old]
            assert db.step([Change(id, new_status)]) == ({id} if allowed else set())
            if old != new_status and not allowed:
                assert db.step([Change(id, new_status)], force=True) == {id}
            assert db.row(id).status == new_status


def test_several_changes_of_one_job_are_made_in_order(db: JobsDB) -> None:
    db.insert_jobs([new("a")])
    changes = [
        Change("a", remote_status="queued"),
        Change("a", "submitted", remote_id="1"),
        Change("a", remote_id="2", remote_status="running"),
        Change("a", "started", expect=("submitted",)),
    ]
    assert db.step(changes) == {"a"}
    row = db.row("a")
    assert (row.status, row.remote_id, row.remote_status) == ("started", "2", "running")


def test_the_time_of_the_status_moves_only_with_the_status(db: JobsDB) -> None:
    db.insert_jobs([new("a")])
    db.step([Change("a", "submitted")])
    db.db.execute("UPDATE jobs SET status_time = 5")
    db.step([Change("a", "submitted", remote_status="running")])
    assert db.row("a").status_time == 5
    db.step([Change("a", "started")])
    assert db.row("a").status_time == pytest.approx(time.time(), abs=60)


def test_mistakes_in_changes_change_nothing(db: JobsDB) -> None:
    db.insert_jobs([new("a")])
    with pytest.raises(ValueError, match=r"a: unknown status 'wrong'; a: unknown fields bad, worse"):
        db.step([Change("a", "submitted"), Change("a", "wrong", details={"worse": 1, "bad": 1})])
    assert db.row("a").status == "created"


def test_the_history_tells_what_happened(db: JobsDB) -> None:
    db.insert_jobs([new("a")])
    db.step([Change("a", note="seen")])
    db.step([Change("a", "submitted", remote_status="queued", note="to cluster")])
    db.step([Change("a", remote_status="running")])
    db.update("a", status="started")
    db.step([Change("a", details={"exit_code": 1})])
    lines = [line[1:] for line in db.history("a")]
    assert lines == [
        ("created", None, None),
        ("created", None, "seen"),
        ("submitted", "queued", "to cluster"),
        ("submitted", "running", None),
        ("started", "running", None),
    ]
    times = [line[0] for line in db.history("a")]
    assert times == sorted(times) or max(times) - min(times) < 5
    assert db.history("z") == []


def test_times_of_a_job_are_filled_in(db: JobsDB) -> None:
    db.insert_jobs([new("a")])
    db.step([Change("a", "submitted")])
    row = db.row("a")
    assert row.submit_state == "submitted"
    assert row.t_submitted == pytest.approx(time.time(), abs=60)
    db.step([Change("a", "started", details={"t_started": 1.0})])
    db.step([Change("a", "died")])
    row = db.row("a")
    assert row.t_started == 1.0
    assert row.t_ended == pytest.approx(time.time(), abs=60)
    db.step([Change("a", "submitted")])
    row = db.row("a")
    assert (row.t_started, row.t_ended) == (None, None)


def test_counts(db: JobsDB) -> None:
    for id, system, status in (("a", None, "created"), ("b", "s", "died"), ("c", "s", "died"), ("d", "s", "failed")):
        db.add(id, "n", "/", status, system)
    assert db.counts() == {(None, "created"): 1, ("s", "died"): 2, ("s", "failed"): 1}


# claims

HERE = owner_token()
DEAD = ":".join([*HERE.split(":")[:2], "4194303", "12345"])
ELSEWHERE = "otherhost:boot:1:2"


def test_one_owner_claims_and_the_others_hear_of_it(db: JobsDB) -> None:
    db.insert_jobs([new("a"), new("b")])
    db.step([Change("b", "submitted")])
    tokens = {"a": "token-a", "b": "token-b"}
    assert db.claim_submission(["a", "b"], tokens, HERE) == {"a": "claimed", "b": "submitted"}
    assert db.claim_submission(["a"], {"a": "another"}, ELSEWHERE) == {"a": "taken"}
    row = db.row("a")
    assert (row.token, row.owner, row.submit_state, row.status) == ("token-a", HERE, "submitting", "created")
    db.step([Change("a", "submitted", remote_id="1")])
    row = db.row("a")
    assert (row.token, row.owner, row.submit_state) == ("token-a", None, "submitted")
    assert db.claim_submission(["a"], {"a": "another"}, ELSEWHERE) == {"a": "submitted"}


def test_a_stale_claim_changes_hands_but_keeps_its_token(db: JobsDB) -> None:
    db.insert_jobs([new("a")])
    assert db.claim_submission(["a"], {"a": "first"}, DEAD) == {"a": "claimed"}
    assert db.claim_submission(["a"], {"a": "second"}, HERE) == {"a": "stale"}
    assert (db.row("a").token, db.row("a").owner) == ("first", HERE)
    assert db.claim_submission(["a"], {"a": "third"}, ELSEWHERE) == {"a": "taken"}


def test_a_claim_from_another_machine_lives_while_it_is_renewed(db: JobsDB) -> None:
    db.insert_jobs([new("a")])
    db.claim_submission(["a"], {"a": "first"}, ELSEWHERE)
    db.db.execute("UPDATE details SET t_claimed = t_claimed - 601")
    assert db.renew_submission(["a"], ELSEWHERE) == {"a"}
    assert db.claim_submission(["a"], {"a": "second"}, HERE) == {"a": "taken"}
    db.db.execute("UPDATE details SET t_claimed = t_claimed - 601")
    assert db.claim_submission(["a"], {"a": "second"}, HERE) == {"a": "stale"}
    assert db.renew_submission(["a"], ELSEWHERE) == set()
    assert db.renew_submission(["a"], HERE) == {"a"}


def test_a_released_claim_is_free_and_one_in_doubt_is_stale(db: JobsDB) -> None:
    db.insert_jobs([new("a"), new("b")])
    db.claim_submission(["a", "b"], {"a": "1", "b": "2"}, HERE)
    db.release_submission(["a", "b"], owner=ELSEWHERE)
    assert db.claim_submission(["a", "b"], {"a": "3", "b": "4"}, HERE) == {"a": "taken", "b": "taken"}
    db.release_submission(["a"])
    db.release_submission(["b"], owner=HERE, in_doubt=True)
    assert db.claim_submission(["a", "b"], {"a": "3", "b": "4"}, HERE) == {"a": "claimed", "b": "stale"}
    assert (db.row("a").token, db.row("b").token) == ("3", "2")


def test_claims_may_expect_other_statuses(db: JobsDB) -> None:
    db.add("a", "a", "/", "died")
    assert db.claim_submission(["a"], {"a": "1"}, HERE) == {"a": "submitted"}
    assert db.claim_submission(["a"], {"a": "1"}, HERE, expect=["died"]) == {"a": "claimed"}
    with pytest.raises(JobNotFoundError, match="no job 'y', 'z'"):
        db.claim_submission(["a", "y", "z"], {"a": "1", "y": "2", "z": "3"}, HERE)


def test_owners_are_looked_up() -> None:
    assert len(HERE.split(":")) == 4
    assert owner_alive(HERE)
    assert not owner_alive(DEAD)
    host, boot, pid, start = HERE.split(":")
    assert not owner_alive(f"{host}:{boot}:{pid}:{int(start) - 1}")
    earlier = "0" * len(boot.split(".")[0]) + "." + boot.split(".")[1]
    assert not owner_alive(f"{host}:{earlier}:{pid}:{start}")
    assert owner_alive(ELSEWHERE)
    assert owner_alive(ELSEWHERE, time.time() - 500)
    assert not owner_alive(ELSEWHERE, time.time() - 700)
    assert not owner_alive("nonsense", 0.0)


def test_an_ended_process_is_not_alive() -> None:
    code = "from expyre.owners import owner_token; print(owner_token()); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word = process.stdout.readline().strip()
        assert owner_alive(word)
        process.kill()
        process.wait()
        assert not owner_alive(word)


def test_a_host_name_with_a_colon_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners.socket, "gethostname", lambda: "a:b")
    owners._token.cache_clear()
    try:
        assert owner_token().startswith("a_b:")
        assert owner_alive(owner_token())
    finally:
        owners._token.cache_clear()


# relations


def identity(code: str = "0", **kwargs: str) -> str:
    from expyre.identity import Identity, Part

    parts = (Part("code:m.f", code, "def f"), *(Part(f"kwargs['{k}']", v, v) for k, v in kwargs.items()))
    return Identity(f"k1:{code}{sorted(kwargs.items())}", parts).to_json()


def test_parts_come_back(db: JobsDB) -> None:
    from expyre.identity import Identity

    text = identity(steps="1" * 5000)
    db.insert_jobs([new("a", parts_json=text), new("b")])
    assert db.parts("a") == Identity.from_json(text)
    assert db.parts("b") is None
    assert db.parts("z") is None


def test_the_nearest_earlier_job_is_the_one_that_differs_least(db: JobsDB) -> None:
    def insert(id: str, key: str, text: str, func: str = "m.f") -> None:
        db.insert_jobs([new(id, key, func=func, parts_json=text)])
        time.sleep(0.001)

    insert("other function", "k1:0", identity(steps="1"), "m.g")
    insert("first", "k1:1", identity(steps="1", seed="1"))
    insert("sibling", "k1:2", identity(steps="7", seed="7"))
    insert("new code", "k1:3", identity("9", steps="1", seed="1"))
    found = db.nearest("new code")
    assert found is not None
    assert found[0].id == "first"
    assert found[1] == db.parts("first")
    assert db.nearest("first") is None
    with pytest.raises(JobNotFoundError):
        db.nearest("z")


def test_jobs_recorded_together_are_not_each_others_past(db: JobsDB) -> None:
    together = [new(f"j{i}", f"k1:{i}", func="m.f", parts_json=identity(seed=str(i))) for i in range(3)]
    db.insert_jobs(together)
    assert db.nearest("j2") is None


@pytest.mark.parametrize("read", [JobsDB.jobs, JobsDB.query])
def test_a_record_stays_open_while_its_rows_are_read(tmp_path: Path, read: Any) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        for i in range(3):
            db.add(f"j{i}", "n", "/")
    closed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connections, "close", lambda self: closed.append(self))
        rows = read(JobsDB(tmp_path / "jobs.db"))
        next(rows)
        gc.collect()
        assert not closed
        assert len(list(rows)) == 2
        del rows
        gc.collect()
        assert len(closed) == 1
    closed[0].close()
