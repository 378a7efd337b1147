"""Build models of metals, sample each of them in several ways, gather the averages, and promote the best runs.

    python sweep.py --local              in processes of this machine
    python sweep.py --system NAME        as jobs of a system of config.json
    python sweep.py --local --promote    and copy the best run of each target to gallery/

Everything is written below the current directory. Killed and started again, it computes only what is missing.
"""

import argparse
import json
import os
import shutil
import sys
import time
from concurrent.futures import as_completed
from pathlib import Path

import configuration
from samplers import run_sampler
from targets import build_target
from tasks import TaskFailed

from expyre.errors import InputFailed
from expyre.executor import Executor

HERE = Path(__file__).resolve().parent
RESULTS = Path("results/sampling_runs.parquet")
# what is too long for the table
_SERIES = ("energies", "frames")
_COLUMNS = (
    *[(name, "string") for name in ("run_id", "target_id", "status", "model", "element", "sampler", "host")],
    *[(name, "int64") for name in ("atoms", "samples")],
    *[(name, "float64") for name in ("set_temperature", "temperature", "temperature_error", "energy", "energy_error")],
    *[(name, "float64") for name in ("heat_capacity", "heat_capacity_error", "acceptance", "began", "seconds")],
)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="run here (the default)")
    where.add_argument("--system", metavar="NAME", help="run as jobs of a system of config.json")
    parser.add_argument("--config", default=HERE / "sweep.yaml", type=Path, help="what to compute")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 4, 8), help="processes with --local")
    parser.add_argument("--promote", action="store_true", help="copy the best run of each target to gallery/")
    return parser.parse_args()


def make_executor(arguments, resources):
    graph = {"plot_dependency_graph_filename": "results/graph.svg"}
    if not arguments.system:
        return Executor(arguments.workers, "local", block_allocation=True, cache_directory=".sweep_cache", **graph)
    # a host that shares no files is sent the modules of this directory
    modules = sorted(str(path) for path in HERE.glob("*.py") if path.name != "sweep.py")
    return Executor(backend=arguments.system, resource_dict={"input_files": modules, **resources}, **graph)


def say(text):
    print(text, flush=True)


# ------------------------------------------------------------------------------------------------------------- stages


def submit(exe, builds, runs):
    """Submit everything at once; each run has the future of its target as an argument and waits for it alone."""
    say("=== Stage A: Building Targets ===")
    targets = {}
    for build in builds:
        say(f"  Submitting build for {build.id} (model={build.options['model']}, data={build.options['element']})")
        targets[build.id] = exe.submit(build_target, **build.options)
    say("\n=== Stage B: Running Samplers ===")
    samples = {}
    for run in runs:
        say(f"  Submitting {run.options['sampler']} for {run.target.id} (run_id={run.id})")
        samples[run.id] = exe.submit(run_sampler, targets[run.target.id], **run.options)
    return targets, samples


def wait(builds, runs, targets, samples, start):
    """Write logs and the table as tasks end; return their outcomes, and what has failed with the log to look at."""
    say(f"\n=== Waiting for {len(runs)} sampling runs to complete ===")
    tasks = {targets[build.id]: build for build in builds} | {samples[run.id]: run for run in runs}
    done, outcomes, failures = 0, {}, {}
    for future in as_completed(tasks):
        task = tasks[future]
        is_run = isinstance(task, configuration.RunTask)
        done += is_run
        log = Path("logs/run_sampler" if is_run else "logs/build_target", task.name if is_run else task.id)
        error = future.exception()
        if error is not None:
            failures[task] = failure(error, log)
        else:
            outcomes[task] = future.result()
            write_logs(log, outcomes[task].log, outcomes[task].err)
        found = error is None and outcomes[task].began < start
        if is_run:
            more = ", found from before" if found else "" if error is None else f", {task.name} failed"
            say(f"  [{done}/{len(runs)}] completed{more}")
        elif error is None:
            say(f"  {task.id} built" + (", found from before" if found else f" in {outcomes[task].seconds:.1f} s"))
        else:
            say(f"  {task.id} could not be built")
        if is_run and not found:
            write_results(runs, outcomes, failures)
    return outcomes, failures


def failure(error, log):
    """Write the logs of a task that has failed; return what to say of it."""
    if isinstance(error, InputFailed):
        write_logs(log, "", f"{error}\n")
        return None  # its target is reported
    name = type(error).__name__
    printed = error if isinstance(error, TaskFailed) else TaskFailed(f"{name}: {error}", "", f"{name}: {error}\n")
    write_logs(log, printed.log, printed.err)
    return f"{printed}; see {log}.err"


def write_logs(path, log, err):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".log").write_text(log)
    path.with_suffix(".err").write_text(err)


def promote(runs, outcomes):
    """Copy the run with the smallest error bar of each target to the gallery."""
    from ase.io import write

    say("\n=== Stage C: Promoting Results ===")
    best = {}
    for run in runs:
        if run in outcomes:
            error = outcomes[run].value["energy_error"]
            if run.target not in best or error < outcomes[best[run.target]].value["energy_error"]:
                best[run.target] = run
    for target, run in best.items():
        place, new = Path("gallery", target.id), Path("gallery", f".{target.id}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        about = {"target": target.options, "run": run.options} | row(run, outcomes.get(run), outcomes.get(target))
        (new / "run.json").write_text(json.dumps(about, indent=2) + "\n")
        write(new / "frames.xyz", outcomes[run].value["frames"])
        shutil.rmtree(place, ignore_errors=True)
        new.rename(place)
        say(f"  {run.name} -> {place}")


# ------------------------------------------------------------------------------------------------------------ results


def row(run, outcome, target, status="completed"):
    """Return what the table has on a run; of one that has failed, or is not done, there are no numbers."""
    numbers = {} if outcome is None else {k: v for k, v in outcome.value.items() if k not in _SERIES}
    return {
        "run_id": run.id,
        "target_id": run.target.id,
        "status": status,
        "model": run.target.options["model"],
        "element": run.target.options["element"],
        "atoms": None if target is None else len(target.value.reference),
        "sampler": run.options["sampler"],
        "set_temperature": float(run.options["temperature"]),
        "began": None if outcome is None else outcome.began,
        "seconds": None if outcome is None else outcome.seconds,
        "host": None if outcome is None else outcome.host,
        **numbers,
    }


def write_results(runs, outcomes, failures):
    """Write one row for each run; nobody sees half of a file."""
    import pyarrow
    import pyarrow.parquet

    def status(run):
        return "completed" if run in outcomes else "failed" if run in failures else "waiting"

    rows = [row(run, outcomes.get(run), outcomes.get(run.target), status(run)) for run in runs]
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema([(n, getattr(pyarrow, t)()) for n, t in _COLUMNS]))
    temporary = RESULTS.with_suffix(".part")
    pyarrow.parquet.write_table(table, temporary)
    temporary.replace(RESULTS)


def show(runs, outcomes):
    say(f"\n{'run':<28} {'E / eV':>16} {'C / k_B per atom':>18} {'T / K':>14} {'accepted':>8}")
    for run in runs:
        if run in outcomes:
            of = outcomes[run].value
            accepted = "" if of["acceptance"] is None else f"{of['acceptance']:.2f}"
            say(
                f"{run.name:<28} {of['energy']:8.4f} +- {of['energy_error']:.4f}"
                f" {of['heat_capacity']:10.2f} +- {of['heat_capacity_error']:.2f}"
                f" {of['temperature']:7.1f} +- {of['temperature_error']:.1f} {accepted:>8}"
            )


def main():
    arguments = read_arguments()
    builds, runs, resources = configuration.read(arguments.config)
    RESULTS.parent.mkdir(exist_ok=True)
    start = time.time()
    with make_executor(arguments, resources) as exe:
        targets, samples = submit(exe, builds, runs)
        outcomes, failures = wait(builds, runs, targets, samples, start)
    if arguments.promote:
        promote(runs, outcomes)
    write_results(runs, outcomes, failures)
    show(runs, outcomes)
    found = sum(outcome.began < start for outcome in outcomes.values())
    say(
        f"\n{len(builds)} targets and {len(runs)} runs: {len(outcomes) - found} tasks computed now, {found} found from "
        f"before, {len(failures)} failed; {RESULTS}"
    )
    for task, text in failures.items():
        if text is not None:
            say(f"  {getattr(task, 'name', task.id)}: {text}")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say(f"\nInterrupted. {RESULTS} has the runs that are done; the same command computes the others.")
        sys.exit(130)
