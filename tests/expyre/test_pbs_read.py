"""What PBS prints, recorded from real ones, is understood: tables, folded lines, exit statuses, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre import states
from expyre.errors import SchedulerError
from expyre.schedulers import PBS
from expyre.schedulers.asking import replies
from expyre.schedulers.pbs_ends import STATES, end_of
from expyre.schedulers.pbs_read import (
    complaints,
    is_cut,
    key_of,
    member_id,
    read_answer,
    read_full,
    read_limits,
    read_table,
    unit_ids,
)
from expyre.schedulers.units import Unit

ASSETS = Path(__file__).parents[1] / "assets" / "queues"


def recorded(name: str) -> str:
    return (ASSETS / name).read_text()


def reply(text: str, errors: str = "", code: int = 0) -> str:
    return f"{text}\n=== errors {code}\n{errors}\n=== end\n"


def test_a_recorded_history_is_read() -> None:
    table = read_table(recorded("openpbs_history.txt"))
    assert len(table) == 34
    assert set(table.values()) == {"F"}
    assert {key for key in table if key[0] == 1267} == {(1267, None), (1267, 1), (1267, 2), (1267, 3), (1267, 4)}


def test_a_recorded_full_display_is_unfolded() -> None:
    job = read_full(recorded("openpbs_full.txt"))[1265, None]
    assert job["job_state"] == "R"
    assert job["Variable_List"].endswith("PBS_O_SYSTEM=Linux,PBS_O_QUEUE=workq,PBS_O_HOST=localhost")
    assert "\t" not in job["Variable_List"]
    assert job["Resource_List.select"] == "1:ncpus=2:mem=100mb:ngpus=1"
    assert job["Submit_Host"] == "localhost"


def test_a_display_with_tabs_is_read() -> None:
    job = read_full(recorded("slurm_torque_full.txt"))[7185, None]
    assert (job["job_state"], job["Resource_List.ncpus"]) == ("R", "2")


def test_values_with_line_breaks_do_not_hide_what_follows() -> None:
    variables = "Variable_List = BASH_FUNC_x%%=() {  module x\n},A=1"
    job = read_full(f"Job Id: 5.vm\n    job_state = F\n    {variables}\n    Exit_status = 0\n")[5, None]
    assert job["Variable_List"] == "BASH_FUNC_x%%=() {  module x\n},A=1"
    assert end_of(job) == states.End(states.END_COMPLETED, "", 0)


def test_ids_that_are_cut_off_are_found_by_their_number() -> None:
    text = "123456[17].polar* N_job     user      00:00:00 R workq\n1805770.pbs01  N_x*  user  0 H q1\n"
    assert read_table(text) == {(123456, 17): "R", (1805770, None): "H"}
    assert key_of("123456[17].polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov") == (123456, 17)
    assert not is_cut(text)
    assert is_cut("123456789012[100*  N_job   user   00:00:00 R workq\n")
    assert key_of("NA") is None


def test_ids_of_arrays_and_members() -> None:
    assert member_id("2[].vm", 1) == "2[1].vm"
    assert member_id("2[]", 10) == "2[10]"
    assert unit_ids(["2[1].vm", "5.vm", "2[2].vm"]) == ["2[].vm", "5.vm"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1265.vm\n", ["1265.vm"]),
        ("1267[].vm\n", ["1267[].vm"]),
        ("7168\noption -S is ignored, specify shell via #!<shell> in the job script\n", ["7168"]),
        ("Welcome!\n\n  12[].a-b.c \n", ["12[].a-b.c"]),
        ("qsub: no\n", []),
        ("1.vm\n2.vm\n", ["1.vm", "2.vm"]),
    ],
)
def test_answers_of_qsub(text: str, ids: list[str]) -> None:
    assert read_answer(text) == ids
    if len(ids) == 1:
        assert PBS(None).parse_answer(text) == ids[0]
    else:
        with pytest.raises(SchedulerError, match="job ids"):
            PBS(None).parse_answer(text)


def test_only_complaints_that_matter_are_complaints() -> None:
    harmless = (
        "qstat: Unknown Job Id 999999.vm\nqstat: Unknown Job Id Error 5.srv\n"
        "qstat: 1265.vm Job has finished, use -x or -H to obtain historical job information\n"
    )
    assert complaints(harmless) == []
    assert complaints("Connection refused\nqstat: cannot connect to server vm (errno=15010)") != []


def test_limits_of_server_and_queues() -> None:
    text = "Server: vm\n    max_array_size = 10000\nQueue: a\n    max_array_size = 500\n    max_user_queuable = 100\n"
    assert read_limits(text) == {"array_size": 500, "submitted": 100}
    assert PBS(None).parse_limits(reply("pbs_version = 23.06.06") + reply(text) + reply("")).unit_size == 100


@pytest.mark.parametrize(
    ("version", "dialect"),
    [("pbs_version = 23.06.06", "openpbs"), ("Version: 6.1.2\nCommit: 661e", "torque"), ("version: 2.5.13", "torque")],
)
def test_the_dialect_is_told_by_the_version(version: str, dialect: str) -> None:
    queue = PBS(None)
    queue.parse_limits(reply("", version) + reply("") + reply(""))
    assert queue.dialect == dialect
    assert PBS(None, options={"dialect": "torque"}).dialect == "torque"


def test_a_listing_of_several_answers() -> None:
    ids = ["1265.vm", "1267[2].vm", "99.vm"]
    text = reply(recorded("openpbs_history.txt")) + reply("", "qstat: Unknown Job Id 99.vm", 153)
    listings = PBS(None).parse_listing(text, ids)
    assert {id: (listing.state, listing.raw) for id, listing in listings.items()} == {
        "1265.vm": (states.DONE, "F"),
        "1267[2].vm": (states.DONE, "F"),
    }


def test_nothing_known_is_an_empty_listing() -> None:
    noise = "Welcome to the cluster!\n\n=== begin\n"
    assert PBS(None).parse_listing(noise + reply("", "qstat: Unknown Job Id 99.vm", 153), ["99.vm"]) == {}
    assert PBS(None).parse_listing(reply("", "qstat: Unknown Job Id 99.vm", 153), ["99.vm"]) == {}
    assert PBS(None).parse_listing(reply("", "qstat: 1.vm Job has finished, use -x or -H to", 35), ["1.vm"]) == {}
    assert PBS(None).parse_listing("", []) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        recorded("openpbs_history.txt"),
        reply("", "Connection refused\nqstat: cannot connect to server vm (errno=15010)", 255),
        reply("", "", 1),
        reply("Job id  Na\0\1segmentation"),
        reply(recorded("openpbs_history.txt"))[:-20],
    ],
)
def test_damaged_answers_say_nothing_of_any_job(text: str) -> None:
    with pytest.raises(SchedulerError):
        PBS(None).parse_listing(text, ["1265.vm"])


def test_every_documented_state_has_a_word() -> None:
    assert set(STATES) == set("QREHSTWBXFMUC")
    assert all(STATES[letter] == states.RUNNING for letter in "RESUB")
    assert STATES["H"] == states.HELD
    assert STATES["M"] == states.OTHER


DELETED = "Job run at … on (vm:ncpus=1) and terminated by a@b"
TRIED = "job held, too many failed attempts to run and terminated"
WALLTIME = {
    "job_state": "F",
    "resources_used.walltime": "00:00:07",
    "Resource_List.walltime": "00:00:05",
    "comment": "Job run at Fri Nov 20 at 16:48 on (vm:ncpus=1) and exceeded resource walltime",
    "Exit_status": "-29",
}


@pytest.mark.parametrize(
    ("job", "reason", "code"),
    [
        (WALLTIME, states.END_TIMED_OUT, -29),
        ({**WALLTIME, "Exit_status": "271"}, states.END_TIMED_OUT, 271),
        ({"Exit_status": "3", "substate": "93"}, states.END_DIED, 3),
        ({"Exit_status": "0"}, states.END_COMPLETED, 0),
        (
            {"Exit_status": "271", "comment": DELETED},
            states.END_CANCELLED,
            271,
        ),
        ({"Exit_status": "271"}, states.END_CANCELLED, 271),
        ({"Exit_status": "265"}, states.END_DIED, 265),
        ({"Exit_status": "265", "comment": DELETED}, states.END_CANCELLED, 265),
        ({"Exit_status": "267"}, states.END_DIED, 267),
        ({"Exit_status": "-27"}, states.END_OUT_OF_MEMORY, -27),
        ({"Exit_status": "-10"}, states.END_DIED, -10),
        ({"exit_status": "-10"}, states.END_OUT_OF_MEMORY, -10),
        ({"exit_status": "-11"}, states.END_TIMED_OUT, -11),
        ({"Exit_status": "-4"}, states.END_NODE_FAILED, -4),
        ({"Exit_status": "-99"}, states.END_DIED, -99),
        ({"Exit_status": "137"}, states.END_DIED, 137),
        ({"Exit_status": "143", "comment": "… and terminated by a@b"}, states.END_CANCELLED, 143),
        (
            {"Exit_status": "137", "resources_used.mem": "2097140kb", "Resource_List.mem": "2gb"},
            states.END_OUT_OF_MEMORY,
            137,
        ),
        ({"Exit_status": "1", "comment": "Job run at x on (preempt01:ncpus=1) and failed"}, states.END_DIED, 1),
        ({"substate": "91"}, states.END_CANCELLED, None),
        ({"substate": "91", "job_state": "X"}, states.END_CANCELLED, None),
        ({"substate": "91", "comment": TRIED}, states.END_NODE_FAILED, None),
        ({"comment": "Not Running: held and terminated by a@b"}, states.END_CANCELLED, None),
    ],
)
def test_ends(job: dict[str, str], reason: str, code: int | None) -> None:
    end = end_of({"job_state": "F", **job})
    assert end is not None
    assert (end.reason, end.exit_code) == (reason, code)
    assert end.detail or reason == states.END_COMPLETED


def test_what_has_not_ended_or_left_no_trace_has_no_end() -> None:
    assert end_of({"job_state": "R", "comment": "Job run at x and terminated by a@b", "substate": "41"}) is None
    assert end_of({"job_state": "X"}) is None
    assert end_of({}) is None


def test_units_are_found_by_their_tokens() -> None:
    text = reply("Job Id: 12[3].vm 0123456789abcdef\nJob Id: 13.vm fedcba9876543210\n")
    units = [Unit("0123456789abcdef", (), True), Unit("fedcba9876543210", ()), Unit("0000000000000000", ())]
    assert PBS(None).parse_names(text, units) == {"0123456789abcdef": "12[].vm", "fedcba9876543210": "13.vm"}
    with pytest.raises(SchedulerError, match="refused"):
        PBS(None).parse_names(reply("", "qselect: connection refused", 0), units)


def test_without_history_it_is_not_asked_for_again() -> None:
    queue = PBS(None)
    assert "history=-x" in queue.listing_script(["1.vm"])
    with pytest.raises(SchedulerError, match="history"):
        queue.parse_listing(reply("", "qstat: PBS is not configured to maintain job history", 34), ["1.vm"])
    assert "history=-x" not in queue.listing_script(["1.vm"])


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    read_table(text)
    for job in read_full(text).values():
        end_of({**job, "job_state": "F"})
    try:
        PBS(None).parse_listing(text, ["1.vm"])
    except SchedulerError:
        pass


@given(
    st.text(alphabet=st.characters(exclude_characters="=\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")), st.integers(0, 255)
)
def test_replies_are_kept_apart(text: str, code: int) -> None:
    both = replies(reply(text, "e1", code) + reply("2", text, 1))
    assert [(one.text, one.errors, one.code) for one in both] == [(text, "e1", code), ("2", text, 1)]
