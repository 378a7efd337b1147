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


def look(project: Project, jobs: Sequence[ExPyRe], what: str) -> float:
    """Look at all jobs once; return the seconds of the processor."""
    clock, before = Clock(), round_trips(project)
    rows = sync(project, project.record.rows([job.id for job in jobs]).values())
    line(what, clock, f"{round_trips(project) - before} round trips")
    assert len(rows) == len(jobs)
    return clock.used()


def rounds(b: Bench, transport: str, count: int) -> float:
    """Submit jobs and look at them; return the seconds of the processor for a round."""
    project = b.project(transport)
    clock = Clock()
    jobs = create_jobs(calls(count), project)
    start_jobs(jobs, RESOURCES, "slurm", header_extra=["#SBATCH --hold"], **SHAPE)
    line(f"{transport}: submission", clock)
    look(project, jobs, f"{transport}: first round")
    used = [look(project, jobs, f"{transport}: round without news") for _ in range(5)]
    some = [str(job.remote_id) for job in jobs[::100]]
    b.cluster.run("scancel", *some)
    look(project, jobs, f"{transport}: round in which {len(some)} jobs have ended")
    b.cluster.scancel_all()
    project.close()
    return statistics.median(used)


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10_000, help="number of jobs")
    parser.add_argument("--quick", action="store_true", help="1,000 jobs, one transport")
    args = parser.parse_args()
    count = 1000 if args.quick else args.n
    with bench() as b:
        print(f"looking at {count} jobs")
        for transport in TRANSPORTS[: 1 if args.quick else None]:
            used = rounds(b, transport, count)
            print(f"  {transport}: {used:.2f} s of the processor for a round over {count} jobs (wanted: 1)")


if __name__ == "__main__":
    main()
