"""The Executor inside jobs of a real Slurm: calls are steps of the job."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from clusters.slurm import SlurmCluster, until
from executor_tools import HEAD_OF_SCRIPTS

HEAD = (
    HEAD_OF_SCRIPTS
    + """
def where(i):
    names = ("SLURM_STEP_ID", "SLURMD_NODENAME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_CPUS_PER_TASK")
    return {"i": i, "cwd": os.getcwd(), "pid": os.getpid(), **{name: os.environ.get(name) for name in names}}

def meet(i, n):
    Path(f"here_{i}").touch()
    end = time.time() + 60
    while not all(Path(f"here_{k}").exists() for k in range(n)):
        if time.time() > end:
            raise TimeoutError("the others do not run")
        time.sleep(0.01)
    return where(i)

def alone(i):
    Path(f"running_{i}").touch()
    count = len(list(Path().glob("running_*")))
    time.sleep(0.2)
    Path(f"running_{i}").unlink()
    return count

def ranks(i):
    from mpi4py import MPI
    return i, MPI.COMM_WORLD.Get_size(), MPI.COMM_WORLD.Get_rank(), os.environ.get("SLURMD_NODENAME")
"""
)


class Job:
    """A job that runs a script."""

    def __init__(self, slurm: SlurmCluster, directory: Path, text: str, *options: str) -> None:
        self.slurm, self.directory = slurm, directory
        script = directory / "job.py"
        script.write_text(HEAD + text)
        line = f"cd {directory}\nexec {sys.executable} {script} >out 2>err"
        self.id = slurm.submit(line, "--output=/dev/null", f"--chdir={directory}", *options)

    def result(self) -> object:
        """Return what it has printed, as a value."""
        until(lambda: self.slurm.state(self.id) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), "the job's end")
        out, err = (self.directory / name for name in ("out", "err"))
        assert self.slurm.state(self.id) == "COMPLETED", err.read_text()
        return ast.literal_eval(out.read_text())


@pytest.fixture
def job(slurm_env, tmp_path):
    return lambda text, *options: Job(slurm_env, tmp_path, text, *options)


def test_calls_are_steps(job, tmp_path):
    found = job(
        """
with Executor() as exe:
    kind = repr(exe), exe.max_workers
    own = exe.submit(where, 9, resource_dict={"threads_per_core": 2, "cwd": "elsewhere"})
    print((kind, list(exe.map(where, range(3))), own.result()))
""",
        "--ntasks=2",
    ).result()
    kind, three, own = found
    assert kind == ("<expyre.Executor slurm>", 2)
    assert [each["i"] for each in three] == [0, 1, 2]
    assert len({each["SLURM_STEP_ID"] for each in three}) == 3
    assert all(each["OMP_NUM_THREADS"] == "1" for each in three)
    assert own["OMP_NUM_THREADS"] == "2"
    assert own["SLURM_CPUS_PER_TASK"] == "2"
    assert own["cwd"] == str(tmp_path / "elsewhere")


def test_workers_are_steps(job):
    found = job(
        """
with Executor(backend="slurm", block_allocation=True, max_workers=2) as exe:
    print([exe.submit(where, i).result() for i in range(4)])
""",
        "--ntasks=2",
    ).result()
    assert len({each["pid"] for each in found}) <= 2
    assert len({each["SLURM_STEP_ID"] for each in found}) <= 2


def test_steps_run_at_the_same_time_on_all_nodes_and_no_more_than_fit(job):
    found = job(
        """
with Executor() as exe:
    met = [exe.submit(meet, i, 4) for i in range(4)]
    met = [each.result() for each in met]
    counts = list(exe.map(alone, range(8)))
    print((met, counts))
""",
        "--nodes=2",
        "--ntasks-per-node=2",
    ).result()
    met, counts = found
    assert {each["SLURMD_NODENAME"] for each in met} == {"node1", "node2"}
    assert max(counts) <= 4


def test_no_two_calls_share_a_gpu(job):
    found = job(
        """
with Executor(gpus_per_worker=1) as exe:
    met = [exe.submit(meet, i, 2) for i in range(2)]
    print([each.result() for each in met])
""",
        "--ntasks=2",
        "--gres=gpu:2",
    ).result()
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in found) == ["0", "1"]


def test_ranks_on_both_nodes(job):
    found = job(
        """
with Executor(cores_per_worker=2) as exe:
    print((exe.submit(ranks, 1).result(), exe.submit(ranks, 2).result()))
""",
        "--nodes=2",
        "--ntasks-per-node=1",
    ).result()
    assert found == tuple([(i, 2, 0, "node1"), (i, 2, 1, "node2")] for i in (1, 2))


def test_what_srun_refuses_is_told(job):
    found = job(
        """
with Executor(command_line_argument_lst=["--partition=nowhere", "--no-such-option"]) as exe:
    error = exe.submit(where, 1).exception()
    print((type(error).__name__, str(error)))
""",
    ).result()
    assert found[0] == "WorkerDied"
    assert "no-such-option" in found[1]


def test_a_step_that_is_cancelled_costs_its_call(job, slurm_env, tmp_path):
    running = job(
        """
def wait(i):
    Path(f"step_{i}").write_text(os.environ["SLURM_STEP_ID"])
    time.sleep(300)

with Executor() as exe:
    error = exe.submit(wait, 1).exception()
    print((type(error).__name__, exe.submit(where, 2).result()["i"]))
""",
        "--ntasks=2",
    )
    step = tmp_path / "step_1"
    until(lambda: step.exists() and step.read_text(), "the step")
    slurm_env.run("scancel", f"{running.id}.{step.read_text()}")
    assert running.result() == ("WorkerDied", 2)


def test_no_step_outlives_its_script(job, slurm_env, tmp_path):
    running = job(
        """
import signal
def wait(i):
    Path(f"step_{i}").write_text(os.environ["SLURM_STEP_ID"])
    time.sleep(300)

if os.fork():
    os.wait()
    end = time.time() + 60
    while os.popen(f"squeue --noheader --steps --jobs=$SLURM_JOB_ID").read().count("python"):
        assert time.time() < end, "the step is still there"
        time.sleep(0.2)
    print(True)
else:
    exe = Executor(block_allocation=True, max_workers=1)
    exe.submit(wait, 1)
    while not Path("step_1").exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        "--ntasks=1",
    )
    assert running.result() is True


SAMPLE = """
with Executor(max_cores=1, backend="slurm") as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
"""


def test_the_sample(job):
    assert job(SAMPLE).result() == 2
