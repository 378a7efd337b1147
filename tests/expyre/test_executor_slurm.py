"""The Executor inside jobs of a real Slurm: calls are steps of the job."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from clusters.slurm import SlurmCluster, until
from executor_tools import HEAD_OF_SCRIPTS, MARK, marked, wait_until
from test_executor_samples import HEAD as HEAD_OF_SAMPLES
from test_executor_samples import SAMPLES

from expyre import Executor
from expyre.errors import RequestError

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


def test_steps_share_the_memory_of_the_job(job):
    found = job(
        """
with Executor() as exe:
    print([each.result()["i"] for each in [exe.submit(meet, i, 2) for i in range(2)]])
""",
        "--ntasks=2",
        "--mem=2000",
    ).result()
    assert found == [0, 1]


def test_gpus_are_given_to_those_who_ask(job):
    found = job(
        """
def gpus(i, n):
    meet(i, n)
    return os.environ.get("CUDA_VISIBLE_DEVICES")

with Executor() as exe:
    with_one = [exe.submit(gpus, i, 2, resource_dict={"gpus_per_core": 1}) for i in range(2)]
    with_one = sorted(each.result() for each in with_one)
    with_none = [each.result() for each in [exe.submit(gpus, i, 4) for i in (2, 3)]]
    ranks = exe.submit(gpus, 4, 5, resource_dict={"cores": 2, "gpus_per_core": 1}).result()
    try:
        exe.submit(gpus, 5, 6, resource_dict={"gpus_per_worker": 3})
    except ValueError as error:
        print((with_one, with_none, ranks, str(error)))
""",
        "--ntasks=2",
        "--gpus-per-node=2",
    ).result()
    assert found == (["0", "1"], [None, None], ["0", "1"], "3 GPUs are asked for, there are 2")


def test_ranks_are_on_one_node_if_they_fit(job):
    found = job(
        """
with Executor(cores_per_worker=2) as exe:
    print([each.result() for each in [exe.submit(ranks, i) for i in range(2)]])
""",
        "--nodes=2",
        "--ntasks-per-node=2",
    ).result()
    assert [[size for _, size, _, _ in call] for call in found] == [[2, 2], [2, 2]]
    assert all(len({node for *_, node in call}) == 1 for call in found)


def test_ranks_of_this_machine_within_a_job_of_two_nodes(job):
    found = job(
        """
def seen():
    from mpi4py import MPI
    names = ("SLURMD_NODENAME", "SLURM_STEP_ID", "SLURM_JOB_NUM_NODES")
    return MPI.COMM_WORLD.Get_size(), *(os.environ.get(name) for name in names)

with Executor(backend="mpi", max_cores=2, cores_per_worker=2) as exe:
    print(exe.submit(seen).result())
""",
        "--nodes=2",
    ).result()
    assert found == [(2, "node1", None, "2")] * 2


def test_a_rank_that_fails_ends_the_call(job):
    found = job(
        """
def fail(how):
    from mpi4py import MPI
    if MPI.COMM_WORLD.Get_rank() == 1:
        if how == "exit":
            os._exit(3)
        raise ValueError("rank 1 has failed")
    MPI.COMM_WORLD.Barrier()

with Executor(cores_per_worker=2) as exe:
    errors = [exe.submit(fail, how).exception() for how in ("exit", "raise")]
    print(([(type(error).__name__, str(error)) for error in errors], exe.submit(ranks, 1).result()))
""",
        "--nodes=2",
        "--ntasks-per-node=1",
    ).result()
    (exit_kind, _), raised = found[0]
    assert exit_kind == "WorkerDied"
    assert raised == ("ValueError", "rank 1 has failed")
    assert len(found[1]) == 2


def test_more_calls_than_cores_if_asked_for(job):
    found = job(
        """
with Executor(max_workers=3, oversubscribe=True, hostname_localhost=True) as exe:
    print([each.result()["i"] for each in [exe.submit(meet, i, 3) for i in range(3)]])
""",
        "--ntasks=1",
    ).result()
    assert found == [0, 1, 2]


def test_further_words_for_srun(job):
    found = job(
        """
def name():
    return os.environ["SLURM_JOB_NAME"]

with Executor(command_line_argument_lst=["--job-name=mine"]) as exe:
    own = exe.submit(name, resource_dict={"command_line_argument_lst": ["--job-name=other"]})
    print((exe.submit(name).result(), own.result()))
""",
    ).result()
    assert found == ("mine", "other")


def test_where_salloc_was_called(slurm_env, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(HEAD + "with Executor() as exe:\n    print([each['i'] for each in exe.map(where, range(3))])\n")
    for nodes in ("1", "2"):
        out = slurm_env.run("salloc", f"--nodes={nodes}", "--ntasks-per-node=1", sys.executable, str(script))
        assert out == "[0, 1, 2]\n"


def test_a_script_that_is_a_step_itself(slurm_env, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(HEAD + "with Executor(oversubscribe=OVER) as exe:\n    print(exe.submit(abs, -1).result())\n")
    shared = tmp_path / "shared.py"
    shared.write_text(script.read_text().replace("OVER", "True"))
    assert slurm_env.run("srun", "--ntasks=1", "--mem=100", sys.executable, str(shared)) == "1\n"
    script.write_text(HEAD + "Executor().shutdown()")
    out = slurm_env.run("srun", "--ntasks=1", "--mem=100", "sh", "-c", f"exec {sys.executable} {script} 2>&1")
    assert "was itself started by srun" in out


def test_nothing_is_left_of_a_job_that_is_ended(job, slurm_env, tmp_path, monkeypatch):
    monkeypatch.setenv(MARK, str(tmp_path))
    running = job(
        """
import signal, subprocess
def stay(i):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "600"])
    Path(f"here_{i}").touch()
    time.sleep(600)

with Executor(block_allocation=True, max_workers=2) as exe:
    [exe.submit(stay, i) for i in range(2)][0].result()
""",
        "--nodes=2",
        "--ntasks-per-node=1",
    )
    until(lambda: all((tmp_path / f"here_{i}").exists() for i in range(2)), "calls on both nodes")
    found = marked(str(tmp_path))
    assert len(found) >= 5  # the script, its keeper, srun, workers
    secret = re.compile(rb"[0-9a-f]{64}")
    assert not any(secret.search(Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in found)
    slurm_env.run("scancel", running.id)
    wait_until(lambda: not marked(str(tmp_path)), 30.0, "the end of all processes")


def test_outside_a_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(RequestError, match=r"steps of the job of Slurm .* it runs in none: submit the script"):
        Executor(backend="slurm")


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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
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


def test_samples(job, tmp_path):
    names = ["sum", "map", "resources", "data", "ranks", "coupled"]
    for name in names:
        (tmp_path / f"{name}.py").write_text(HEAD_OF_SAMPLES + SAMPLES[name][0].replace('"local"', '"slurm"'))
    body = f"""
import subprocess
print([subprocess.run([sys.executable, f"{{name}}.py"], stdout=-1, text=True).stdout for name in {names}])
"""
    assert job(body, "--ntasks=2").result() == [SAMPLES[name][1] + "\n" for name in names]
