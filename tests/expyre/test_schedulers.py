"""Job scripts: headers, quoting, variables; who is next in the queue of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre.errors import RequestError
from expyre.node.localqueue.budget import Demand, Free, choose
from expyre.schedulers import Local, Scheduler, Submission, schedulers
from expyre.schedulers.text import format_header, pre_submit_script, short_name

NODES = {"num_nodes": 2, "num_cores": 8, "num_cores_per_node": 4}


class Plain(Local):
    """A queue with an ordinary header, to see the text."""

    name = "plain"
    default_header = ("#Q name={id}", "#Q time={max_time}")
    header = Scheduler.header


def submission(**kwargs: object) -> Submission:
    values = {"id": "j", "directory": "/d", "partition": "p", "commands": ("run",), "nodes": NODES, **kwargs}
    return Submission(**values)  # type: ignore[arg-type]


def test_a_script_has_all_parts_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_HEADER_EXTRA", '["#Q extra={nnodes}"]')
    header = ("#Q {num_nodes}x{ppn} {partition}={queue}  ", "#Q {{braces}} {max_time_HMS}")
    shape = {"max_time": 90061, "directory": "it's a dir", "script_exec": "/bin/bash -l"}
    sub = submission(header=header, commands=("a", "b"), **shape)
    assert Plain(None).script(sub).splitlines() == [
        "#!/bin/bash -l",
        "#Q 2x4 p=p",
        "#Q {braces} 25:01:01",
        "#Q name=j",
        "#Q time=25:01:01",
        "#Q extra=2",
        "export EXPYRE_NUM_CORES_PER_NODE=4",
        "export EXPYRE_NCORES_PER_NODE=$EXPYRE_NUM_CORES_PER_NODE",
        "export EXPYRE_NUM_NODES=2",
        "export EXPYRE_NUM_CORES=8",
        "export EXPYRE_MAX_TIME=90061",
        'export EXPYRE_JOB_STARTED="$(date +%s)"',
        "cd \"$HOME\"/'it'\"'\"'s a dir' || exit 1",
        "a",
        "b",
    ]


def test_defaults_can_be_left_out_and_no_limit_gives_no_line() -> None:
    assert Plain(None).header(submission()) == ["#Q name=j"]
    assert Plain(None).header(submission(no_default_header=True, header=("#x {max_time}",))) == ["#x UNLIMITED"]


def test_all_mistakes_of_a_header_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError) as caught:
        format_header(["#Q {time}", "fine {id}", "#Q {", "#Q {nodes}"], {"id": 1, "max_time": 2})
    for words in ("'#Q {time}'", "{time}", "{nodes}", "'#Q {'", "id, max_time"):
        assert words in str(caught.value)
    monkeypatch.setenv("EXPYRE_HEADER_EXTRA", "no json")
    with pytest.raises(RequestError, match="EXPYRE_HEADER_EXTRA"):
        Plain(None).script(submission())
    monkeypatch.setenv("EXPYRE_HEADER_EXTRA", '"text"')
    with pytest.raises(RequestError, match="list of strings"):
        Plain(None).script(submission())


def test_header_lines_mean_nothing_to_the_local_queue() -> None:
    lines = Local(None).header(submission(header=("#SBATCH -p {partition}", "rm -rf x", "#!/bin/false", "# a\nb")))
    assert lines == ["#SBATCH -p p", "# rm -rf x", "# #!/bin/false", "# a", "# b"]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({"num_nodes": 3, "num_cores_per_node": 4}, "4 4 3 12"),
        ({"num_cores": 10, "num_cores_per_node": 4}, "4 4 3 10"),
        ({"num_cores_per_node": 4}, "4 4 1 4"),
        ({"num_nodes": 2, "num_cores": 7}, "4 4 2 7"),
        ({}, "1 1 1 1"),
    ],
)
def test_missing_counts_are_derived_in_the_job(nodes: dict[str, int], expected: str) -> None:
    names = ("EXPYRE_NUM_CORES_PER_NODE", "EXPYRE_NCORES_PER_NODE", "EXPYRE_NUM_NODES", "EXPYRE_NUM_CORES")
    script = "\n".join([*Scheduler.node_dict_env_var_commands(nodes), "echo " + " ".join(f"${name}" for name in names)])
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip() == expected


def test_variables_of_an_enclosing_job_are_forgotten_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURMY", "1")
    monkeypatch.delenv("WFL_SCHEDULER_IGNORE_ENV", raising=False)
    assert Scheduler.unset_scheduler_env_vars("SLURM") == []
    monkeypatch.setenv("WFL_SCHEDULER_IGNORE_ENV", "")
    assert Scheduler.unset_scheduler_env_vars("SLURM") == ["unset SLURM_JOB_ID"]


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ([], ""),
        (["module", "load", "x"], "module load x"),
        (["a", "&&", "b"], "a && b"),
        (["module load x", "module load y"], "module load x && module load y"),
        (["module load x", ";", "b c"], "module load x ; b c"),
        (["a", "b c"], "a && b c"),
    ],
)
def test_words_and_commands_before_submission(words: list[str], script: str) -> None:
    assert pre_submit_script(words) == script


def test_names_for_queues_that_allow_little() -> None:
    assert short_name("a name=+é" + "x" * 20, 8) == "xxxxxxxx"
    assert short_name("a=b/c", 15) == "a_b_c"


def test_schedulers_are_found_by_name(tmp_path: Path) -> None:
    assert schedulers["local"](None).script_name == "job.script.local"
    with pytest.raises(RequestError, match="file name"):
        schedulers["local"](None).submit("a/b", tmp_path, "p", [], None, [], {})


demands = st.builds(
    Demand,
    id=st.integers(0),
    cores=st.integers(1, 8),
    mem=st.integers(0, 100),
    gpus=st.integers(0, 2),
    partition=st.sampled_from("ab"),
    cap=st.sampled_from([None, 8]),
)
queues = st.lists(demands, unique_by=lambda demand: demand.id, max_size=20)


@given(queues, st.booleans())
def test_the_budget_is_never_exceeded(queue: list[Demand], patient: bool) -> None:
    overtaken: dict[int, float] = {} if patient else {demand.id: 0.0 for demand in queue}
    chosen = choose(queue, Free(8, 100, 2, {}), overtaken, 100.0, 60.0)
    assert sum(demand.cores for demand in chosen) <= 8
    assert sum(demand.mem for demand in chosen) <= 100
    assert sum(demand.gpus for demand in chosen) <= 2
    for name in "ab":
        limited = [demand for demand in chosen if demand.partition == name]
        assert sum(demand.cores for demand in limited) <= 8
    assert chosen[:1] == queue[:1]  # the first in an empty machine always starts


@given(queues)
def test_every_job_gets_its_turn(queue: list[Demand]) -> None:
    waiting, running, overtaken, now, rounds = list(queue), [], {}, 0.0, 0
    while waiting:
        free = Free.after(8, 100, 2, running)
        chosen = choose(waiting, free, overtaken, now, 3.0)
        running = [*running[1:], *chosen]  # the oldest ends in each round
        waiting = [demand for demand in waiting if demand not in chosen]
        now, rounds = now + 1, rounds + 1
        assert rounds < 500


def test_a_big_job_is_overtaken_only_for_a_while() -> None:
    big, small = Demand(1, 4), [Demand(i, 1) for i in range(2, 50)]
    running, overtaken = [Demand(0, 3)], {}
    started_big_at = None
    for now in range(40):
        waiting = [demand for demand in [big, *small] if demand not in running]
        chosen = choose(waiting, Free.after(4, 0, 0, running), overtaken, float(now), 5.0)
        small = [demand for demand in small if demand not in chosen]
        running = [*running, *chosen]
        if big in chosen:
            started_big_at = now
            break
        running = running[1:] if now % 2 else running
    assert overtaken == {1: 0.0}
    assert started_big_at is not None
    assert 5 <= started_big_at <= 15
