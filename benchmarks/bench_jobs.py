"""Creating jobs and finding them again, against the plainest way to do the same.

    python benchmarks/bench_jobs.py [LARGEST]

A job is a key, a directory with the pickled call, and a row in the record. The plain way has the same results: pickle
the call, hash the pickle, make a directory with one file, insert one row and commit; to find a call again it reads the
rows and compares. Times are per job, in ms; the last columns are ratios in the same run.
"""

import hashlib
import os
import pickle
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from expyre.calls import Call, prepare
from expyre.config import Project

KNOWN = 10_000


def work(i):
    return i


def calls(first, n):
    return [Call("bench", work, (i,)) for i in range(first, first + n)]


def per_job(function, n):
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) / n * 1e3


class Plain:
    """Pickle, hash, directory, one transaction per job; a scan to find a job."""

    def __init__(self, root):
        self.root = root
        self.db = sqlite3.connect(root / "plain.db")
        self.db.execute("CREATE TABLE jobs (id TEXT, status TEXT)")

    def key(self, i):
        return hashlib.sha256(pickle.dumps((work.__module__, work.__name__, (i,)))).hexdigest()

    def create(self, i):
        directory = self.root / f"run_{self.key(i)}"
        directory.mkdir()
        (directory / "task.pckl").write_bytes(pickle.dumps((work, (i,), {})))
        with self.db:
            self.db.execute("INSERT INTO jobs VALUES (?, 'created')", (self.key(i),))

    def find(self, i):
        key = self.key(i)
        return next(row for row in self.db.execute("SELECT * FROM jobs") if row[0] == key)


def main():
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as directory:
        root = Path(directory)
        (root / ".expyre").mkdir()
        project = Project.discover(root / ".expyre")
        plain = Plain(root)
        n = 300
        ours_one = per_job(lambda: [prepare(project, calls(-1 - i, 1)) for i in range(n)], n)
        plain_one = per_job(lambda: [plain.create(-1 - i) for i in range(n)], n)
        print(f"create one at a time: {ours_one:.3f} ms, plain {plain_one:.3f} ms, ratio {ours_one / plain_one:.2f}")
        print(f"{'rows':>8} {'create':>8} {'find':>8} {'plain find':>10} {'find/plain':>10}   (ms per job)")
        rows = 0
        for target in (1_000, 10_000, largest):
            create = per_job(lambda: prepare(project, calls(rows, target - rows)), target - rows)
            with plain.db:
                plain.db.executemany("INSERT INTO jobs VALUES (?, 'x')", ((plain.key(i),) for i in range(rows, target)))
            rows = target
            first, n = max(0, rows - KNOWN), min(rows, KNOWN)
            find = per_job(lambda: prepare(project, calls(first, n)), n)
            scan = per_job(lambda: [plain.find(rows - 1 - i) for i in range(20)], 20)
            print(f"{rows:>8} {create:>8.3f} {find:>8.3f} {scan:>10.3f} {find / scan:>10.3f}")
        project.close()


if __name__ == "__main__":
    main()
