"""What Grid Engine prints, recorded from a real one, is understood: states, ranges of tasks, accounting, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre import states
from expyre.errors import SchedulerError
from expyre.schedulers import SGE
from expyre.schedulers.sge_ends import end_of, state_of
from expyre.schedulers.sge_read import (
    Row,
    indices,
    key_of,
    member_id,
    numbers,
    read_accounting,
    read_answer,
    read_errors,
    read_limits,
    read_reasons,
    read_rows,
)
from expyre.schedulers.units import Unit

ASSETS = Path(__file__).parents[1] / "assets" / "queues"
_AND_DELETED = ("", "d")
RUNNING = [
    "t",
    "hr",
    "Rt",
    *(f"{d}{letters}" for d in _AND_DELETED for letters in ("r", "s", "S", "T", "Rr", "Rs", "RS")),
]
PENDING = """
    <job_list state="pending">
      <JB_job_number>4</JB_job_number>
      <JB_name>arr</JB_name>
      <state>{state}</state>
      <tasks>{tasks}</tasks>
    </job_list>
"""


def recorded(name: str) -> str:
    return (ASSETS / name).read_text()


def reply(text: str, errors: str = "", code: int = 0) -> str:
    return f"{text}\n=== errors {code}\n{errors}\n=== end\n"


def pending(tasks: str, state: str = "qw") -> str:
    return f"<?xml version='1.0'?>\n<job_info>{PENDING.format(state=state, tasks=tasks)}</job_info>"


def test_a_recorded_listing() -> None:
    assert read_rows(recorded("sge_running.xml")) == {(1, None): Row("r", "hello")}
    listing = SGE(None).parse_listing("Welcome!\n" + reply(recorded("sge_running.xml")), ["1", "2", "NA"])
    assert {id: (one.state, one.raw) for id, one in listing.items()} == {"1": (states.RUNNING, "r")}


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ("", [None]),
        ("3,4", [3, 4]),
        ("1-4:1", [1, 2, 3, 4]),
        ("2,5-9:2,11", [2, 5, 7, 9, 11]),
    ],
)
def test_ranges_of_waiting_members(tasks: str, expected: list[int | None]) -> None:
    assert list(indices(tasks)) == expected
    assert set(read_rows(pending(tasks))) == {(4, index) for index in expected}


@pytest.mark.parametrize(
    "text",
    [
        "",
        reply(""),
        reply("<?xml version='1.0'?><job_info><queue"),
        reply(pending("1-x")),
        pending("3"),
        reply(pending("3"))[:-9],
    ],
)
def test_damaged_listings_say_nothing_of_any_job(text: str) -> None:
    with pytest.raises(SchedulerError):
        SGE(None).parse_listing(text, ["4"])


def test_a_queue_master_that_does_not_answer_is_named() -> None:
    error = "error: commlib error: got select error (Connection refused)"
    with pytest.raises(SchedulerError, match="Connection refused"):
        SGE(None).parse_listing(reply("", error, 1), ["4"])
    with pytest.raises(SchedulerError, match="scheduler_options"):
        SGE(None).parse_listing(reply("", "critical error: Please set the environment variable SGE_ROOT.", 1), ["4"])


@pytest.mark.parametrize(
    ("words", "letters"),
    [
        (states.QUEUED, ["qw", "Rq"]),
        (states.HELD, ["hqw", "hRwq"]),
        (states.RUNNING, RUNNING),
        (states.QUEUE_FAILED, ["Eqw", "Ehqw", "EhRqw"]),
        (states.DONE, ["z"]),
        (states.OTHER, ["", "?"]),
    ],
)
def test_every_documented_state_has_a_word(words: str, letters: list[str]) -> None:
    assert {letter: state_of(letter) for letter in letters} == dict.fromkeys(letters, words)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("2\n", ["2"]),
        ("4.1-4:1\n", ["4"]),
        ('Your job 1 ("hello") has been submitted\n', ["1"]),
        ('Your job-array 7.1-4:1 ("N_x") has been submitted\n', ["7"]),
        ("Checking your request…\n\n5\n", ["5"]),
        ("Unable to run job\n", []),
    ],
)
def test_answers_of_qsub(text: str, ids: list[str]) -> None:
    assert read_answer(text) == ids
    if ids:
        assert SGE(None).parse_answer(text) == ids[0]
    else:
        with pytest.raises(SchedulerError, match="job ids"):
            SGE(None).parse_answer(text)


def test_ids_of_arrays_and_members() -> None:
    assert member_id("4.1-4:1", 2) == "4.2"
    assert member_id("4", 2) == "4.2"
    assert (key_of("4.2"), key_of("4"), key_of("NA")) == ((4, 2), (4, None), None)
    assert numbers(["4.1", "5", "4.2", "x"]) == [4, 5]


def test_a_recorded_accounting() -> None:
    record = read_accounting(recorded("sge_accounting.txt"))[1, None]
    assert (record["failed"], record["exit_status"], record["category"]) == ("0", "3", "-l gpu=1,h_rt=120 -pe smp 2")
    end = end_of(record)
    assert end is not None
    assert (end.reason, end.exit_code) == (states.END_DIED, 3)


KILLED = {"failed": "100 : assumedly after job", "exit_status": "137                  (Killed)"}


@pytest.mark.parametrize(
    ("record", "reason", "code"),
    [
        ({"failed": "0", "exit_status": "0"}, states.END_COMPLETED, 0),
        (KILLED, states.END_CANCELLED, 137),
        ({**KILLED, "category": "-l h_rt=3", "ru_wallclock": "4s"}, states.END_TIMED_OUT, 137),
        ({**KILLED, "category": "-l h_rt=0:10:00", "ru_wallclock": "4s"}, states.END_CANCELLED, 137),
        (
            {**KILLED, "category": "-l h_vmem=1G -pe smp 2", "maxvmem": "1.990GB", "slots": "2"},
            states.END_OUT_OF_MEMORY,
            137,
        ),
        (
            {"failed": "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", "exit_status": "137"},
            states.END_TIMED_OUT,
            137,
        ),
        ({"failed": "26 : opening output file", "exit_status": "0"}, states.END_DIED, 0),
        ({"failed": "19 : before writing exit_status", "exit_status": "0"}, states.END_NODE_FAILED, 0),
        ({"failed": "100 : assumedly after job", "exit_status": "0"}, states.END_NODE_FAILED, 0),
        ({"failed": "15 : in epilog", "exit_status": "0"}, states.END_COMPLETED, 0),
        ({"failed": "0", "exit_status": "137", "category": "NONE"}, states.END_DIED, 137),
        ({"failed": "7 : before prolog", "exit_status": "1"}, states.END_DIED, 1),
    ],
)
def test_ends(record: dict[str, str], reason: str, code: int) -> None:
    end = end_of(record)
    assert end is not None
    assert (end.reason, end.exit_code) == (reason, code)


def test_what_the_accounting_does_not_tell_is_not_told() -> None:
    assert end_of({}) is None
    assert end_of({"failed": "0"}) is None
    assert SGE(None).parse_explain(reply("", "error: job id 99999 not found", 1) + reply(""), ["99999"]) == {}
    assert SGE(None).parse_explain(reply("", "qacct: command not found", 127), ["1"]) == {}


def test_the_last_of_several_runs_counts() -> None:
    first = "====\njobnumber 5\ntaskid 2\nfailed 25 : rescheduling\nexit_status 137\n"
    second = "====\njobnumber 5\ntaskid 2\nfailed 0\nexit_status 0\n"
    assert SGE(None).parse_explain(reply(first + second), ["5.2"])["5.2"].reason == states.END_COMPLETED


def test_errors_of_jobs_that_could_not_be_started() -> None:
    why = '11/20/2026 15:44:10 [1001:9818]: error: can\'t open output file "/nonexistent/x": No such file or directory'
    text = f"=====\njob_number:                 13\nerror reason          1:      {why}\n"
    assert read_errors(text) == {(13, 1): why, (13, None): why}
    end = SGE(None).parse_explain(reply("") + reply(text), ["13"])["13"]
    assert (end.reason, end.detail) == (states.END_DIED, f"the queue could not start it: {why}")
    assert read_errors(text.replace("  1:", "  3:")) == {(13, 3): why}


def test_what_the_scheduler_says() -> None:
    text = (
        "====\njob_number:                 7\n"
        'scheduling info:            queue instance "all.q@vm" dropped because it is full\n'
        "                            All queues dropped because of overload or full\n"
    )
    assert read_reasons(text) == {
        7: 'queue instance "all.q@vm" dropped because it is full; All queues dropped because of overload or full'
    }


def test_limits() -> None:
    text = "max_aj_instances             2000\nmax_aj_tasks                 75000\nmax_u_jobs                   0\n"
    assert read_limits(text) == {"array_size": 75000}
    assert SGE(None).parse_limits(reply(text)).array_size == 75000
    assert SGE(None).parse_limits(reply("", "denied", 1)).array_size is None


def test_units_are_found_by_their_tokens() -> None:
    units = [Unit("0123456789abcdef", (), True), Unit("0000000000000000", ())]
    assert SGE(None).parse_names(reply("12 0123456789abcdef\n"), units) == {"0123456789abcdef": "12"}
    with pytest.raises(SchedulerError, match="refused"):
        SGE(None).parse_names(reply("", "connection refused", 1), units)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_rows, read_accounting, read_errors, read_reasons):
        try:
            read(text)
        except SchedulerError:
            pass
    end_of(
        {"failed": text, "exit_status": text, "category": text, "ru_wallclock": text, "maxvmem": text, "slots": text}
    )
