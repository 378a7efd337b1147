"""The Executor in a Flux instance, as far as that goes without Flux: a program stands in for ``flux run``.

It takes the options of the manual page that are used here, refuses all others, and starts the tasks through MPI's own
launcher. What a real instance does with them is not tested.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest

from expyre import Executor
from expyre.errors import RequestError, WorkerDied
from expyre.executor.requests import Request
from expyre.node.starters.flux import Flux

STAND_IN = """\
import json, os, sys
known = ("ntasks", "cores-per-task", "gpus-per-task", "cwd", "setopt", "job-name")
words, asked = sys.argv[2:], {{}}
if sys.argv[1:] == ["getattr", "size"]:
    print(os.environ["INSTANCE_SIZE"])
    sys.exit()
while words and words[0].startswith("--"):
    name, _, value = words.pop(0)[2:].partition("=")
    if name not in known:
        sys.exit(f"flux-run: error: unrecognized arguments: --{{name}}={{value}}")
    asked[name] = value
assert sys.argv[1] == "run" and words
with open({log!r}, "a") as file:
    file.write(json.dumps(asked) + "\\n")
os.chdir(asked.get("cwd", "."))
os.environ["FLUX_JOB_ID"] = "f1"
tasks = asked.get("ntasks", "1")
words = words if tasks == "1" else [{mpiexec!r}, "-n", tasks, *words]
os.execvp(words[0], words)
"""


@pytest.fixture
def flux(tmp_path, monkeypatch):
    """A Flux instance of sorts; a function that returns what was asked of it."""
    log = tmp_path / "log"
    program = tmp_path / "flux"
    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    program.write_text(f"#!{sys.executable}\n" + STAND_IN.format(log=str(log), mpiexec=mpiexec))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FLUX_URI", "local:///somewhere")
    monkeypatch.setenv("INSTANCE_SIZE", "1")
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def job_and_place():
    return os.environ["FLUX_JOB_ID"], os.getcwd(), os.environ["OMP_NUM_THREADS"]


def end_one():
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_rank() == 1:
        os._exit(3)
    MPI.COMM_WORLD.Barrier()


def ranks(i):
    from mpi4py import MPI

    return i, MPI.COMM_WORLD.Get_size(), MPI.COMM_WORLD.Get_rank()


def test_each_call_is_a_job(flux, tmp_path):
    with Executor(max_cores=2) as executor:
        assert repr(executor) == "<expyre.Executor flux>"
        request = {"threads_per_core": 2, "cwd": str(tmp_path), "command_line_argument_lst": ["--job-name=mine"]}
        assert executor.submit(job_and_place, resource_dict=request).result(timeout=60) == ("f1", str(tmp_path), "2")
    [asked] = flux()
    assert asked == {"ntasks": "1", "cores-per-task": "2", "job-name": "mine"}


class Stranger:
    def submit(self, jobspec):
        raise TypeError("a command is wanted, not a function")


def test_an_executor_of_flux_stands_for_its_instance(flux, monkeypatch):
    flux_job = types.ModuleType("flux.job")
    flux_job.FluxExecutor = type("FluxExecutor", (Stranger,), {"__module__": "flux.job.executor"})
    theirs = flux_job.FluxExecutor()
    monkeypatch.delenv("FLUX_URI")
    with Executor(max_cores=1, executor=theirs, resource_dict={"executor": theirs}) as executor:
        assert repr(executor) == "<expyre.Executor flux>"
        assert executor.submit(sum, [1, 1], resource_dict={"executor": theirs}).result(timeout=60) == 2
    assert len(flux()) == 1


@pytest.mark.parametrize(("size", "kind"), [("1", str), ("2", list)])
def test_a_path_is_enough_on_one_node(flux, monkeypatch, size, kind):
    monkeypatch.setenv("INSTANCE_SIZE", size)
    with Executor(max_cores=1) as executor:
        assert executor.submit(abs, -1).result(timeout=60) == 1
        assert isinstance(executor._service.backend._settings.launcher.door.address, kind)


def test_a_task_that_fails_ends_the_others(flux):
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        error = executor.submit(end_one).exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert flux()[0]["setopt"] == "exit-on-error"


def test_no_flux(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="the command flux, which is not there: load its module"):
        Executor(backend="flux", max_cores=1)


def test_each_worker_is_a_job(flux):
    with Executor(backend="flux", max_workers=1, block_allocation=True) as executor:
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
    assert len(flux()) == 1


def test_ranks(flux):
    with Executor(max_cores=2, cores_per_worker=2) as executor:
        assert executor.submit(ranks, 3).result(timeout=60) == [(3, 2, 0), (3, 2, 1)]
    assert [asked["ntasks"] for asked in flux()] == ["2"]


def test_what_flux_refuses_is_told(flux):
    with Executor(max_cores=1, command_line_argument_lst=["--queue=none"]) as executor:
        error = executor.submit(abs, 1).exception(timeout=60)
    assert isinstance(error, WorkerDied)
    assert "--queue=none" in str(error)


def test_gpus_are_asked_for_by_task(flux):
    words = Flux().command(Request(cores=2, threads_per_core=3, gpus=4))
    assert words == [
        "flux", "run", "--ntasks=2", "--cores-per-task=3", "--setopt=exit-on-error",
        "--gpus-per-task=2", "--setopt=gpu-affinity=per-task",
    ]  # fmt: skip
