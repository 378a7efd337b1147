"""The record as a file: older and newer forms, damage, locks, file systems, copies."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from expyre.errors import RecordError
from expyre.jobsdb import Change, JobsDB, NewJob, connection, journal, schema
from expyre.jobsdb.holders import holders

OLDER_TABLE = """
CREATE TABLE jobs (id TEXT, name TEXT, from_dir TEXT, status TEXT, system TEXT, remote_id TEXT, remote_status TEXT,
creation_time DATE, status_time DATE)
"""
HASHES = {letter: letter * 43 + "=" for letter in "abcdef"}


def older_id(name: str, letter: str, number: int = 0) -> str:
    return f"{name}_{HASHES[letter]}_{number:08d}"


def older_row(id: str, name: str, status: str) -> tuple[object, ...]:
    return (id, name, "/work", status, "cluster", "1", "done", 1_600_000_000, 1_600_000_001)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Return a file as programs made it that know the jobs table only."""
    path = tmp_path / "jobs.db"
    rows = [
        older_row(older_id("md_x", "a"), "md_x", "succeeded"),
        older_row(older_id("md_x", "a", 1), "md_x", "died"),
        older_row(older_id("md_x", "b"), "md_x", "processed"),
        older_row(older_id("it's $(x)", "c"), "it's $(x)", "started"),
        older_row("by hand", "hand", "created"),
    ]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(OLDER_TABLE)
        db.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return path


def plain(path: Path, *statements: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db, db:
        return [row for statement in statements for row in db.execute(statement).fetchall()]


# older forms


def test_an_older_file_is_brought_up_to_date_in_place(older: Path) -> None:
    before = plain(older, "SELECT * FROM jobs")
    with JobsDB(older) as db:
        assert plain(older, "SELECT * FROM jobs") == before
        pairs = [("md_x", f"k0:{HASHES['a']}"), ("md_x", f"k0:{HASHES['b']}"), ("it's $(x)", f"k0:{HASHES['c']}")]
        found = db.find_live(pairs)
        assert {pair[0]: row.id for pair, row in found.items()} == {
            "md_x": older_id("md_x", "a"),
            "it's $(x)": older_id("it's $(x)", "c"),
        }
        row = db.row(older_id("md_x", "a"))
        assert (row.submit_state, row.t_created) == ("submitted", 1_600_000_000)
        assert (db.row("by hand").key, db.row("by hand").submit_state) == (None, None)
        assert db.insert_jobs([NewJob("new", "md_x", "/", "md_x", f"k1:{HASHES['a']}")]) == {"new": "new"}
    assert [row[1] for row in plain(older, "PRAGMA table_info(jobs)")] == db.columns


def test_older_programs_go_on_working(older: Path) -> None:
    with JobsDB(older) as db:
        late = older_id("late", "d")
        plain(older, f"INSERT INTO jobs VALUES ('{late}', 'late', '/', 'created', NULL, NULL, NULL, 5, NULL)")
        assert db.find_live([("late", f"k0:{HASHES['d']}")])["late", f"k0:{HASHES['d']}"].id == late
        plain(older, f"UPDATE jobs SET status = 'submitted', status_time = 6, remote_id = '8' WHERE id = '{late}'")
        assert db.row(late).submit_state == "submitted"
        plain(older, f"UPDATE jobs SET status = 'failed' WHERE id = '{late}'")
        assert db.find_live([("late", f"k0:{HASHES['d']}")]) == {}
        assert [line[1] for line in db.history(late)] == ["created", "submitted", "failed"]
        plain(older, f"DELETE FROM jobs WHERE id = '{late}'")
        assert plain(older, "SELECT count(*) FROM details", "SELECT count(*) FROM jobs") == [(5,), (5,)]
        plain(older, f"DELETE FROM jobs WHERE id = '{older_id('md_x', 'a')}'")
        again = db.find_live([("md_x", f"k0:{HASHES['a']}")])
        assert [row.id for row in again.values()] == [older_id("md_x", "a", 1)]
        plain(older, "UPDATE jobs SET id = 'renamed' WHERE id = 'by hand'")
        assert db.row("renamed").t_created == 1_600_000_000
        plain(older, "VACUUM", "DELETE FROM jobs")
        assert plain(older, "SELECT count(*) FROM details") == [(0,)]


def test_an_older_file_with_an_id_twice_can_be_used(older: Path) -> None:
    plain(older, "INSERT INTO jobs SELECT * FROM jobs WHERE id = 'by hand'")
    with JobsDB(older) as db:
        assert len(list(db.jobs(id="by hand"))) == 2
        with pytest.raises(ValueError, match="has 2 jobs 'by hand'"):
            db.remove("by hand")
        with pytest.raises(ValueError, match="already has"):
            db.add("by hand", "x", "/")
        db.update("by hand", status="died")
        assert [row.status for row in db.query(id="by hand")] == ["died", "died"]


def test_strange_rows_of_older_files_do_no_harm(older: Path) -> None:
    plain(older, "INSERT INTO jobs VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)")
    with JobsDB(older) as db:
        assert len(list(db.jobs())) == len(list(db.query())) == 6
        plain(older, "UPDATE jobs SET status = 'died' WHERE id IS NULL", "DELETE FROM jobs WHERE id IS NULL")
        assert len(list(db.query())) == 5


@pytest.mark.parametrize("id", ["", "_", "x" * 60, f"_{HASHES['a']}_12345678", f"n_{'a' * 42}*=_12345678"])
def test_ids_that_only_look_like_older_ones_have_no_key(tmp_path: Path, id: str) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        db.add(id, "n", "/")
        assert db.row(id).key is None


def test_many_processes_may_bring_a_file_up_to_date_at_once(older: Path) -> None:
    code = f"from expyre.jobsdb import JobsDB; print(len(list(JobsDB({str(older)!r}).query())))"
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[0].strip() for process in started] == [b"5"] * 4


# files that are no good


def test_a_newer_file_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    JobsDB(path).close()
    plain(path, f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"newer version .*update this installation"):
        JobsDB(path)
    assert path.read_bytes() == before


def test_a_file_without_jobs_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    plain(path, "CREATE TABLE atoms (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="has no jobs table"):
        JobsDB(path)
    assert path.read_bytes() == before
    plain(path, "CREATE TABLE jobs (id TEXT, name TEXT, from_dir TEXT)")
    with pytest.raises(RecordError, match="lacks status, system, remote_id"):
        JobsDB(path)


@pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" + b"\x07" * 5000])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"jobs\.db.*xpr db_unlock"):
        JobsDB(path)
    assert path.read_bytes() == content


def test_damage_that_shows_later_is_named(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with JobsDB(path) as db:
        db.insert_jobs([NewJob(f"j{i}", "n", "/") for i in range(2000)])
    content = bytearray(path.read_bytes())
    for page in range(20, len(content) // 4096):
        content[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(content)
    with JobsDB(path) as db, pytest.raises(RecordError, match="damaged"):
        list(db.query())
    with pytest.raises(RecordError, match="no readable copy"), JobsDB(path) as db:
        db.unlock()
    assert path.read_bytes() == bytes(content)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be made: No such file"):
        JobsDB(tmp_path / "missing" / "jobs.db")


def test_an_empty_file_becomes_a_record(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").touch()
    with JobsDB(tmp_path / "jobs.db") as db:
        assert list(db.jobs()) == []


def test_a_new_file_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        db.add("a", "a", "/")
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_record_follows_its_path_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b?#%41").mkdir()
    monkeypatch.chdir(tmp_path / "a b?#%41")
    with JobsDB("jobs.db") as db:
        monkeypatch.chdir(tmp_path)
        db.close()
        db.add("a", "a", "/")
        assert db.db_filename == tmp_path / "a b?#%41" / "jobs.db"
    assert [p.name for p in tmp_path.iterdir()] == ["a b?#%41"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("left_open", [False, True])
def test_somebody_elses_record_can_be_read(tmp_path: Path, left_open: bool) -> None:
    folder = Path("/var/tmp") / f"expyre-{os.getpid()}-{left_open}"
    folder.mkdir(mode=0o755)
    try:
        db = JobsDB(folder / "jobs.db")
        db.add("a", "a", "/")
        if not left_open:
            db.close()
        for file in folder.iterdir():
            file.chmod(0o644)
        assert as_nobody(lambda: look_around(folder / "jobs.db")) == "1; can only be read"
        db.close()
    finally:
        shutil.rmtree(folder)


def look_around(path: Path) -> str:
    db = JobsDB(path)
    found = len(list(db.query()))
    try:
        db.add("b", "b", "/")
    except RecordError as error:
        return f"{found}; {'can only be read' if 'can only be read' in str(error) else error}"
    return "written"


def as_nobody(call: object) -> str:
    """Run a function in a forked process of a user without rights."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setuid(65534)
            answer = call()  # type: ignore[operator]
        except BaseException as error:
            answer = repr(error)
        os.write(writer, str(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


# locks

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
input()
db.execute("COMMIT")
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_a_locked_record_is_named_with_its_holder(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_DB_JOURNAL", mode)
    with JobsDB(tmp_path / "jobs.db", busy_timeout=0.05) as db, held_by_another_process(db.db_filename) as holder:
        start = time.monotonic()
        with pytest.raises(RecordError) as caught:
            db.add("a", "a", "/")
        assert time.monotonic() - start < 25  # without a limit of its own it would be 30
        for words in ("jobs.db", "locked", "xpr db_unlock", f"process {holder.pid} ("):
            assert words in str(caught.value)
        assert [text.split()[0] for text in holders(db.db_filename)] == [str(holder.pid)]
        if mode == "truncate":
            with pytest.raises(RecordError, match="stayed locked"):
                db.find_live([("a", "b")])
        with pytest.raises(RecordError, match=f"in use by process {holder.pid}"):
            db.unlock()


def test_a_lock_that_is_let_go_is_waited_for(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db", busy_timeout=20) as db, held_by_another_process(db.db_filename) as holder:
        command = f"sleep 0.5; kill {holder.pid}"
        with subprocess.Popen(["/bin/sh", "-c", command]):
            db.add("a", "a", "/")
    assert [row["id"] for row in JobsDB(tmp_path / "jobs.db").jobs()] == ["a"]


# file systems

MOUNTS = r"""
/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
10.0.0.1@tcp:/scratch /scratch lustre rw,flock 0 0
gpfs0 /data/my\040project gpfs rw 0 0
me@host: /home/me/mnt fuse.sshfs rw 0 0
tmpfs /scratch/local tmpfs rw 0 0
systemd-1 /auto autofs rw 0 0
server:/auto /auto nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "mode"),
    [
        ("/srv/jobs.db", "ext4", "wal"),
        ("/homely/jobs.db", "ext4", "wal"),
        ("/home/me/jobs.db", "nfs4", "truncate"),
        ("/home/me/mnt/jobs.db", "fuse.sshfs", "truncate"),
        ("/scratch/jobs.db", "lustre", "truncate"),
        ("/scratch/local/x/jobs.db", "tmpfs", "wal"),
        ("/data/my project/a/jobs.db", "gpfs", "truncate"),
        ("/auto/jobs.db", "nfs", "truncate"),
    ],
)
def test_the_journal_suits_the_file_system(path: str, kind: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPYRE_DB_JOURNAL", raising=False)
    monkeypatch.setattr(journal.os, "stat", lambda path: None)
    monkeypatch.setattr(journal.os.path, "realpath", str)
    assert journal.file_system(Path(path), MOUNTS) == kind
    assert journal.wanted_mode(kind) == mode


NETWORK = ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb", "smb3", "smbfs", "fuse.sshfs", "afs", "ceph", "9p"]
LOCAL = ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "apfs", "unknown", "f2fs"]


@pytest.mark.parametrize("kind", NETWORK + LOCAL)
def test_network_file_systems_are_known(kind: str) -> None:
    assert journal.is_network(kind) == (kind in NETWORK)


@pytest.mark.parametrize("mode", journal.MODES)
def test_the_journal_can_be_chosen(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (mode.upper(), "wal", mode):
        monkeypatch.setenv("EXPYRE_DB_JOURNAL", value)
        with JobsDB(tmp_path / "jobs.db") as db:
            assert db.journal()[0] == value.lower()
            assert db.db.execute("PRAGMA journal_mode").fetchone() == (value.lower(),)
            db.insert_jobs([NewJob(f"{value}{time.time_ns()}", "n", "/")])


def test_machines_that_see_the_disk_differently_agree_on_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    for kind in ("ext4", "nfs4", "ext4", "nfs4"):
        monkeypatch.setattr(journal, "file_system", lambda path, kind=kind: kind)
        with JobsDB(tmp_path / "jobs.db") as db:
            modes.append(db.journal())
    assert modes == [("wal", "ext4"), ("truncate", "nfs4"), ("truncate", "ext4"), ("truncate", "nfs4")]


def test_copies_keep_the_journal(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        db.backup(tmp_path / "copy.db")
        db.unlock()
        assert db.counts() == {}
        assert db.journal()[0] == "wal"
    with JobsDB(tmp_path / "copy.db") as copy:
        assert copy.journal()[0] == "wal"


def test_a_wrong_journal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_DB_JOURNAL", "memory")
    with pytest.raises(RecordError, match="'memory' is not a journal mode; it can be wal"):
        JobsDB(tmp_path / "jobs.db")


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_locks_that_do_not_lock_are_found_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "jobs.db"
    JobsDB(path).close()

    def connect(path: Path, unlocked: bool = False) -> sqlite3.Connection:
        options = "?nolock=1" if unlocked else ""
        return sqlite3.connect(f"file:{path}{options}", uri=True, timeout=0, isolation_level=None)

    with closing(connect(path)) as db:
        db.execute("PRAGMA journal_mode = truncate")
    journal.check_locks(path, kind, connect)
    with pytest.raises(RecordError, match=rf"file locks do not work here \(file system {kind}.*local_stage_dir"):
        journal.check_locks(path, kind, lambda path: connect(path, True))


def test_durable_writes_go_to_the_disk_and_others_do_not(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        db.add("a", "a", "/")
        statements: list[str] = []
        db.db.set_trace_callback(statements.append)
        db.claim_submission(["a"], {"a": "token"}, "owner")
        begin = statements.index("BEGIN IMMEDIATE")
        assert "PRAGMA synchronous = FULL" in statements[:begin]
        assert db.db.execute("PRAGMA synchronous").fetchone() == (1,)


# copies


def test_unlock_leaves_a_whole_record_and_the_old_one_beside_it(tmp_path: Path) -> None:
    with JobsDB(str(tmp_path / "jobs.db")) as db, JobsDB(tmp_path / "jobs.db") as other:
        db.insert_jobs([NewJob("a", "a", "/", "s", "k1:x")])
        assert other.row("a").name == "a"
        db.unlock()
        assert (tmp_path / "jobs.db.old").exists()
        assert not (tmp_path / "jobs.db.tmp").exists()
        assert db.find_live([("s", "k1:x")])
        other.add("b", "b", "/")
        db.step([Change("a", "submitted")])
        assert {row.id: row.status for row in other.query()} == {"a": "submitted", "b": "created"}
        assert plain(tmp_path / "jobs.db.old", "SELECT id FROM jobs") == [("a",)]
        assert stat.S_IMODE((tmp_path / "jobs.db").stat().st_mode) == 0o600
        db.unlock()


@pytest.mark.parametrize("mode", ["wal", "truncate"])
def test_unlock_by_force_frees_a_record_that_is_held(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_DB_JOURNAL", mode)
    with JobsDB(tmp_path / "jobs.db", busy_timeout=0.05) as db:
        db.add("a", "a", "/")
        with held_by_another_process(db.db_filename):
            db.unlock(force=True)
            db.add("b", "b", "/")
            assert [row.id for row in db.query()] == ["a", "b"]
        assert db.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_backup_of_a_record_in_use_is_whole(tmp_path: Path) -> None:
    code = """
import sys
from expyre.jobsdb import Change, JobsDB, NewJob
db = JobsDB(sys.argv[1])
print("ready", flush=True)
for i in range(10**9):
    db.insert_jobs([NewJob(f"j{i}-{k}", "n", "/", "s", f"k1:{i}-{k}") for k in range(20)])
    db.step([Change(f"j{i}-{k}", "submitted") for k in range(20)])
"""
    path = tmp_path / "jobs.db"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with JobsDB(path) as db:
            for number in range(5):
                time.sleep(0.05)
                db.backup(tmp_path / f"copy{number}.db")
        writer.kill()
    sizes = []
    for number in range(5):
        with JobsDB(tmp_path / f"copy{number}.db") as copy:
            sizes.append(sum(copy.counts().values()))
            assert copy.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert sizes[-1] % 20 == 0
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0


def test_a_record_copied_with_its_log_is_whole(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db:
        db.insert_jobs([NewJob(f"j{i}", "n", "/") for i in range(50)])
        (tmp_path / "copy").mkdir()
        for name in ("jobs.db", "jobs.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    with JobsDB(tmp_path / "copy" / "jobs.db") as copy:
        assert len(list(copy.query())) == 50


def test_a_backup_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with JobsDB(tmp_path / "jobs.db") as db, pytest.raises(RecordError, match="no copy of"):
        db.backup(tmp_path / "missing" / "copy.db")


def test_scripts_are_split_at_their_statements() -> None:
    script = "CREATE TABLE a (b); -- c;\nCREATE TRIGGER t AFTER INSERT ON a\nBEGIN\n  DELETE FROM a;\nEND;\n"
    found = list(schema.statements(script))
    assert len(found) == 2
    assert found[1].startswith("CREATE TRIGGER")


def test_regular_expressions_in_sql_never_match_null() -> None:
    assert not connection._regexp(".*", None)
    assert connection._regexp(".*", "a\nb")
