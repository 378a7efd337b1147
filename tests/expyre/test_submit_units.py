"""Units of submission: jobs are divided, submitted once whoever dies when, and found again."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest
from fake_slurm import Changed, FakeSlurm, places_to_die, with_death
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expyre.errors import QueueFull, RequestError, SchedulerError, SubmitFailed, TransportError
from expyre.schedulers import Slurm, Submission, protocol
from expyre.schedulers.units import Limits, make_batch, place_of, token_word
from expyre.transports import LocalTransport


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


def job(number: int, **kwargs: object) -> Submission:
    values = {"id": f"job{number}", "directory": f"/p/run_{number}", "partition": "p", "commands": (), **kwargs}
    return Submission(**values)  # type: ignore[arg-type]


# -- division ----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=30), st.none() | st.integers(1, 7))
def test_jobs_are_divided_by_what_they_ask_for(keys: list[str | None], size: int | None) -> None:
    subs = [job(i) for i in range(len(keys))]
    batch = make_batch("/p", zip(keys, subs, strict=True), array_size=size, first_index=1)
    key_of = {sub.id: key for key, sub in zip(keys, subs, strict=True)}
    assert sorted(sub.id for sub in batch.subs) == sorted(key_of)
    assert len({unit.token for unit in batch.units}) == len(batch.units)
    for unit in batch.units:
        assert len({key_of[sub.id] for sub in unit.subs}) == 1
        assert len(unit.subs) == 1 or key_of[unit.subs[0].id] is not None
        assert len(unit.subs) <= (size or len(subs))
        assert unit.is_array == (len(unit.subs) > 1)
        assert list(unit.indices) == list(range(1, len(unit.subs) + 1))
        assert [sub.id for sub in unit.subs] == [sub.id for sub in subs if sub in unit.subs]


@pytest.mark.parametrize(
    ("directory", "place"),
    [("/a/b", "/a"), ("/a/b/", "/a"), ("a/b", "a"), ("b", ""), ("/b", "/"), ("~/b", "~"), ("$HOME/x/b", "$HOME/x")],
)
def test_jobs_lie_side_by_side(directory: str, place: str) -> None:
    assert place_of(directory) == place


def test_what_jobs_of_an_array_have_in_common() -> None:
    slurm = Slurm(None)
    alike = [job(i, header=("#SBATCH -p {partition}",), nodes={"num_cores": 2, "num_nodes": 1}) for i in range(2)]
    assert slurm.request_key(alike[0]) == slurm.request_key(alike[1])
    others = [
        job(1),
        job(1, header=("#SBATCH --job-name=my-{id}",)),
        job(1, header=("#SBATCH -p {partition}",), nodes={"num_cores": 3, "num_nodes": 1}),
        job(1, header=("#SBATCH -p {partition}",), nodes={"num_cores": 2, "num_nodes": 1}, max_time=1),
        job(2, header=("#SBATCH --job-name=my-{id}",)),
    ]
    assert len({slurm.request_key(sub) for sub in [*alike, *others]}) == 6
    for line in ("#SBATCH --array=1-3", "#SBATCH -a 1-3", "#SBATCH --chdir=/x", "#SBATCH -D /x", "#SBATCH --wait"):
        assert slurm.request_key(job(1, header=(line,))) is None
    assert slurm.request_key(job(1, header=("#SBATCH -o x", "echo --array"))) is not None
    assert slurm.request_key(job(1, header=("#SBATCH -o x",), no_default_header=True)) is None
    assert Slurm(None, options={"array": False}).request_key(alike[0]) is None


@given(st.text(max_size=40))
def test_tokens_are_words(token: str) -> None:
    word = token_word(token)
    assert set(word) <= set("0123456789abcdef")
    assert token_word(token + "x") not in word
    assert token_word("0123456789abcdef") == "0123456789abcdef"
    assert token_word(word) == word


names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20)


@given(names)
def test_archives_carry_any_name(name: str) -> None:
    sub = job(0, id=name, directory=f"/p/run_{name}")
    archive = make_batch("/p", [(None, sub)]).archive()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        links = {entry.name.rpartition("/")[2]: entry.linkname for entry in tar if entry.issym()}
        assert [entry.name for entry in tar][-1] == "members"
    up = f"../../../run_{name}"
    assert links == {"0.dir": up, "0.out": f"{up}/job.{name}.stdout", "0.err": f"{up}/job.{name}.stderr"}


def test_limits_of_units() -> None:
    assert Limits().unit_size is None
    assert Limits(10, 5).unit_size == Limits(5, None).unit_size == 5
    assert Limits(0).unit_size == 1


# -- submission --------------------------------------------------------------------------------------------------


def test_many_jobs_are_one_command_and_one_round_trip(fake: FakeSlurm) -> None:
    transport = Changed()
    scheduler = fake.scheduler(transport)
    answers = scheduler.submit_many(fake.submissions(20))
    assert answers == {f"job{i}": f"1000_{i}" for i in range(20)}
    assert fake.jobs == [("1000", 20)]
    assert transport.runs == 2  # the first of a process asks for limits
    alone = fake.submission("alone", max_time=7)
    assert scheduler.submit_many([alone]) == {"alone": "1001"}
    assert transport.runs == 3
    assert fake.calls[-1].endswith("/0.dir/job.script.slurm")


def test_units_keep_the_queues_limits(fake: FakeSlurm) -> None:
    (fake.state / "config").write_text("MaxArraySize            = 4\nMaxJobCount = 100\n")
    answers = fake.scheduler(max_running=2).submit_many(fake.submissions(10))
    assert fake.jobs == [("1000", 4), ("1001", 4), ("1002", 2)]
    assert answers["job9"] == "1002_1"
    assert all("%2" in path.read_text() for path in fake.place.glob("_expyre_submit/*/*/script"))


def test_arrays_can_be_switched_off(fake: FakeSlurm) -> None:
    answers = fake.scheduler(array=False).submit_many(fake.submissions(3))
    assert answers == {"job0": "1000", "job1": "1001", "job2": "1002"}
    assert fake.jobs == [("1000", 1), ("1001", 1), ("1002", 1)]


def test_a_mistake_of_one_job_does_not_stop_the_others(fake: FakeSlurm) -> None:
    wrong = [job(7, header=("#SBATCH {nonsense}",)), job(8, id="a/b"), job(9, id="")]
    answers = fake.scheduler().submit_many([*fake.submissions(2), *wrong])
    assert answers["job1"] == "1000_1"
    for sub in wrong:
        assert isinstance(answers[sub.id], RequestError)


def test_the_queues_refusal_is_told_and_final(fake: FakeSlurm) -> None:
    fake.fault('echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1')
    subs = fake.submissions(2)
    scheduler = fake.scheduler()
    answers = scheduler.submit_many(subs)
    for answer in answers.values():
        assert isinstance(answer, SubmitFailed)
        assert not isinstance(answer, QueueFull)
        assert "nowhere" in str(answer)
    fake.mend()
    assert fake.scheduler().find([sub.token for sub in subs], str(fake.place)) == {}
    assert scheduler.submit_many(subs) == {"job0": "1000_0", "job1": "1000_1"}, "the same tokens once more"


def test_a_full_queue_takes_what_fits(fake: FakeSlurm) -> None:
    (fake.state / "limit").write_text("13")
    answers = fake.scheduler().submit_many(fake.submissions(20))
    taken = {id for id, answer in answers.items() if isinstance(answer, str)}
    assert 10 <= len(taken) <= 13
    assert sum(size for _, size in fake.jobs) == len(taken)
    assert all(isinstance(answer, QueueFull) for id, answer in answers.items() if id not in taken)


def test_a_full_queue_is_not_asked_for_every_job(fake: FakeSlurm) -> None:
    (fake.state / "limit").write_text("2")
    scheduler = fake.scheduler(array=False)
    subs = fake.submissions(12)
    answers = scheduler.submit_many(subs)
    assert sorted(id for id, answer in answers.items() if isinstance(answer, str)) == ["job0", "job1"]
    assert len(fake.calls) == 3
    fake.mend()
    rest = [sub for sub in subs if not isinstance(answers[sub.id], str)]
    assert len(scheduler.submit_many(rest)) == 10
    assert len(fake.jobs) == 12


def test_commands_before_submission_share_its_shell(fake: FakeSlurm) -> None:
    fake.fault('echo "$WORDS" >"$state/seen"')
    scheduler = fake.scheduler()
    assert scheduler.submit_many([fake.submission("a")], ["echo noise", "export WORDS='two words'"]) == {"a": "1000"}
    assert (fake.state / "seen").read_text() == "two words\n"
    answer = scheduler.submit_many([fake.submission("b")], ["echo no such module; false"])["b"]
    assert isinstance(answer, SubmitFailed)
    assert "no such module" in str(answer)
    assert len(fake.jobs) == 1


def test_an_unknown_command_is_a_refusal(fake: FakeSlurm) -> None:
    (fake.bin / "sbatch").write_text("#!/no/such/interpreter\n")
    answer = fake.scheduler().submit_many([fake.submission("a")])["a"]
    assert isinstance(answer, SubmitFailed)


def test_noise_of_login_scripts_means_nothing(fake: FakeSlurm) -> None:
    noise = "Submitted batch job 5\n=== 0123 unit\n\\n***\n"
    transport = Changed(lambda script: f"printf '{noise}'\nprintf '{noise}' >&2\n{script}")
    assert fake.scheduler(transport).submit_many([fake.submission("a")]) == {"a": "1000"}


def test_login_scripts_are_read_where_the_queues_commands_are_missing(
    fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".profile").write_text(f"echo noise; read answer; export PATH={fake.bin}:$PATH\n")
    monkeypatch.setenv("HOME", str(home))
    queue = Slurm(None)
    queue.probe = "sbatch-that-is-nowhere"  # type: ignore[misc]
    assert queue.submit_many([fake.submission("a")]) == {"a": "1000"}
    assert fake.jobs == [("1000", 1)]


def test_one_job_by_hand_has_its_script_written(fake: FakeSlurm) -> None:
    (fake.state / "run").touch()
    for number, id in enumerate(["plain", "a b\n$(touch x)%j"]):
        directory = fake.place / f"dir {number}"
        directory.mkdir()
        commands = ["echo ran $EXPYRE_NUM_CORES >result"]
        remote_id = fake.scheduler().submit(id, directory, "p", commands, None, [], {"num_cores": 3, "num_nodes": 1})
        assert (directory / "result").read_text() == "ran 3\n"
        assert (directory / "job.script.slurm").read_text().startswith("#!/bin/bash\n#SBATCH --job-name=")
        assert remote_id == ["1000", "1001_0"][number]
    assert (directory / f"job.{id}.stdout").exists()
    fake.fault("exit 3")
    (fake.place / "x").mkdir()
    with pytest.raises(SubmitFailed, match="refused"):
        fake.scheduler().submit("x", fake.place / "x", "p", [], None, [], {})


# -- exactly once ------------------------------------------------------------------------------------------------


def mixed(fake: FakeSlurm) -> list[Submission]:
    """Return jobs that make an array and a single job."""
    return [
        fake.submission("a", "token-a1"),
        fake.submission("b", "token-b1"),
        fake.submission("c", "token-c1", max_time=9),
    ]


def recover(fake: FakeSlurm, subs: list[Submission]) -> dict[str, str]:
    """Do what a new process does: find what was submitted, submit the rest."""
    scheduler = fake.scheduler()
    found = scheduler.find([sub.token for sub in subs], str(fake.place))
    rest = [sub for sub in subs if sub.token not in found]
    answers = scheduler.submit_many(rest) if rest else {}
    assert all(isinstance(answer, str) for answer in answers.values()), answers
    return {**{sub.id: found[sub.token] for sub in subs if sub.token in found}, **answers}  # type: ignore[dict-item]


def expect_each_once(fake: FakeSlurm, ids: dict[str, str]) -> None:
    sizes = sorted(size for _, size in fake.jobs)
    assert sizes == [1, 2], (ids, fake.jobs)
    taken = {f"{id}_{i}" if size > 1 else id for id, size in fake.jobs for i in range(size)}
    assert set(ids.values()) == taken


def script_of_a_submission(root: Path) -> str:
    fake, transport = FakeSlurm(root), Changed()
    fake.scheduler(transport).submit_many(mixed(fake))
    return transport.scripts[-1]


def test_whenever_the_shell_is_killed_each_job_is_submitted_once(tmp_path: Path) -> None:
    lines = places_to_die(script_of_a_submission(tmp_path / "first"))
    assert len(lines) > 40
    for line in lines:
        fake = FakeSlurm(tmp_path / str(line))
        subs = mixed(fake)
        dying = Changed(partial(with_death, line=line))
        try:
            ids = fake.scheduler(dying).submit_many(subs)
        except (SchedulerError, TransportError):
            ids = recover(fake, subs)
        expect_each_once(fake, ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("when", ["fault", "after"])
@pytest.mark.parametrize(
    "fault",
    [
        "kill -9 $$",
        'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1',
        'echo "sbatch: error: Unable to contact slurm controller (connect failure)" >&2; exit 1',
        "exit 0",
        "kill -9 $PPID; kill -9 $$",
    ],
)
def test_a_submit_command_that_does_not_know_is_looked_after(fake: FakeSlurm, when: str, fault: str) -> None:
    # once: what comes after finds all well
    fake.fault(f'rm -f "$state/{when}"; {fault}', when)
    subs = mixed(fake)
    try:
        ids = fake.scheduler().submit_many(subs)
    except SchedulerError:
        ids = recover(fake, subs)
    expect_each_once(fake, ids)  # type: ignore[arg-type]


def test_the_answer_survives_the_shell_and_the_connection(fake: FakeSlurm) -> None:
    # the shell dies while the submit command still works: whoever looks waits for it
    fake.fault('kill -9 $PPID; sleep 0.5; rm -f "$state/fault"')
    subs = [fake.submission("a", "token-a1")]
    with pytest.raises(SchedulerError):
        fake.scheduler(Changed(lambda script: script.replace("note $?", "kill -9 $$"))).submit_many(subs)
    fake.fault("exit 1", "squeue")
    assert fake.scheduler().find(["token-a1"], str(fake.place)) == {"token-a1": "1000"}
    assert len(fake.jobs) == 1


def test_a_ticket_of_somebody_who_was_killed_while_making_it(fake: FakeSlurm) -> None:
    half = 'take() { : >"$unit/ticket"; kill -9 $$; }'
    subs = mixed(fake)
    with pytest.raises(SchedulerError):
        fake.scheduler(Changed(lambda script: script.replace("trap ''", f"{half}\ntrap ''"))).submit_many(subs)
    assert [path.read_text() for path in fake.place.glob("_expyre_submit/*/*/ticket")] == [""]
    expect_each_once(fake, recover(fake, subs))


def test_a_transfer_that_breaks_off_submits_nothing(fake: FakeSlurm) -> None:
    subs = mixed(fake)
    for size in (0, 1, 100, 300):
        scheduler = fake.scheduler(Changed(lambda script, size=size: f"head -c {size} | (\n{script}\n)"))
        with pytest.raises(SchedulerError):
            scheduler.submit_many(subs)
    assert fake.jobs == []
    expect_each_once(fake, recover(fake, subs))


def test_a_late_shell_finds_that_its_jobs_were_given_up(fake: FakeSlurm) -> None:
    subs, transport = mixed(fake), Changed(lambda script: "exit 1")
    with pytest.raises(SchedulerError):
        fake.scheduler(transport).submit_many(subs)
    expect_each_once(fake, recover(fake, subs))
    before = len(fake.jobs)
    done = LocalTransport().run(transport.scripts[-1], transport.inputs[-1])
    assert "contested" in done.text
    assert len(fake.jobs) == before


def test_tokens_that_the_queue_knows_are_not_submitted_again(fake: FakeSlurm) -> None:
    subs = mixed(fake)
    ids = fake.scheduler().submit_many(subs)
    again = fake.scheduler()
    assert again.submit_many([*subs, fake.submission("d")]) == {**ids, "d": "1002"}
    assert again.submit_many(subs) == ids
    assert len(fake.jobs) == 3


_SUBMITTER = """
from expyre.errors import ExPyReError
from expyre.schedulers import Slurm, Submission
queue = Slurm(None, options={{"env": {env!r}}})
queue.settle_time = 0
try:
    queue.submit_many({subs!r})
except ExPyReError as error:
    print(error)
"""


def test_several_at_the_same_time_submit_once(fake: FakeSlurm) -> None:
    subs = mixed(fake)
    text = _SUBMITTER.format(subs=subs, env=fake.env)
    running = [subprocess.Popen([sys.executable, "-c", text], cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    expect_each_once(fake, recover(fake, subs))


def test_jobs_that_have_gone_tell_their_ids_themselves(fake: FakeSlurm) -> None:
    (fake.state / "run").touch()
    # the answer is lost after the jobs have run, and the queue forgets them
    fake.fault('kill -9 $PPID; : >"$state/jobs"; kill -9 $$', "ran")
    subs = mixed(fake)[:2]
    with pytest.raises(SchedulerError):
        fake.scheduler().submit_many(subs)
    assert fake.scheduler().find([sub.token for sub in subs], str(fake.place)) == {
        "token-a1": "1000_0",
        "token-b1": "1000_1",
    }


def test_nothing_is_found_where_nothing_was(fake: FakeSlurm) -> None:
    assert fake.scheduler().find(["token-a1"], str(fake.place / "nowhere")) == {}
    assert fake.scheduler().find([], "") == {}
    assert fake.scheduler().find(["token-a1"], str(fake.place)) == {}


def test_when_the_queue_cannot_be_asked_nothing_is_decided(fake: FakeSlurm) -> None:
    fake.fault("kill -9 $$", "after")
    fake.fault("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "squeue")
    subs = mixed(fake)
    for _ in range(2):
        with pytest.raises(SchedulerError, match="Unable to contact"):
            fake.scheduler().submit_many(subs)
        with pytest.raises(SchedulerError, match="Unable to contact"):
            fake.scheduler().find([sub.token for sub in subs], str(fake.place))
    fake.mend()
    expect_each_once(fake, recover(fake, subs))


def test_a_submission_that_goes_on_is_no_reason_for_another(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_PATIENCE", 3)
    fake.fault('rm "$state/fault"; kill -9 $PPID; sleep 4')
    subs = mixed(fake)
    with pytest.raises(SchedulerError):
        fake.scheduler(Changed(lambda script: script.replace("note $?", "kill -9 $$"))).submit_many(subs)
    with pytest.raises(SchedulerError, match="still being submitted"):
        fake.scheduler().find([sub.token for sub in subs], str(fake.place))
    monkeypatch.undo()
    expect_each_once(fake, recover(fake, subs))


def test_what_was_left_by_old_submissions_goes(fake: FakeSlurm) -> None:
    old, kept = fake.submission("old"), fake.submission("kept")
    for sub in (old, kept):
        fake.scheduler().submit_many([sub])
    root = fake.place / "_expyre_submit"
    for path in root.iterdir():
        os.utime(path, (0, 0))
    subprocess.run(["rm", "-r", old.directory], check=True)
    fake.scheduler().submit_many([fake.submission("new")])
    left = {os.readlink(link).rpartition("/")[2] for link in root.glob("*/*/0.dir")}
    assert left == {"run_kept", "run_new"}


# -- hostile words through a real shell --------------------------------------------------------------------------

hostile = st.text(
    st.characters(exclude_characters="/\0", codec="utf-8", exclude_categories=("Cs",))
    | st.sampled_from("'\"\\$`;&|<>(){}[]*?!#~=%\n\t -"),
    min_size=1,
    max_size=30,
).filter(lambda name: name not in (".", ".."))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(hostile, min_size=1, max_size=3, unique=True), hostile, hostile, st.booleans())
def test_hostile_names_reach_the_job_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], place: str, value: str, array: bool
) -> None:
    fake = FakeSlurm(tmp_path_factory.mktemp("hostile"), f"p{place}")
    (fake.state / "run").touch()
    quoted = "'" + value.replace("'", "'\"'\"'") + "'"
    commands = ('pwd >pwd; printf %s "$VALUE" >value; echo "$EXPYRE_NUM_CORES" >cores',)
    header = ("#SBATCH --comment={num_cores}",)
    subs = [
        fake.submission(
            f"i{id}",
            f"token-{number:04d}",
            commands=(f"export VALUE={quoted}", *commands),
            header=header,
            nodes={"num_nodes": 1, "num_cores": 5, "num_cores_per_node": 5},
        )
        for number, id in enumerate(ids)
    ]
    scheduler = fake.scheduler(array=array)
    answers = scheduler.submit_many(subs)
    assert all(isinstance(answer, str) for answer in answers.values()), answers
    for sub in subs:
        directory = Path(sub.directory)
        assert (directory / "pwd").read_bytes() == os.fsencode(directory) + b"\n"
        assert (directory / "value").read_bytes() == value.encode()
        assert (directory / "cores").read_text() == "5\n"
        assert (directory / "_expyre_queue_id").read_text().strip() == answers[sub.id]
    assert sorted(path.name for path in fake.place.iterdir()) == sorted(
        ["_expyre_submit", *(Path(sub.directory).name for sub in subs)]
    )
    found = fake.scheduler().find([sub.token for sub in subs], str(fake.place))
    assert found == {sub.token: answers[sub.id] for sub in subs}
