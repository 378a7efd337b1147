"""From the first call to the last result of many trivial jobs, against one array written by hand.

    python benchmarks/bench_cluster_wall.py [--quick] [-n JOBS] [--rounds N]

By hand: a tar of the staged directories goes over SSH, ``sbatch --array`` runs the same commands in each (the same
interpreter with the same runner), and when the queue has no more of it a tar brings the directories back. Wanted: at
most 1.3 times that. The times of rounds by hand and of ours alternate; the best of each are compared.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tarfile
import time
from pathlib import Path

from cluster_tools import RESOURCES, SHAPE, TRANSPORTS, Bench, Clock, bench, calls, line, round_trips
from clusters.slurm_ssh import commands

from expyre.func import create_jobs, start_jobs
from expyre.gather import as_completed

_BY_HAND = """\
umask 077; mkdir {there} && cd {there} && tar xzf - || exit
cat >script <<'EOF'
#!/bin/bash
{commands}
cd "../$(sed -n ${{SLURM_ARRAY_TASK_ID}}p ../names)" || exit
python3 _expyre_script_core.py && mv _tmp_expyre_job_succeeded _expyre_job_succeeded
EOF
mkdir out && cd out
id=$(sbatch --parsable --array=1-{count} --ntasks=1 --time=10 --output=%a.out ../script)
while [ -n "$(squeue --noheader --jobs=$id)" ]; do sleep 0.5; done
cd .. && tar czf - .
"""


def ours(b: Bench, transport: str, count: int) -> float:
    """Run jobs and wait for their results."""
    project = b.project(transport)
    clock, began = Clock(), time.time()
    jobs = create_jobs(calls(count), project)
    start_jobs(jobs, RESOURCES, "slurm", **SHAPE)
    submitted = clock.elapsed()
    values, first = [], None
    for outcome in as_completed(jobs, quiet=True):
        values.append(outcome.result())
        first = first or clock.elapsed()
    seconds = clock.elapsed()
    rows = project.record.rows([job.id for job in jobs]).values()
    ended = max(row.t_ended or 0.0 for row in rows) - began
    note = f"submitted {submitted:.2f} s, first result {first:.2f} s, jobs over {ended:.2f} s"
    line(f"expyre, {transport}", clock, f"{note}, {round_trips(project)} round trips")
    assert sorted(values) == list(range(count))
    project.close()
    return seconds


def by_hand(b: Bench, count: int) -> float:
    """Do the same by hand."""
    project = b.project("openssh")
    jobs = create_jobs(calls(count), project)
    names = [job.stage_dir.name for job in jobs]
    stage_root = jobs[0].stage_dir.parent
    project.close()
    there = b.root / f"by_hand{stage_root.parent.name}"
    script = _BY_HAND.format(there=there, commands="\n".join(commands()), count=count)
    clock = Clock()
    (stage_root / "names").write_text("\n".join(names))
    packed = subprocess.run(["tar", "cz", "-C", stage_root, "names", *names], stdout=subprocess.PIPE, check=True).stdout
    came = b.over_ssh(script, packed)
    with tarfile.open(fileobj=io.BytesIO(came)) as tar:
        tar.extractall(b.directory("came"), filter="fully_trusted")
        done = sum(Path(name).name == "_expyre_job_succeeded" for name in tar.getnames())
    line("by hand", clock)
    assert done == count, f"{done} results by hand"
    return clock.elapsed()


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="number of jobs")
    parser.add_argument("--quick", action="store_true", help="200 jobs")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    count = 200 if args.quick else args.n
    with bench() as b:
        print(f"{count} trivial jobs, from the first call to the last result")
        times: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            times.setdefault("by hand", []).append(by_hand(b, count))
            for transport in TRANSPORTS:
                times.setdefault(transport, []).append(ours(b, transport, count))
        times["by hand"].append(by_hand(b, count))
        for transport in TRANSPORTS:
            ratio = min(times[transport]) / min(times["by hand"])
            print(f"  {transport}: {ratio:.2f} times the time by hand (wanted: 1.3)")


if __name__ == "__main__":
    main()
