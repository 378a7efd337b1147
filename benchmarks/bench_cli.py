"""Time the command line over a large record.

    python benchmarks/bench_cli.py [NUMBER OF JOBS]

Prints wall times of whole processes (best of five), and the goals they are to keep to: help within three times of
``import click``, a listing of 100,000 jobs under a second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from expyre.jobsdb import JobsDB, NewJob
from expyre.states import STATUSES

XPR = [sys.executable, "-m", "expyre.cli"]


def fill(path: Path, number: int) -> None:
    """Make a record of so many jobs."""
    jobs = []
    for i in range(number):
        name, key = f"relax_chunk_{i}", f"{i:043d}="
        job_id = f"{name}_{key}_{i:08d}"
        directory = f"/home/user/project/.expyre/run_{job_id}"
        jobs.append(NewJob(job_id, name, directory, "relax", f"k1:{key}", status=STATUSES[i % len(STATUSES)],
                           system="cluster", remote_id=str(10**6 + i), remote_status="done"))  # fmt: skip
    with JobsDB(path) as record:
        record.insert_jobs(jobs)


def best(command: list[str], repeats: int = 5) -> float:
    """Return the least wall time of a process, in s."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.PIPE, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print a table of times."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    click = best([sys.executable, "-c", "import click"])
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory) / "jobs.db"
        fill(record, number)
        rows = {
            "import click": (click, None),
            "xpr --help": (best([*XPR, "--help"]), 3 * click),
            f"xpr ls, {number} jobs": (best([*XPR, "--dbfile", str(record), "ls"]), 1.0),
            f"xpr ls --newest --limit 20, {number} jobs": (
                best([*XPR, "--dbfile", str(record), "ls", "--newest", "--limit", "20"]), 3 * click),
            f"xpr ls -n 'relax_chunk_77.*', {number} jobs": (
                best([*XPR, "--dbfile", str(record), "ls", "-n", "relax_chunk_77.*"]), 1.0),
            f"xpr stats, {number} jobs": (best([*XPR, "--dbfile", str(record), "stats"]), 3.0),
            f"xpr show (short id), {number} jobs": (best([*XPR, "--dbfile", str(record), "show", "00000042"]), 1.0),
        }  # fmt: skip
    for what, (seconds, goal) in rows.items():
        print(f"{what:<48} {seconds:7.3f} s" + ("" if goal is None else f"   goal {goal:5.3f} s"))


if __name__ == "__main__":
    main()
