"""PBS: scripts, and the whole life of jobs, on programs that stand in for OpenPBS and for Torque."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters.pbs_standin import StandIn
from clusters.slurm import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expyre import ExPyRe, config, states
from expyre.errors import QueueFull, SchedulerError, SubmitFailed
from expyre.schedulers import PBS, Submission
from expyre.schedulers.units import Unit

GOLDEN = Path(__file__).parents[1] / "assets" / "scripts"
NODES = {"num_nodes": 2, "num_cores": 8, "num_cores_per_node": 4}
HASH = "name_" + "h" * 43 + "=_abcd1234"


class Cluster:
    """A stand-in with directories for jobs."""

    def __init__(self, root: Path, dialect: str, **config: Any) -> None:
        self.pbs = StandIn(root / "pbs", dialect=dialect, **config)
        self.place = root / "place"
        self.place.mkdir()
        self.dialect = dialect

    def queue(self, **options: Any) -> PBS:
        queue = PBS(None, options={"env": {"PATH": self.pbs.path}, **options})
        queue.settle_time = 0.0  # type: ignore[misc]
        return queue

    def job(self, id: str, *commands: str, place: Path | None = None, **kwargs: Any) -> Submission:
        """Return a job with its directory and its script in it."""
        directory = (place or self.place) / f"run_{id}"
        directory.mkdir(parents=True)
        values: dict[str, Any] = {"partition": "workq", "max_time": 60, "token": f"token-{len(id)}-{id}", **kwargs}
        sub = Submission(id=id, directory=str(directory), commands=commands, **values)
        script = PBS(None, options={"dialect": self.dialect}).script(sub)
        (directory / "job.script.pbs").write_text(script, "utf-8", "surrogateescape")
        return sub


@pytest.fixture(params=["openpbs", "torque"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, request.param)
    yield cluster
    cluster.pbs.stop()


def submitted(queue: PBS, *subs: Submission) -> list[str]:
    answers = queue.submit_many(subs)
    assert all(isinstance(answer, str) for answer in answers.values()), answers
    return [str(answers[sub.id]) for sub in subs]


def reach(queue: PBS, ids: list[str], *wanted: str) -> None:
    def reached() -> bool:
        listings = queue.listing(ids)
        return [listings[id].state if id in listings else "unknown" for id in ids] == list(wanted)

    until(reached, f"{wanted} of {ids}")


def read(sub: Submission, name: str) -> str:
    return (Path(sub.directory) / name).read_bytes().decode()


# -- scripts -----------------------------------------------------------------------------------------------------------


def golden(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_text()


def plain(**kwargs: Any) -> Submission:
    values = {"id": HASH, "directory": "run/d", "partition": "q", "commands": ("run",), "max_time": 3600, **kwargs}
    return Submission(**{"nodes": NODES, **values})


def test_the_script_of_a_job() -> None:
    header = ("#PBS -q {queue}", "#PBS -l select={nnodes}:ncpus={ppn}:mpiprocs={ppn}")
    golden("pbs_job", PBS(None).script(plain(header=header)))


def test_the_script_of_a_job_whose_name_means_something_to_pbs() -> None:
    golden("pbs_odd_job", PBS(None).script(plain(id="it's a:b$\n^array_index^", directory="/d ir", max_time=None)))


def test_the_script_of_an_array() -> None:
    unit = Unit("0123456789abcdef", (plain(id="a_x1"), plain(id="a_y2")), True, 1, 5)
    queue = PBS(None, options={"dialect": "openpbs"})
    golden("pbs_array", queue.array_script(unit, "run/_expyre_submit/b/u"))
    assert queue.submit_command(unit) == 'qsub -r y -J 1-2%5 -j oe "$unit"/script'
    assert PBS(None, options={"dialect": "torque"}).submit_command(unit).startswith("qsub -r n -t 1-2%5 ")


def test_a_job_of_the_array_is_known_by_the_path_of_its_script() -> None:
    unit = Unit("0123456789abcdef", (plain(),), False, 1)
    assert PBS(None).submit_command(unit) == 'qsub "$unit"/1.dir/job.script.pbs'


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (f"N_{HASH}", "N_hhh__abcd1234"),
        ("a=b", "a_b"),
        ("1abc", "N1abc"),
        ("short", "short"),
    ],
)
def test_names_are_such_as_all_versions_take(name: str, short: str) -> None:
    lines = PBS(None).header(plain(no_default_header=True, header=(f"#PBS -N {name}", "#PBS -q x")))
    assert lines == [f"#PBS -N {short}", "#PBS -q x"]


def test_names_may_be_longer_where_the_version_takes_them() -> None:
    queue = PBS(None, options={"name_length": 230})
    assert queue.header(plain())[0] == f"#PBS -N N_{HASH.replace('=', '_')}"


GPUS = {**NODES, "num_gpus": 2, "max_mem": 4000}


@pytest.mark.parametrize(
    ("dialect", "header", "nodes", "lines"),
    [
        ("openpbs", "", GPUS, ["#PBS -l select=2:ncpus=4:mpiprocs=4:ngpus=2:mem=2000kb"]),
        ("torque", "", GPUS, ["#PBS -l nodes=2:ppn=4:gpus=2,mem=4000kb"]),
        ("openpbs", "", {**NODES, "max_mem": 4000}, ["#PBS -l mem=4000kb"]),
        ("openpbs", "#PBS -l select=1:ncpus=1", GPUS, []),
        ("torque", "#PBS -l nodes=2:ppn=4", GPUS, ["#PBS -l mem=4000kb"]),
        ("torque", "#PBS -l nodes=2:ppn=4,pmem=1gb", GPUS, []),
        ("openpbs", "#PBS -l vmem=1gb", GPUS, ["#PBS -l select=2:ncpus=4:mpiprocs=4:ngpus=2"]),
        ("openpbs", "#PBS -l walltime=1:00", NODES, []),
    ],
)
def test_gpus_and_memory_are_asked_for_unless_the_header_does(
    dialect: str, header: str, nodes: dict[str, int], lines: list[str]
) -> None:
    queue = PBS(None, options={"dialect": dialect})
    given = (header,) if header else ()
    assert queue.header(plain(nodes=nodes, header=given))[len(given) + 6 :] == lines
    assert queue.header(plain(nodes=nodes, header=given, no_default_header=True)) == list(given)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("select=2:ncpus=4", "select=2:ncpus=4:ngpus=2:mem=2000kb"),
        ("select=2:ncpus=4:mem=5gb", "select=2:ncpus=4:mem=5gb:ngpus=2"),
        ("select=2:ncpus=4:ngpus=1", "select=2:ncpus=4:ngpus=1:mem=2000kb"),
        ("select=2:ncpus=4,walltime=60", "select=2:ncpus=4:ngpus=2:mem=2000kb,walltime=60"),
        ("select=1:ncpus=4+2:ncpus=8", "select=1:ncpus=4+2:ncpus=8"),
        ("select=2:ncpus=4,mem=1gb", "select=2:ncpus=4:ngpus=2,mem=1gb"),
        ("select=2:ncpus=4 -l place=excl", "select=2:ncpus=4:ngpus=2:mem=2000kb -l place=excl"),
    ],
)
def test_chunks_that_the_header_asks_for_get_what_they_lack(given: str, line: str) -> None:
    queue = PBS(None, options={"dialect": "openpbs"})
    assert queue.header(plain(nodes=GPUS, header=(f"#PBS -l {given}",)))[0] == f"#PBS -l {line}"
    assert queue.header(plain(nodes=GPUS, header=(f"#PBS -l {given}",), no_default_header=True)) == [f"#PBS -l {given}"]


@pytest.mark.parametrize("line", ["#PBS -J 1-3", "#PBS -t 1-3", "#PBS -W block=true", "#PBS -q x -I"])
def test_headers_that_an_array_would_contradict_keep_a_job_alone(line: str) -> None:
    assert not PBS(None).can_array(plain(header=(line,)))
    assert PBS(None).can_array(plain(header=("#PBS -l place=scatter", "#PBS -W umask=022")))


def test_variables_of_an_enclosing_job_are_forgotten_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBS_JOBID", "1.vm")
    monkeypatch.setenv("PBS_SERVER", "vm")
    assert "unset PBS_JOBID" not in PBS(None).listing_script(["2.vm"])
    monkeypatch.setenv("WFL_SCHEDULER_IGNORE_ENV", "1")
    script = PBS(None).listing_script(["2.vm"])
    assert "unset PBS_JOBID" in script
    assert "unset PBS_SERVER" not in script


# -- life --------------------------------------------------------------------------------------------------------------


def test_members_of_an_array_are_jobs(cluster: Cluster) -> None:
    queue = cluster.queue()
    subs = [cluster.job(f"job{i}=", "pwd", "echo oops >&2", f"exit {i}") for i in range(3)]
    ids = submitted(queue, *subs)
    assert ids == ["0[1].vm", "0[2].vm", "0[3].vm"]
    reach(queue, ids, *[states.DONE] * 3)
    for sub, id in zip(subs, ids, strict=True):
        assert read(sub, f"job.{sub.id}.stdout") == f"{sub.directory}\n"
        assert read(sub, f"job.{sub.id}.stderr") == "oops\n"
        assert read(sub, "_expyre_queue_id") == f"{id}\n"
    ends = queue.explain(ids)
    assert [(ends[id].reason, ends[id].exit_code) for id in ids] == [
        (states.END_COMPLETED, 0),
        (states.END_DIED, 1),
        (states.END_DIED, 2),
    ]
    assert queue.find([sub.token for sub in subs], str(cluster.place)) == dict(
        zip([sub.token for sub in subs], ids, strict=True)
    )


def test_a_job_alone(cluster: Cluster) -> None:
    queue = cluster.queue(array=False)
    layout = "nodes=1:ppn=2" if cluster.dialect == "torque" else "select=1:ncpus=2"
    sub = cluster.job(
        "alone", 'echo "$EXPYRE_NUM_CORES_PER_NODE"', "sleep 60", max_time=1, header=(f"#PBS -l {layout}",)
    )
    other = cluster.job("odd one: $x", "echo heard")
    ids = submitted(queue, sub, other)
    assert ids == ["0.vm", "1.vm"]
    reach(queue, ids, states.DONE, states.DONE)
    assert read(sub, "job.alone.stdout") == "2\n"
    assert "exceeded limit" in read(sub, "job.alone.stderr")
    assert read(other, f"job.{other.id}.stdout") == "heard\n"
    ends = queue.explain(ids)
    assert (ends[ids[0]].reason, ends[ids[1]].reason) == (states.END_TIMED_OUT, states.END_COMPLETED)
    assert "walltime" in ends[ids[0]].detail


def test_jobs_are_held_released_and_cancelled(cluster: Cluster) -> None:
    cluster.pbs.configure(ncpus=1)
    queue = cluster.queue(array=False)
    first, second = submitted(queue, cluster.job("first", "sleep 60"), cluster.job("second", "sleep 60"))
    reach(queue, [first, second], states.RUNNING, states.QUEUED)
    assert "Insufficient amount" in queue.why_pending([first, second])[second]
    queue.hold(second)
    reach(queue, [second], states.HELD)
    assert "held" in queue.why_pending([second])[second]
    queue.release([second])
    reach(queue, [second], states.QUEUED)
    queue.cancel([first, "999.vm"])
    reach(queue, [first, second], states.DONE, states.RUNNING)
    assert queue.explain([first, second])[first].reason == states.END_CANCELLED
    queue.cancel([first, second])
    reach(queue, [first, second], states.DONE, states.DONE)
    queue.cancel([first, second])
    with pytest.raises(SchedulerError, match="999"):
        queue.hold("999.vm")


def test_a_member_is_cancelled_alone(cluster: Cluster) -> None:
    queue = cluster.queue(max_running=2)
    ids = submitted(queue, *[cluster.job(f"m{i}", "sleep 60") for i in range(3)])
    reach(queue, ids, states.RUNNING, states.RUNNING, states.QUEUED)
    queue.cancel(ids[1])
    reach(queue, ids, states.RUNNING, states.DONE, states.RUNNING)
    assert queue.explain(ids)[ids[1]].reason == states.END_CANCELLED
    queue.cancel(ids)
    reach(queue, ids, *[states.DONE] * 3)


def test_members_are_held_alone_where_the_dialect_can(cluster: Cluster) -> None:
    cluster.pbs.configure(ncpus=1)
    queue = cluster.queue()
    ids = submitted(queue, *[cluster.job(f"m{i}", "sleep 60") for i in range(2)])
    reach(queue, ids, states.RUNNING, states.QUEUED)
    if cluster.dialect == "torque":
        queue.hold(ids[1])
        reach(queue, ids, states.RUNNING, states.HELD)
        queue.release(ids[1])
        reach(queue, ids, states.RUNNING, states.QUEUED)
    else:
        with pytest.raises(SchedulerError, match='"array": false'):
            queue.hold(ids[1])


def test_jobs_are_found_although_the_answer_was_lost(cluster: Cluster) -> None:
    held = {"header": ("#PBS -h",)}
    subs = [cluster.job(f"job{i}", "true", **held) for i in range(2)]
    alone = cluster.job("alone", "true", max_time=30, **held)
    ids = submitted(cluster.queue(), *subs, alone)
    for file in [*cluster.place.glob("_expyre_submit/*/*/answer"), *cluster.place.glob("_expyre_submit/*/*/status")]:
        file.unlink()
    queue = cluster.queue()
    tokens = [sub.token for sub in (*subs, alone)]
    assert queue.find(tokens, str(cluster.place)) == dict(zip(tokens, ids, strict=True))
    assert queue.submit_many([*subs, alone]) == dict(zip(["job0", "job1", "alone"], ids, strict=True))
    assert sum(call.startswith("qsub /") or " /" in call for call in cluster.pbs.calls()) == 2


def test_a_listing_is_one_question_whatever_the_number_of_members(cluster: Cluster) -> None:
    queue = cluster.queue()
    ids = submitted(queue, *[cluster.job(f"m{i}", "true") for i in range(5)])
    cluster.pbs.calls()
    queue.listing([*ids, "99.vm"])
    assert [call for call in cluster.pbs.calls() if call.startswith("qstat")] == [
        "qstat -t 0[].vm 99.vm" if cluster.dialect == "torque" else "qstat -x -t 0[].vm 99.vm"
    ]


def test_arrays_are_divided_at_the_limit_of_the_server(cluster: Cluster) -> None:
    cluster.pbs.configure(max_array_size=2)
    ids = submitted(cluster.queue(), *[cluster.job(f"m{i}", "true") for i in range(5)])
    assert ids == ["0[1].vm", "0[2].vm", "1[1].vm", "1[2].vm", "2.vm"]


def test_a_full_queue_and_a_refusal_are_told_apart(cluster: Cluster) -> None:
    cluster.pbs.configure(max_queued=2, ncpus=1)
    queue = cluster.queue(array=False)
    answers = list(queue.submit_many([cluster.job(f"m{i}", "sleep 60") for i in range(3)]).values())
    assert [isinstance(answer, str) for answer in answers] == [True, True, False]
    assert isinstance(answers[2], QueueFull)
    cluster.pbs.configure(max_queued=0)
    (refused,) = queue.submit_many([cluster.job("bad", "true", header=("#PBS -q nosuch",))]).values()
    assert isinstance(refused, SubmitFailed)
    assert not isinstance(refused, QueueFull)
    assert "Unknown queue" in str(refused)


def test_a_shell_that_talks_is_no_answer(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noise").write_text("echo '99.vm welcomes you R q'; echo 'Job Id: 9.vm' >&2\n")
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "noise"))
    queue = cluster.queue()
    assert "welcomes" in queue.transport.run("true").text
    (id,) = submitted(queue, cluster.job("a", "true"))
    reach(queue, [id], states.DONE)
    assert queue.listing(["99.vm", "9.vm"]) == {}
    assert queue.explain([id])[id].reason == states.END_COMPLETED


@pytest.mark.parametrize("fault", ["down", "garbled"])
def test_a_server_that_cannot_be_asked_says_nothing(cluster: Cluster, fault: str) -> None:
    queue = cluster.queue()
    ids = submitted(queue, cluster.job("a", "true"))
    cluster.pbs.configure(**{fault: True})
    with pytest.raises(SchedulerError):
        queue.listing(ids)
    if fault == "down":
        with pytest.raises(SchedulerError, match="connect"):
            cluster.queue().submit_many([cluster.job("b", "true")])
        with pytest.raises(SchedulerError, match="connect"):
            queue.cancel(ids)
    cluster.pbs.configure(**{fault: False})
    reach(queue, ids, states.DONE)


def hang(program: Path) -> None:
    """Let a program answer no more."""
    program.unlink()  # others may be running it
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)


def test_a_command_that_hangs_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expyre.schedulers.asking.SECONDS", 1)
    queue = cluster.queue()
    ids = submitted(queue, cluster.job("a", "true"))
    hang(cluster.pbs.bin / "qstat")
    with pytest.raises(SchedulerError, match="no answer in 1 s"):
        queue.listing(ids)
    with pytest.raises(SchedulerError, match="no answer in 1 s"):
        queue.explain(ids)


def test_results_come_although_the_queue_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expyre.schedulers.asking.SECONDS", 1)
    cluster = Cluster(tmp_path, "openpbs")
    _make_project(tmp_path, cluster)
    call = ExPyRe("root", function=math.sqrt, args=[9.0])
    call.start(resources={"num_nodes": 1, "max_time": "5m"}, system_name="there")
    hang(cluster.pbs.bin / "qstat")
    assert call.get_results(check_interval=0.2, quiet=True)[0] == 3.0
    cluster.pbs.stop()


def test_a_server_without_history(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "openpbs", history=False)
    queue = cluster.queue()
    ids = submitted(queue, cluster.job("a", "true"))
    until(lambda: queue.listing(ids) == {}, "the end of the job")
    assert queue.explain(ids) == {}
    assert queue.status(ids) == {ids[0]: states.DONE}
    cluster.pbs.stop()


def test_torque_forgets_what_has_ended(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "torque", keep_completed=0)
    queue = cluster.queue()
    ids = submitted(queue, cluster.job("a", "true"))
    until(lambda: queue.listing(ids) == {}, "the end of the job")
    assert queue.explain(ids) == {}
    cluster.pbs.stop()


def test_one_job_through_the_old_door(cluster: Cluster) -> None:
    queue = cluster.queue()
    directory = cluster.place / "run_x"
    directory.mkdir()
    id = queue.submit("x", directory, "workq", ["echo hello"], 60, ["#PBS -q {queue}"], NODES)
    reach(queue, [id], states.DONE)
    assert (directory / "job.x.stdout").read_text() == "hello\n"
    assert queue.status("77.vm") == {"77.vm": states.DONE}


def _make_project(tmp_path: Path, cluster: Cluster) -> None:
    system = {
        "host": None,
        "scheduler": "pbs",
        "partitions": {"workq": {"num_cores": 4, "max_time": "1h", "max_mem": "10GB"}},
        "rundir": str(tmp_path / "run"),
        "scheduler_options": {"env": {"PATH": cluster.pbs.path}},
    }
    project = tmp_path / ".expyre"
    project.mkdir()
    (project / "config.json").write_text(json.dumps({"systems": {"there": system}}))
    config.init(project)


def test_functions_run_as_jobs(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "openpbs")
    _make_project(tmp_path, cluster)
    calls = [ExPyRe(f"root{i}", function=math.sqrt, args=[float(i)]) for i in (4, 9)]
    wrong = ExPyRe("wrong", function=math.log, args=[-1.0])
    for call in (*calls, wrong):
        call.start(resources={"num_nodes": 1, "max_time": "5m", "max_mem_tot": "1GB"}, system_name="there")
    assert [call.get_results(check_interval=0.2, quiet=True)[0] for call in calls] == [2.0, 3.0]
    with pytest.raises(ValueError, match="math domain error"):
        wrong.get_results(check_interval=0.2, quiet=True)
    cluster.pbs.stop()


hostile = st.text(
    alphabet=st.one_of(st.sampled_from("'\"\\$`;&|<>(){}[]*?!~#%:,^@=+- \t\n"), st.characters(codec="utf-8")),
    min_size=1,
    max_size=20,
).filter(lambda text: "/" not in text and "\0" not in text and text not in (".", ".."))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(hostile, min_size=2, max_size=5, unique=True), place=hostile, array=st.booleans())
def test_no_name_means_anything_to_a_shell(tmp_path_factory: Any, names: list[str], place: str, array: bool) -> None:
    cluster = Cluster(tmp_path_factory.mktemp("hostile"), "openpbs")
    try:
        _all_heard(cluster, cluster.queue(array=array), names, cluster.place / place)
    finally:
        cluster.pbs.stop()


def _all_heard(cluster: Cluster, queue: PBS, names: list[str], place: Path) -> None:
    subs = [cluster.job(f"j{name}", "echo heard", "pwd -P >where", place=place) for name in names]
    ids = submitted(queue, *subs)
    reach(queue, ids, *[states.DONE] * len(ids))
    for sub in subs:
        assert read(sub, f"job.{sub.id}.stdout") == "heard\n"
        assert read(sub, "where") == f"{os.path.realpath(sub.directory)}\n"


SAMPLES: list[tuple[Callable[[PBS], Any], str]] = [
    (lambda queue: queue.listing_script(["2[1].vm; rm -rf ~"]), "'2[].vm; rm -rf ~'"),
    (lambda queue: queue.explain_script(["2[1].vm"]), "'2[1].vm'"),
]


@pytest.mark.parametrize(("ask", "words"), SAMPLES)
def test_ids_are_quoted(ask: Callable[[PBS], str], words: str) -> None:
    assert words in ask(PBS(None))
