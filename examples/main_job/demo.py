"""The main job, shown: an unchanged script becomes cached jobs, is killed half way, rerun, and computes nothing twice.

    python examples/main_job/demo.py [DIRECTORY]

The work directory (default `_demo`) is made anew and holds everything the demonstration writes.
"""

import collections
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def make_structures():
    """Write the metals of ASE's `dcdft` set that EMT describes, as rattled 2x2x2 cells, and `g2` molecules."""
    import ase.io
    import numpy as np
    from ase.collections import dcdft, g2

    rng = np.random.default_rng(0)
    solids = []
    for name in ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"):
        for strain in (0.98, 1.03):
            atoms = dcdft[name] * (2, 2, 2)
            atoms.set_cell(atoms.cell * strain, scale_atoms=True)
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
            atoms.info["name"] = name
            solids.append(atoms)
    molecules = []
    for name in ("H2O", "CO2", "CH3OH", "C2H6", "C2H4", "N2H4", "C6H6", "CH3CH2OH", "HCOOH", "CH3CN", "CO", "C2H2"):
        atoms = g2[name]
        atoms.info["name"] = name
        molecules.append(atoms)
    ase.io.write("solids.xyz", solids)
    ase.io.write("molecules.xyz", molecules)
    return len(solids), len(molecules)


def say(text):
    print(f"\n=== {text}", flush=True)


def run_xpr(*args):
    print("$ xpr " + " ".join(args), flush=True)
    subprocess.run([sys.executable, "-m", "expyre.cli", *args], check=True)


def submissions():
    """Return how often each job was handed to the queue, and how many jobs have ended with a result."""
    import expyre.config

    project = expyre.config.Project.discover(Path.cwd() / "_expyre")
    counts = collections.Counter()
    for row in project.record.query():
        events = project.record.history(row.id)
        counts[row.id] = sum((note or "").startswith("submitted to") for *_, note in events)
    done = sum(row.status in ("succeeded", "processed") for row in project.record.query())
    project.close()
    return counts, done


def start_script():
    return subprocess.Popen([sys.executable, str(HERE / "do_workflow.py")], start_new_session=True)


def kill_half_way(script, wanted):
    """Kill the script without warning as soon as `wanted` jobs have a result."""
    while script.poll() is None:
        if sum(1 for _ in Path("_expyre").glob("run_*/_expyre_job_succeeded")) >= wanted:
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()
            return True
        time.sleep(0.05)
    return False


def show_results():
    from wfl.configset import ConfigSet

    frames = collections.defaultdict(list)
    for atoms in ConfigSet("md.xyz"):
        frames[atoms.info["name"], len(atoms)].append(atoms)
    relaxed = {}
    for atoms in ConfigSet(["relaxed.solids.xyz", "relaxed.molecules.xyz"]):
        relaxed.setdefault((atoms.info["name"], len(atoms)), []).append(atoms)
    print(f"{'structure':>10} {'atoms':>5} {'runs':>4} {'E relaxed':>11} {'V/atom':>8} {'<T> of MD':>9}")
    print(f"{'':>10} {'':>5} {'':>4} {'eV/atom':>11} {'A^3':>8} {'K':>9}")
    rows = []
    for (name, n), group in relaxed.items():
        energy = min(at.info["last_op__optimize_energy"] for at in group) / n
        volume = f"{group[0].get_volume() / n:8.3f}" if group[0].pbc.all() else f"{'-':>8}"
        temperature = sum(at.get_temperature() for at in frames[name, n]) / len(frames[name, n])
        rows.append((name, energy, temperature))
        print(f"{name:>10} {n:>5} {len(group):>4} {energy:>11.4f} {volume} {temperature:>9.0f}")
    return frames


def plot(frames):
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(7, 4))
    for (name, n), group in frames.items():
        if group[0].pbc.all():
            ends = [i for i, at in enumerate(group) if at.info["MD_step"] == 0] + [len(group)]
            run = group[: ends[1]]  # of the runs of one metal the first
            ax.plot([at.info["MD_time_fs"] for at in run], [at.get_temperature() for at in run], label=f"{name}{n}")
    ax.set_xlabel("time / fs")
    ax.set_ylabel("temperature / K")
    ax.legend(ncol=2)
    fig.tight_layout()
    fig.savefig("md_temperature.png", dpi=150)
    print(f"\nplot: {Path('md_temperature.png').resolve()}")


def main():
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "_demo").resolve()
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "_expyre").mkdir(parents=True)
    os.chdir(directory)
    os.environ["WFL_EXPYRE_INFO"] = str(HERE / "remoteinfo.json")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["EXPYRE_LOCAL_DIR"] = str(directory / "_queue")
    began = time.monotonic()

    say("Structures")
    n_solids, n_molecules = make_structures()
    print(f"{n_solids} solids, {n_molecules} molecules")

    say("The script, routed to the embedded queue by WFL_EXPYRE_INFO, and killed half way (kill -9)")
    script = start_script()
    if not kill_half_way(script, wanted=4):
        sys.exit("the script ended before it could be killed")
    run_xpr("ls")

    say("The same script again, unchanged")
    subprocess.run([sys.executable, str(HERE / "do_workflow.py")], check=True)
    run_xpr("ls")

    say("What was computed")
    counts, done = submissions()
    twice = {job: n for job, n in counts.items() if n != 1}
    print(f"{len(counts)} jobs, each submitted {twice if twice else 'once'}, {done} with a result")
    frames = show_results()
    plot(frames)
    print(f"\n{time.monotonic() - began:.0f} s in all, in {directory}")
    if twice or done != len(counts):
        sys.exit("some jobs were submitted twice or have no result")


if __name__ == "__main__":
    main()
