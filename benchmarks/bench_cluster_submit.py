"""Submitting many jobs over SSH, against one-by-one clients and against a tar and one array written by hand.

    python benchmarks/bench_cluster_submit.py [--quick] [-n JOBS]

Wanted: at least 100 times faster than ``ssh mkdir``, ``rsync`` and ``ssh sbatch`` for each job. The one-by-one clients
submit 20 jobs; their time for all jobs is extrapolated. All jobs are held, so that the machine does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster_tools import RESOURCES, SHAPE, TRANSPORTS, Bench, Clock, bench, calls, line, round_trips

from expyre.config import Project
from expyre.func import create_jobs, start_jobs

ONE_BY_ONE = 20
HELD = ["#SBATCH --hold"]


def ours(b: Bench, transport: str, count: int) -> float:
    """Submit jobs twice, the second time over the open connection; return the seconds of the first."""
    project = b.project(transport)
    for what, name in (("first submission to a host", "first"), ("then, over the open connection", "then")):
        clock, before = Clock(), round_trips(project)
        jobs = create_jobs(calls(count, name), project)
        created = clock.elapsed()
        start_jobs(jobs, RESOURCES, "slurm", header_extra=HELD, **SHAPE)
        total = clock.elapsed()
        note = f"{count / total:6.0f} jobs/s, {round_trips(project) - before} round trips, creating {created:.2f} s"
        line(f"expyre, {transport}: {what}", clock, note)
        if name == "first":
            result = total
    b.cluster.scancel_all()
    project.close()
    return result


def staged(b: Bench, count: int) -> list[Path]:
    """Return directories of jobs, each with a script to submit."""
    project: Project = b.project("openssh")
    jobs = create_jobs(calls(count, "plain"), project)
    for job in jobs:
        text = "#!/bin/bash\n#SBATCH --hold --ntasks=1 --time=10\npython3 _expyre_script_core.py\n"
        (job.stage_dir / "job.script").write_text(text)
    project.close()
    return [job.stage_dir for job in jobs]


@contextlib.contextmanager
def shared_connection(b: Bench) -> Iterator[list[str]]:
    """Give the options that make ssh use one connection for all commands."""
    options = ["-o", "ControlMaster=auto", "-o", f"ControlPath={b.directory('cm')}/%C", "-o", "ControlPersist=60"]
    b.over_ssh("true", options=options)
    yield options
    subprocess.run([*b.ssh(*options), "-O", "exit", b.host], capture_output=True, check=False)


def one_by_one(b: Bench, directories: list[Path], options: list[str]) -> float:
    """Submit each job by three commands; return seconds per job."""
    there = b.directory("there")
    clock = Clock()
    for directory in directories:
        target = f"{there}/{directory.name}"
        b.over_ssh(f"mkdir -p {target}", options=options)
        if shutil.which("rsync"):
            remote_shell = " ".join(b.ssh(*options))
            copy = ["rsync", "-a", "-e", remote_shell, f"{directory}/", f"{b.host}:{target}/"]
        else:
            copy = ["scp", *b.ssh(*options)[1:], "-qr", f"{directory}/.", f"{b.host}:{target}/"]
        subprocess.run(copy, check=True)
        b.over_ssh(f"cd {target} && sbatch job.script", options=options)
    seconds = clock.elapsed() / len(directories)
    b.cluster.scancel_all()
    return seconds


def by_hand(b: Bench, directories: list[Path]) -> float:
    """Submit all jobs by one tar and one array; return the seconds."""
    there = b.directory("there")
    clock = Clock()
    names = "\n".join(directory.name for directory in directories)
    script = (
        f"cd {there} && tar xzf - && sbatch --array=1-{len(directories)} --hold --ntasks=1 --time=10 "
        "--wrap 'cd $(sed -n ${SLURM_ARRAY_TASK_ID}p names) && python3 _expyre_script_core.py'"
    )
    with subprocess.Popen([*b.ssh(), b.host, script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as ssh:
        assert ssh.stdin is not None
        (directories[0].parent / "names").write_text(names)
        words = ["tar", "cz", "-C", str(directories[0].parent), "names", *(d.name for d in directories)]
        subprocess.run(words, stdout=ssh.stdin, check=True)
        ssh.stdin.close()
    seconds = clock.elapsed()
    b.cluster.scancel_all()
    return seconds


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="number of jobs")
    parser.add_argument("--quick", action="store_true", help="200 jobs")
    args = parser.parse_args()
    count = 200 if args.quick else args.n
    with bench() as b:
        print(f"submitting {count} jobs over SSH")
        seconds = {transport: ours(b, transport, count) for transport in TRANSPORTS}
        directories = staged(b, count)
        hand = by_hand(b, directories)
        line("by hand: tar | ssh, one array of staged directories", hand)
        single = one_by_one(b, directories[:ONE_BY_ONE], []) * count
        line(f"one by one, a connection each ({ONE_BY_ONE} jobs, extrapolated)", single)
        with shared_connection(b) as options:
            shared = one_by_one(b, directories[:ONE_BY_ONE], options) * count
        line(f"one by one, one connection ({ONE_BY_ONE} jobs, extrapolated)", shared)
        for transport, taken in seconds.items():
            print(f"  {transport}: {single / taken:.0f} times faster than one by one (wanted: 100), "
                  f"{shared / taken:.0f} with one connection; {taken / hand:.2f} times the time by hand")


if __name__ == "__main__":
    main()
