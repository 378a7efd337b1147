"""Scripts whose executor is named by ``WFL_EXECUTOR``: they need not know of it, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import engine_executors
import psutil
import pytest
from clusters.slurm import SlurmCluster, until

HERE = Path(__file__).parent
SCRIPT = """
import os, sys, time
from ase import Atoms
from wfl.autoparallelize import autoparallelize
from wfl.configset import OutputSpec

class Here:
    factor = 5

def op(items, here, how=""):
    if 0 in items and how == "fail":
        raise ValueError("zero is not there")
    if 1 in items and how == "fail":
        time.sleep(120)
    job = "SLURM_JOB_ID" in os.environ
    return [Atoms("H", info={"n": here.factor * i, "process": os.getpid(), "job": job}) for i in items]

if __name__ == "__main__":
    found = list(autoparallelize(op, range(9), OutputSpec(), Here(), *sys.argv[1:]))
    assert [atoms.info["n"] for atoms in found] == [5 * i for i in range(9)]
    assert os.getpid() not in {atoms.info["process"] for atoms in found}
    print("good, in jobs" if all(atoms.info["job"] for atoms in found) else "good")
"""


def marked(mark: str) -> Iterator[psutil.Process]:
    """Yield the processes with a mark in their environment."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK_OF_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def run(name: str, directory: Path, *words: str, **more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script on an executor; return what came of it, and the command lines of processes that it has left."""
    (directory / "script.py").write_text(SCRIPT)
    mark = uuid.uuid4().hex
    env = {name: value for name, value in os.environ.items() if not name.startswith("WFL_")} | {
        "PYTHONPATH": f"{HERE.parent.parent}:{HERE}", "WFL_EXECUTOR": f"engine_executors:{name}", "MARK_OF_TEST": mark,
    } | more  # fmt: skip
    command = [sys.executable, "script.py", *words]
    done = subprocess.run(command, cwd=directory, env=env, text=True, capture_output=True, timeout=240, check=False)
    deadline = time.monotonic() + 60
    while (left := list(marked(mark))) and time.monotonic() < deadline:
        time.sleep(0.1)
    commands = [" ".join(process.cmdline()) for process in left]
    for process in left:
        process.kill()
    return done, commands


@pytest.mark.parametrize("name", [name for name in engine_executors.NEEDS if name != "parsl_on_slurm"])
def test_script(name: str, tmp_path: Path) -> None:
    if reason := engine_executors.missing(name):
        pytest.skip(reason)
    done, left = run(name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "good\n"
    assert "Exception ignored" not in done.stderr
    assert "Error in atexit" not in done.stderr
    assert left == []


def test_script_on_slurm(slurm_env: SlurmCluster, tmp_path: Path) -> None:
    if reason := engine_executors.missing("parsl_on_slurm"):
        pytest.skip(reason)
    done, left = run("parsl_on_slurm", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "good, in jobs\n"
    assert left == []
    until(lambda: not slurm_env.jobs(), "the end of the jobs of the script")


@pytest.mark.parametrize("name", ["dask", "parsl"])
def test_script_that_fails_does_not_wait_for_what_it_cannot_stop(name: str, tmp_path: Path) -> None:
    if reason := engine_executors.missing(name):
        pytest.skip(reason)
    done, left = run(name, tmp_path, "fail")
    assert done.returncode == 1
    assert "ValueError: zero is not there" in done.stderr
    assert left == []


def test_factory_that_makes_no_executor(tmp_path: Path) -> None:
    done, _ = run("marked", tmp_path, WFL_EXECUTOR="os:getcwd")
    assert done.returncode == 1
    assert f"WFL_EXECUTOR=os:getcwd: getcwd() returned {str(tmp_path)!r}, not an executor" in done.stderr
