"""Scripts for Slurm as they are written, and what they ask the queue for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre.schedulers import Slurm, Submission
from expyre.schedulers.units import Unit

GOLDEN = Path(__file__).parents[1] / "assets" / "scripts"
HASH = "h" * 43 + "="


def submission(id: str = "job", **kwargs: object) -> Submission:
    values = {"id": id, "directory": f"/scratch/u/run/run_{id}", "partition": "normal", "commands": ("run",), **kwargs}
    return Submission(**values)  # type: ignore[arg-type]


PLAIN = {
    "header": ("#SBATCH --partition={partition}", "#SBATCH --nodes={num_nodes} --ntasks-per-node={num_cores_per_node}"),
    "nodes": {"num_nodes": 2, "num_cores": 16, "num_cores_per_node": 8},
    "commands": ("module load python", "echo 'a command'"),
    "max_time": 5400,
}
GPU = {**PLAIN, "nodes": {**PLAIN["nodes"], "num_gpus": 2, "max_mem": 3_000_001}, "max_time": None}  # type: ignore[dict-item]


def member(number: int) -> Submission:
    return submission(f"relax_{HASH}_abcd{number:04d}", **PLAIN)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("slurm_job", Slurm(None).script(submission(f"relax_{HASH}_abcd1234", **PLAIN))),
        ("slurm_gpu_job", Slurm(None).script(submission("gpu", **{**GPU, "directory": "run/run gpu"}))),
        ("slurm_odd_job", Slurm(None).script(submission("it's %j\n$(x)", script_exec="/bin/bash -l"))),
        (
            "slurm_array",
            Slurm(None).array_script(
                Unit("0123456789abcdef", tuple(map(member, range(100))), True, 0, 10),
                "/scratch/u/run/_expyre_submit/b/u",
            ),
        ),
    ],
)
def test_scripts_are_as_they_were(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_text()


def lines_for(header: list[str], **nodes: object) -> list[str]:
    sub = submission(header=tuple(header), nodes=nodes)
    return Slurm(None).resource_header(sub, [*header, "#SBATCH --job-name=mem --comment=gres"])


@pytest.mark.parametrize(
    ("header", "gpus"),
    [
        ([], "#SBATCH --gres=gpu:2"),
        (["# --gres=gpu:1"], "#SBATCH --gres=gpu:2"),
        (["#SBATCH --gres=gpu:a100:1"], None),
        (["#SBATCH -p x --gres gpu:1"], None),
        (["#SBATCH --gpus=4"], None),
        (["#SBATCH --gpus-per-task=1"], None),
        (["#SBATCH -G 4"], None),
        (["#SBATCH -G4"], None),
        (["#SBATCH --tres-per-node=gres/gpu:1"], None),
        (["#SBATCH --gres=scratch:10G"], "#SBATCH --gpus-per-node=2"),
        (["#SBATCH --gpu-bind=closest"], "#SBATCH --gres=gpu:2"),
    ],
)
def test_gpus_are_asked_for_unless_the_header_does(header: list[str], gpus: str | None) -> None:
    assert lines_for(header, num_gpus=2) == ([gpus] if gpus else [])


@pytest.mark.parametrize(
    ("header", "nodes", "memory"),
    [
        ([], 1, "#SBATCH --mem=1001K"),
        ([], 2, "#SBATCH --mem=501K"),
        ([], None, "#SBATCH --mem=1001K"),
        (["#SBATCH --mem=5G"], 1, None),
        (["#SBATCH -p x --mem 5G"], 1, None),
        (["#SBATCH --mem-per-cpu=1G"], 1, None),
        (["#SBATCH --mem-per-gpu=1G"], 1, None),
        (["#SBATCH --mem-bind=local"], 1, "#SBATCH --mem=1001K"),
        (["echo --mem=5G"], 1, "#SBATCH --mem=1001K"),
    ],
)
def test_memory_is_asked_for_unless_the_header_does(header: list[str], nodes: int | None, memory: str | None) -> None:
    assert lines_for(header, max_mem=1001, num_nodes=nodes) == ([memory] if memory else [])


def test_whoever_writes_the_whole_header_asks_for_all_of_it() -> None:
    sub = submission(nodes={"num_gpus": 1, "max_mem": 5}, no_default_header=True, header=("#SBATCH -t {max_time}",))
    assert Slurm(None).header(sub) == ["#SBATCH -t UNLIMITED"]


@pytest.mark.parametrize(
    ("tasks", "cpus", "nodes", "expected"),
    [
        ("8(x2)", None, {"num_nodes": 2, "num_cores": 16}, "8 2 16"),
        ("4(x2),3", "2", {"num_nodes": 3, "num_cores": 22}, "8 3 22"),
        ("3,4", None, {}, "3 1 3"),
        ("1", "16", {"num_nodes": 1, "num_cores": 16, "num_cores_per_node": 16}, "16 1 16"),
        ("1(x2)", "16", {"num_nodes": 2}, "16 2 32"),
        (None, None, {"num_nodes": 2, "num_cores_per_node": 6}, "6 2 12"),
        ("6", None, {"num_cores": 10}, "6 2 10"),
    ],
)
def test_jobs_know_their_cores(tasks: str | None, cpus: str | None, nodes: dict[str, int], expected: str) -> None:
    given = {"SLURM_TASKS_PER_NODE": tasks, "SLURM_CPUS_PER_TASK": cpus, "EXPYRE_NUM_CORES_PER_NODE": "77"}
    names = ("EXPYRE_NUM_CORES_PER_NODE", "EXPYRE_NUM_NODES", "EXPYRE_NUM_CORES")
    script = "\n".join([*Slurm.node_dict_env_var_commands(nodes), "echo " + " ".join(f"${name}" for name in names)])
    env = {name: value for name, value in given.items() if value}
    for shell in ("bash", "sh"):
        assert subprocess.run([shell, "-c", script], capture_output=True, text=True, env=env, check=True).stdout == (
            f"{expected}\n"
        )


@given(st.text(max_size=30))
def test_names_of_jobs_mean_nothing_in_a_header(id: str) -> None:
    name = Slurm(None).job_name(id)
    assert len(name) == len(id)
    assert not set(name) & set(" \t\n\r\"'\\%#$`;&|<>*?()[]{}/")
    assert Slurm(None).job_name(name) == name


def test_questions_forget_the_job_in_which_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WFL_SCHEDULER_IGNORE_ENV", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert "SLURM_JOB_ID" not in Slurm(None).listing_script(["1"])
    assert "unset SLURM_ARRAY_JOB_ID" in Slurm(None).listing_script(["1"])
    monkeypatch.setenv("WFL_SCHEDULER_IGNORE_ENV", "1")
    assert "unset SLURM_JOB_ID" in Slurm(None).listing_script(["1"])


def test_clusters_and_variables_of_the_queues_commands() -> None:
    queue = Slurm(None, options={"clusters": "one,two words", "env": {"SLURM_CONF": "/a b"}})
    script = queue.listing_script(["1"])
    assert "export SLURM_CLUSTERS='one,two words'" in script
    assert "export SLURM_CONF='/a b'" in script


def test_a_comment_of_the_user_is_kept() -> None:
    unit = Unit("0123456789abcdef", (submission(),))
    assert "--comment=0123456789abcdef" in Slurm(None).submit_command(unit)
    own = Unit("0123456789abcdef", (submission(header=("#SBATCH --comment=mine",)),))
    assert "--comment" not in Slurm(None).submit_command(own)
