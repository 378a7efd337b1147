"""Grid Engine: scripts, and the whole life of jobs on a real one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from clusters.sge import GridEngine, sge, sge_env  # noqa: F401
from clusters.slurm import until

from expyre import states
from expyre.errors import SchedulerError, SubmitFailed
from expyre.schedulers import SGE, Submission
from expyre.schedulers.units import Unit

GOLDEN = Path(__file__).parents[1] / "assets" / "scripts"
NODES = {"num_nodes": 1, "num_cores": 4, "num_cores_per_node": 4}
HASH = "name_" + "h" * 43 + "=_abcd1234"


# -- scripts -----------------------------------------------------------------------------------------------------------


def golden(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_text()


def plain(**kwargs: Any) -> Submission:
    values = {"id": HASH, "directory": "run/d", "partition": "q", "commands": ("run",), "max_time": 3600, **kwargs}
    return Submission(**{"nodes": NODES, **values})


def test_the_script_of_a_job() -> None:
    golden("sge_job", SGE(None).script(plain(header=("#$ -q {queue}", "#$ -pe smp {num_cores}"))))


def test_the_script_of_an_array() -> None:
    unit = Unit("0123456789abcdef", (plain(id="a_x1"), plain(id="a_y2")), True, 1, 5)
    golden("sge_array", SGE(None).array_script(unit, "run/_expyre_submit/b/u"))
    command = """qsub -terse -t 1-2 -tc 5 -cwd -o '$TASK_ID.out' -e '$TASK_ID.err' "$unit"/script"""
    assert SGE(None).submit_command(unit) == command


def test_names_of_files_that_would_be_changed_are_not_given_to_the_queue() -> None:
    assert not SGE(None).needs_array(plain())
    assert all(SGE(None).needs_array(plain(id=id)) for id in ("a b", "a:b", "$USER", "a,b", "a\nb"))
    assert not SGE(None).can_array(plain(header=("#$ -t 1-3",)))
    assert not SGE(None).can_array(plain(header=("#$ -o /dev/null",), no_default_header=True))
    assert SGE(None).can_array(plain(header=("#$ -l gpu=1", "#$ -j y")))


def test_names_begin_with_a_letter() -> None:
    header = ("#$ -N {id}", "#$ -q x")
    lines = SGE(None).header(plain(id="1abc", header=header, no_default_header=True))
    assert lines == ["#$ -N N1abc", "#$ -q x"]


GPUS = {**NODES, "num_gpus": 2, "max_mem": 4001}


@pytest.mark.parametrize(
    ("options", "header", "lines"),
    [
        ({}, "", ["#$ -l gpu=2", "#$ -l mem_free=1001K"]),
        ({"gpu_resource": "cuda", "memory_resource": "h_vmem"}, "", ["#$ -l cuda=2", "#$ -l h_vmem=1001K"]),
        ({"gpu_resource": None, "memory_resource": None}, "", []),
        ({}, "#$ -l ngpus=1", ["#$ -l mem_free=1001K"]),
        ({}, "#$ -l h_vmem=1G", ["#$ -l gpu=2"]),
        ({}, "#$ -q x -l gpu=1,vf=2G", []),
    ],
)
def test_gpus_and_memory_are_asked_for_unless_the_header_does(
    options: dict[str, str | None], header: str, lines: list[str]
) -> None:
    given = (header,) if header else ()
    assert SGE(None, options=options).header(plain(nodes=GPUS, header=given))[len(given) + 7 :] == lines


def test_the_accounting_is_read_once_for_many_jobs() -> None:
    assert SGE(None).explain_script(["1.1", "1.2", "2"]).count("\nask accounting") == 2
    script = SGE(None).explain_script([str(number) for number in range(9)])
    assert script.count("\nask accounting") == 1
    assert "ask accounting '0 1 2 3 4 5 6 7 8' -o" in script
    assert "rm" not in SGE(None).explain_script(["1; rm"]).split()


_TABLE = "job-ID prior name\\n------\\n 7 0.5 a me r\\n 8 0.5 b me r"
_GONE = "Following jobs do not exist: \\n8"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"echo 'job_number: 7'; echo '/p/{'a' * 16}/script'; printf '{_GONE}' >&2; exit 1", {"a" * 16: "7"}),
        (f"printf '{_GONE}' >&2; exit 1", {}),
        ("echo 'error: commlib error: got select error (Connection refused)' >&2; exit 1", None),
        ("exit 1", None),
    ],
)
def test_a_master_that_goes_away_while_units_are_looked_for_is_no_answer(
    tmp_path: Path, answer: str, found: dict[str, str] | None
) -> None:
    program = tmp_path / "qstat"
    program.write_text(f'#!/bin/sh\n[ "$1" = -j ] || {{ printf "{_TABLE}"; exit 0; }}\n{answer}\n')
    program.chmod(0o755)
    queue = SGE(None, options={"env": {"PATH": f"{tmp_path}:/usr/bin:/bin"}})
    units = [Unit("a" * 16, ())]
    text = queue.transport.run(queue.in_shell(queue.names_script(units))).text
    if found is None:
        with pytest.raises(SchedulerError, match="cannot be asked"):
            queue.parse_names(text, units)
    else:
        assert queue.parse_names(text, units) == found


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expyre.schedulers.asking.SECONDS", 1)
    program = tmp_path / "qstat"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    queue = SGE(None, options={"env": {"PATH": f"{tmp_path}:/usr/bin:/bin"}})
    with pytest.raises(SchedulerError, match="no answer in 1 s"):
        queue.listing(["7"])


# -- life --------------------------------------------------------------------------------------------------------------


class Jobs:
    """Directories of jobs."""

    def __init__(self, root: Path, engine: GridEngine) -> None:
        self.place = root / "a place: it's, fine"
        self.place.mkdir()
        self.engine = engine

    def queue(self, **options: Any) -> SGE:
        queue = SGE(None, options={"env": self.engine.env, **options})
        queue.settle_time = 0.0  # type: ignore[misc]
        return queue

    def job(self, id: str, *commands: str, **kwargs: Any) -> Submission:
        """Return a job with its directory and its script in it."""
        directory = self.place / f"run_{id}"
        directory.mkdir(parents=True)
        values: dict[str, Any] = {"partition": "all.q", "max_time": 60, "token": f"token-{len(id)}-{id}", **kwargs}
        sub = Submission(id=id, directory=str(directory), commands=commands, **values)
        (directory / "job.script.sge").write_text(SGE(None).script(sub), "utf-8", "surrogateescape")
        return sub


@pytest.fixture
def jobs(sge_env: GridEngine, tmp_path: Path) -> Jobs:  # noqa: F811
    return Jobs(tmp_path, sge_env)


def submitted(queue: SGE, *subs: Submission) -> list[str]:
    answers = queue.submit_many(subs)
    assert all(isinstance(answer, str) for answer in answers.values()), answers
    return [str(answers[sub.id]) for sub in subs]


def reach(queue: SGE, ids: list[str], *wanted: str) -> None:
    def reached() -> bool:
        listings = queue.listing(ids)
        return [listings[id].state if id in listings else "gone" for id in ids] == list(wanted)

    until(reached, f"{wanted} of {ids}")


def ends(queue: SGE, ids: list[str]) -> list[tuple[str, int | None]]:
    """Return how jobs ended; the accounting may be late."""
    found = until(lambda: len(told := queue.explain(ids)) == len(ids) and told, f"accounting of {ids}")
    return [(found[id].reason, found[id].exit_code) for id in ids]


def read(sub: Submission, name: str) -> str:
    return (Path(sub.directory) / name).read_bytes().decode()


HOSTILE = ("a b", "it's", "$HOME `id`", "x:y,z", 'q"uo\\te', "new\nline", "-rf *", "é~!#%^(){}[]<>|;&")


def test_jobs_and_members_of_arrays_run_and_end(jobs: Jobs) -> None:
    queue = jobs.queue()
    subs = [jobs.job(f"job{i}=", "pwd -P", "echo oops >&2", f"exit {i}") for i in range(3)]
    odd = [jobs.job(name, "pwd -P", max_time=50) for name in HOSTILE]
    alone = jobs.job("alone", 'echo "$EXPYRE_NUM_CORES_PER_NODE"', max_time=40, header=("#$ -pe smp 2",))
    long = jobs.job("long", "sleep 60", max_time=2)
    ids = submitted(queue, *subs, alone, long, *odd)
    number = int(ids[0].partition(".")[0])
    assert ids[:3] == [f"{number}.{i}" for i in (1, 2, 3)]
    assert all(id.partition(".")[2] for id in ids[5:])
    reach(queue, ids, *["gone"] * len(ids))
    assert ends(queue, ids)[:5] == [
        (states.END_COMPLETED, 0),
        (states.END_DIED, 1),
        (states.END_DIED, 2),
        (states.END_COMPLETED, 0),
        (states.END_TIMED_OUT, 137),
    ]
    for sub, id in zip([*subs, *odd], [*ids[:3], *ids[5:]], strict=True):
        assert read(sub, f"job.{sub.id}.stdout") == f"{os.path.realpath(sub.directory)}\n"
        assert read(sub, "_expyre_queue_id") == f"{id}\n"
    assert read(subs[0], "job.job0=.stderr") == "oops\n"
    assert read(alone, "job.alone.stdout") == "2\n"
    assert read(alone, "_expyre_queue_id") == f"{ids[3]}\n"


def test_a_place_whose_name_would_be_changed(jobs: Jobs) -> None:
    jobs.place /= "$HOME\n$USER"
    queue = jobs.queue()
    subs = [jobs.job(f"job{i}", "pwd -P", "echo oops >&2") for i in range(2)]
    subs.append(jobs.job("alone", "pwd -P", "echo oops >&2", max_time=50))
    ids = submitted(queue, *subs)
    reach(queue, ids, *["gone"] * 3)
    for sub in subs:
        assert read(sub, f"job.{sub.id}.stdout") == f"{os.path.realpath(sub.directory)}\n"
        assert read(sub, f"job.{sub.id}.stderr") == "oops\n"


def test_jobs_are_held_released_and_cancelled(jobs: Jobs) -> None:
    queue = jobs.queue()
    members = [jobs.job(f"m{i}", "sleep 60", header=("#$ -h",)) for i in range(3)]
    alone = jobs.job("alone", "sleep 60", header=("#$ -h", "#$ -l h_vmem=1G"))
    ids = submitted(queue, *members, alone)
    reach(queue, ids, *[states.HELD] * 4)
    assert set(queue.why_pending(ids)) <= set(ids)
    # what was submitted is found although the answers are lost
    for file in [*jobs.place.glob("_expyre_submit/*/*/answer"), *jobs.place.glob("_expyre_submit/*/*/status")]:
        file.unlink()
    tokens = [sub.token for sub in (*members, alone)]
    assert jobs.queue().find(tokens, str(jobs.place)) == dict(zip(tokens, ids, strict=True))
    queue.release([ids[0], ids[3]])
    reach(queue, ids, states.RUNNING, states.HELD, states.HELD, states.RUNNING)
    queue.cancel([ids[0], ids[3], "99999999.1"])
    reach(queue, ids, "gone", states.HELD, states.HELD, "gone")
    assert ends(queue, [ids[0], ids[3]]) == [(states.END_CANCELLED, 137)] * 2
    queue.release(ids[1])
    queue.hold(ids[1])
    queue.cancel(ids)
    reach(queue, ids, *["gone"] * 4)
    assert queue.explain(["99999999.1"]) == {}


def test_what_cannot_start_says_why(jobs: Jobs) -> None:
    queue = jobs.queue(array=False)
    wrong = jobs.job("wrong", "true", no_default_header=True, header=("#$ -S /bin/bash", "#$ -o /nonexistent/x"))
    ids = submitted(queue, wrong)
    (waiting,) = submitted(queue, jobs.job("waiting", "true", header=("#$ -pe smp 500",)))
    try:
        reach(queue, ids, states.QUEUE_FAILED)
        assert "smp" in until(lambda: queue.why_pending([*ids, waiting]), "the reason")[waiting]
        assert "/nonexistent/x" in until(lambda: queue.explain(ids), "the reason")[ids[0]].detail
    finally:
        queue.cancel([*ids, waiting])
    (refused,) = queue.submit_many([jobs.job("bad", "true", header=("#$ -l badres=3",))]).values()
    assert isinstance(refused, SubmitFailed)
    assert "badres" in str(refused)
