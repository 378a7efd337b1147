"""One round of looking at many known jobs over SSH, with the record.

    python benchmarks/bench_cluster_poll.py [--quick] [-n JOBS]

The jobs are real ones: members of arrays, held, in a real queue. Wanted: less than 1 s of the processor of this machine
for a round over 10,000 jobs. The first round has something to write into the record for each job; the others, of which
there are many in the life of a job, have nothing. In the last round a hundredth of the jobs has ended.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from cluster_tools import RESOURCES, SHAPE, TRANSPORTS, Bench, Clock, bench, calls, line, round_trips

from expyre.config import Project
from expyre.func import ExPyRe, create_jobs, start_jobs
from expyre.gather import sync
from expyre.schedulers import Slurm

ONE_BY_ONE = 20


def look(project: Project, jobs: Sequence[ExPyRe], what: str) -> tuple[float, float]:
    """Look at all jobs once; return the seconds of the processor, and those that it took."""
    clock, before = Clock(), round_trips(project)
    rows = sync(project, project.record.rows([job.id for job in jobs]).values())
    line(what, clock, f"{round_trips(project) - before} round trips")
    assert len(rows) == len(jobs)
    return clock.used(), clock.elapsed()


def by_hand(b: Bench, jobs: Sequence[ExPyRe]) -> tuple[float, float]:
    """Ask for all jobs at once, and for some of them one by one; return the seconds of both for all."""
    squeue = "squeue --noheader --array --states=all --format='%i|%T|%r'"
    clock = Clock()
    listed = b.over_ssh(f'{squeue} --user="$(id -un)"').splitlines()
    together = clock.elapsed()
    assert len(listed) >= len(jobs)
    line("by hand: ssh and one squeue for all", clock)
    clock = Clock()
    for job in jobs[:ONE_BY_ONE]:
        b.over_ssh(f"{squeue} --jobs={job.remote_id}")
    each = clock.elapsed() / ONE_BY_ONE * len(jobs)
    line(f"one by one ({ONE_BY_ONE} jobs, extrapolated)", each)
    return together, each


def rounds(b: Bench, transport: str, count: int) -> None:
    """Submit jobs, look at them, and tell what a round costs."""
    project = b.project(transport)
    clock = Clock()
    jobs = create_jobs(calls(count), project)
    start_jobs(jobs, RESOURCES, "slurm", header_extra=["#SBATCH --hold"], **SHAPE)
    line(f"{transport}: submission", clock)
    look(project, jobs, f"{transport}: first round")
    looks = [look(project, jobs, f"{transport}: round without news") for _ in range(5)]
    together, each = by_hand(b, jobs)
    some = [str(job.remote_id) for job in jobs[::100]]
    b.cluster.run("scancel", *some)
    look(project, jobs, f"{transport}: round in which {len(some)} jobs have ended")
    b.cluster.scancel_all()
    project.close()
    used, taken = (statistics.median(values) for values in zip(*looks, strict=True))
    print(f"  {transport}: {used:.2f} s of the processor for a round over {count} jobs (wanted: 1), {taken:.2f} s: "
          f"{taken / together:.1f} times one squeue by hand, {each / taken:.0f} times faster than one for each job")


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10_000, help="number of jobs")
    parser.add_argument("--quick", action="store_true", help="1,000 jobs, one transport")
    args = parser.parse_args()
    count = 1000 if args.quick else args.n
    Slurm.poll_range = (0.0, 30.0)  # looks follow each other without a pause between them
    with bench() as b:
        print(f"looking at {count} jobs")
        for transport in TRANSPORTS[: 1 if args.quick else None]:
            rounds(b, transport, count)


if __name__ == "__main__":
    main()
