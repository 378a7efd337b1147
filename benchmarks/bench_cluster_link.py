"""Many jobs over a long line, and what is sent for an input that all of them share.

    python benchmarks/bench_cluster_link.py [--quick] [-n JOBS] [--rounds N] [--transport NAME]

A proxy between the client and sshd delays what passes by 25 ms in each direction, and counts it. Wanted: submitting
1,000 jobs, looking at them once and bringing back their results costs at most 2 s more than over the same proxy without
delay (of some rounds each, the shortest); an input of 5 MB that all share is sent once, and does not come back. The
jobs are held; what they would leave is written into their directories.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from cluster_tools import RESOURCES, SHAPE, TRANSPORTS, Bench, Clock, Link, bench, calls, line, round_trips

from expyre.config import Project
from expyre.func import ExPyRe, create_jobs, start_jobs
from expyre.gather import sync
from expyre.node import runner
from expyre.schedulers import Slurm
from expyre.stage import ERROR_FILE, STARTED_FILE

DELAY = 0.025
SHARED = 5_000_000


def submitted_and_fetched(b: Bench, link: Link, transport: str, count: int, what: str) -> list[float]:
    """Submit, look, and fetch; return the seconds of each. The connection is open."""
    project = b.project(transport, link.config)
    start_jobs(create_jobs(calls(1, "first"), project), RESOURCES, "slurm", header_extra=["#SBATCH --hold"], **SHAPE)
    jobs = create_jobs(calls(count), project)
    before = round_trips(project)
    seconds = []

    def took(name: str, clock: Clock) -> None:
        seconds.append(clock.elapsed())
        line(f"{transport}, {what}: {name}", clock)

    clock = Clock()
    start_jobs(jobs, RESOURCES, "slurm", header_extra=["#SBATCH --hold"], **SHAPE)
    took("submitting", clock)
    clock = Clock()
    sync(project, project.record.rows([job.id for job in jobs]).values())
    took("a look", clock)
    end(project, jobs)
    clock = Clock()
    rows = sync(project, project.record.rows([job.id for job in jobs]).values())
    took("a look that finds all ended, and their files", clock)
    assert {row.status for row in rows.values()} == {"failed"}
    note = f"{round_trips(project) - before} round trips"
    line(f"{transport}, {what}: together", sum(seconds), note)
    b.cluster.scancel_all()
    project.close()
    return seconds


def end(project: Project, jobs: Sequence[ExPyRe]) -> None:
    """Leave what jobs leave that have failed."""
    for job in jobs:
        directory = Path(str(project.systems["slurm"].remote_rundir)) / job.stage_dir.name
        for name in (STARTED_FILE, ERROR_FILE, runner.STDOUT, runner.STDERR):
            (directory / name).write_text("what a job writes\n")


def shared_input(b: Bench, link: Link, transport: str, count: int) -> None:
    """Submit jobs that have a large input in common."""
    project = b.project(transport, link.config)
    potential = b.directory("inputs") / "potential.xml"
    potential.write_bytes(os.urandom(SHARED))
    clock = Clock()
    jobs = create_jobs(calls(count, input_files=[str(potential)]), project)
    line(f"{transport}, shared input: creating", clock)
    before, clock = link.counted(), Clock()
    start_jobs(jobs, RESOURCES, "slurm", header_extra=["#SBATCH --hold"], **SHAPE)
    sent = link.counted()[0] - before[0]
    line(f"{transport}, shared input: submitting", clock)
    end(project, jobs)
    before, clock = link.counted(), Clock()
    sync(project, project.record.rows([job.id for job in jobs]).values())
    came = link.counted()[1] - before[1]
    line(f"{transport}, shared input: a look that finds all ended", clock)
    print(
        f"  {transport}: {sent / 1e6:.1f} MB were sent and {came / 1e6:.1f} MB came for {count} jobs with the same "
        f"{SHARED / 1e6:.0f} MB (one by one: {count * SHARED / 1e6:.0f} MB)"
    )
    b.cluster.scancel_all()
    project.close()
    shutil.rmtree(project.stage_root.parent, ignore_errors=True)


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="number of jobs")
    parser.add_argument("--quick", action="store_true", help="200 jobs, one transport")
    parser.add_argument("--rounds", type=int, default=3, help="rounds with each delay, of which the shortest count")
    parser.add_argument("--transport", choices=TRANSPORTS, help="only this one")
    args = parser.parse_args()
    count = 200 if args.quick else args.n
    Slurm.poll_range = (0.0, 30.0)  # looks follow each other without a pause between them
    with bench() as b:
        print(f"{count} jobs over a line of {2 * DELAY * 1e3:.0f} ms")
        for transport in [args.transport] if args.transport else TRANSPORTS[: 1 if args.quick else None]:
            seconds: dict[float, list[float]] = {0.0: [], DELAY: []}
            for delay in args.rounds * list(seconds):
                link = Link(b, delay)
                seconds[delay].append(sum(submitted_and_fetched(b, link, transport, count, f"{2e3 * delay:.0f} ms")))
                link.close()
            print(f"  {transport}: {min(seconds[DELAY]) - min(seconds[0.0]):.2f} s more with delay (wanted: 2)")
            link = Link(b)
            shared_input(b, link, transport, count)
            link.close()


if __name__ == "__main__":
    main()
