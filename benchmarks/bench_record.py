"""Speed of the record of jobs, against a plain one that commits each row and searches the whole table in Python.

Run ``python benchmarks/bench_record.py [number of rows] [elapsed|cpu]``, with ``cpu`` where others use the machine.
Prints each time, its bound where there is one, and how many times faster it is than the plain record in the same run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from expyre.jobsdb import Change, JobsDB, NewJob
from expyre.owners import owner_token

PARTS = json.dumps(
    [{"path": f"kwargs['p{i}']", "digest": "0123456789abcdef", "summary": f"value {i}"} for i in range(8)]
)


def key(number: int) -> str:
    return "k1:" + base64.urlsafe_b64encode(hashlib.sha256(b"%d" % number).digest()).decode()


def job(number: int, parts: bool = True) -> NewJob:
    name = f"md_chunk_{number}"
    id = f"{name}_{key(number)[3:]}_{number:08d}"
    return NewJob(id, name, "/work/run", "md", key(number), "wfl.md", PARTS if parts else None, b"k" * 32)


class Plain:
    """A record as one would first write it."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path)
        self.db.execute("CREATE TABLE jobs (id TEXT, name TEXT, from_dir TEXT, status TEXT, system TEXT, a, b, c, d)")

    def insert(self, row: NewJob) -> None:
        values = (row.id, row.name, row.from_dir, "created", None, None, None, int(time.time()), None)
        self.db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        self.db.commit()

    def find(self, pattern: str) -> list[Any]:
        regex = re.compile(pattern)
        return [row for row in self.db.execute("SELECT * FROM jobs") if regex.fullmatch(row[0])]

    def update(self, id: str, status: str) -> None:
        self.db.execute("UPDATE jobs SET status = ?, d = ? WHERE id = ?", (status, int(time.time()), id))
        self.db.commit()


CLOCKS = {"elapsed": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def timed(call: Callable[[], object]) -> float:
    start = clock()
    call()
    return clock() - start


def line(what: str, seconds: float, bound: float | None = None, plain: float | None = None) -> None:
    text = f"{what:<58}{seconds * 1e3:10.4f} ms"
    text += f"   bound {bound * 1e3:8.3f} ms {'ok' if seconds <= bound else 'MISSED'}" if bound else " " * 25
    print(text + (f"   {plain / seconds:8.0f} x plain" if plain else ""))


def chunks(start: int, stop: int) -> Iterator[list[NewJob]]:
    for first in range(start, stop, 10_000):
        yield [job(i) for i in range(first, min(first + 10_000, stop))]


def fill(db: JobsDB, start: int, stop: int) -> float:
    return sum(timed(lambda rows=rows: db.insert_jobs(rows)) for rows in chunks(start, stop))  # type: ignore[misc]


def look_up(db: JobsDB, total: int) -> float:
    pairs = [("md", key(i * 7919 % total)) for i in range(10_000)]
    return timed(lambda: db.find_live(pairs)) / len(pairs)


def fill_plain(path: Path, total: int) -> tuple[Plain, float]:
    plain = Plain(path)
    per_row = timed(lambda: [plain.insert(job(i, False)) for i in range(200)]) / 200
    with plain.db:
        rows = [(r.id, r.name, r.from_dir, "created", *[None] * 5) for r in (job(i, False) for i in range(200, total))]
        plain.db.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return plain, per_row


def main(total: int = 100_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with closing(fill_plain(Path(folder, "plain.db"), total)[0].db):
            pass
        Path(folder, "plain.db").unlink()
        plain, plain_insert = fill_plain(Path(folder, "plain.db"), total)
        plain_find = timed(lambda: plain.find(re.escape(job(total // 2).name) + "_.*"))
        plain_update = timed(lambda: [plain.update(job(i).id, "submitted") for i in range(50)]) / 50
        print(f"record of {total} jobs; journal {JobsDB(Path(folder, 'probe.db')).journal()}")
        line("open a new record", timed(lambda: JobsDB(Path(folder, "new.db"))))
        line("open it again", timed(lambda: JobsDB(Path(folder, "new.db"))))
        measure(JobsDB(Path(folder, "jobs.db")), total, plain_insert, plain_find, plain_update)
        plain.db.close()


def measure(db: JobsDB, total: int, plain_insert: float, plain_find: float, plain_update: float) -> None:
    first = fill(db, 0, 1_000)
    small = look_up(db, 1_000)
    bulk = fill(db, 1_000, total) + first
    line("insert in bulk, per job", bulk / total, 1 / 20_000, plain_insert)
    line("find_live of 10,000 pairs among 1,000, per pair", small, 5e-5)
    line(f"find_live of 10,000 pairs among {total}, per pair", look_up(db, total), 5e-5, plain_find)
    single = timed(lambda: [db.insert_jobs([job(total + i)]) for i in range(200)]) / 200
    line("insert one", single, 1e-3, plain_insert)
    steps(db, total, plain_update)
    queries(db, plain_find)
    db.close()


def steps(db: JobsDB, total: int, plain_update: float) -> None:
    ids = [job(i).id for i in range(min(10_000, total))]
    claim = timed(lambda: db.claim_submission(ids, dict.fromkeys(ids, "token"), owner_token())) / len(ids)
    line("claim 10,000 submissions, on disk, per job", claim, None, plain_update)
    one = ids[0]
    again = timed(lambda: [db.renew_submission([one], owner_token()) for _ in range(200)]) / 200
    line("renew one claim", again)
    submitted = [Change(id, "submitted", remote_id="1", system="s", details={"partition": "p"}) for id in ids]
    line("step 10,000 jobs, per job", timed(lambda: db.step(submitted)) / len(ids), None, plain_update)
    line("step 10,000 jobs to where they are, per job", timed(lambda: db.step(submitted[:])) / len(ids))
    line(
        "step one job", timed(lambda: [db.step([Change(id, "started")]) for id in ids[:200]]) / 200, None, plain_update
    )


def queries(db: JobsDB, plain_find: float) -> None:
    newest = {"newest_first": True, "limit": 50}
    line("query newest 50", timed(lambda: list(db.query(**newest))), 0.02, plain_find)  # type: ignore[arg-type]
    some = timed(lambda: list(db.query(status="started", **newest)))  # type: ignore[arg-type]
    line("query newest 50 of a rare status", some, 0.02, plain_find)
    group = timed(lambda: list(db.query(status="ongoing", **newest)))  # type: ignore[arg-type]
    line("query newest 50 of a group", group, 0.02, plain_find)
    rare = timed(lambda: list(db.query(status=["started", "died"], **newest)))  # type: ignore[arg-type]
    line("query newest 50 of two rare statuses", rare, 0.02, plain_find)
    system = timed(lambda: list(db.query(system="s", status="submitted", **newest)))  # type: ignore[arg-type]
    line("query newest 50 of a system and status", system, 0.02, plain_find)
    line("query by literal name", timed(lambda: list(db.query(name="md_chunk_77"))), 0.02, plain_find)
    line("query by prefix of the id", timed(lambda: list(db.query(id="md_chunk_77_.*"))), 0.02, plain_find)
    line("query by a pattern without prefix", timed(lambda: list(db.query(name=".*_chunk_77"))), None, plain_find)
    line("counts", timed(db.counts), 0.05, plain_find)
    line("all rows", timed(lambda: list(db.query())))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    clock = CLOCKS[arguments.pop() if arguments and not arguments[-1].isdigit() else "elapsed"]
    main(*map(int, arguments))
