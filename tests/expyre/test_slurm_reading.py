"""What Slurm's commands write is read as it is meant: states, ends, ids, limits; damage is seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre.errors import SchedulerError
from expyre.schedulers import Listing, Slurm
from expyre.schedulers.slurm_read import read_ends, read_limits, read_listing, read_names
from expyre.schedulers.slurm_states import ENDS, HOPELESS, STATES, end_of, listing_of, why_waiting
from expyre.schedulers.units import Limits, Unit
from expyre.states import ALIVE, DONE, HELD, OTHER, QUEUE_FAILED, QUEUED, REMOTE_STATUSES, RUNNING, TIMEOUT


def answer(text: str, code: int = 0, name: str = "squeue") -> str:
    return f"\n=== expyre {name}\n{text}\n=== expyre ended {code}\n"


# -- states ------------------------------------------------------------------------------------------------------

DOCUMENTED = """
BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING PREEMPTED RUNNING
RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED
TIMEOUT LAUNCH_FAILED RECONFIG_FAIL UPDATE_DB
"""


@pytest.mark.parametrize("word", DOCUMENTED.split())
def test_every_documented_state_has_a_meaning(word: str) -> None:
    state = listing_of(word, "None").state
    assert STATES[word] == state
    assert state in REMOTE_STATUSES
    assert (word in ENDS) == (state in (DONE, QUEUE_FAILED, TIMEOUT))


@pytest.mark.parametrize(
    ("word", "reason", "state", "told"),
    [
        ("PENDING", "Priority", QUEUED, "Priority"),
        ("PENDING", "None", QUEUED, ""),
        ("PENDING", "JobHeldUser", HELD, "JobHeldUser"),
        ("PENDING", "JobHeldAdmin", HELD, "JobHeldAdmin"),
        ("PENDING", "(launch failed requeued HELD)", HELD, "(launch failed requeued HELD)"),
        ("REQUEUE_HOLD", "None", HELD, "REQUEUE_HOLD"),
        ("CONFIGURING", "None", QUEUED, "CONFIGURING"),
        ("RUNNING", "None", RUNNING, ""),
        ("COMPLETING", "NonZeroExitCode", RUNNING, "COMPLETING: NonZeroExitCode"),
        ("SUSPENDED", "None", RUNNING, "SUSPENDED"),
        ("COMPLETED", "None", DONE, "COMPLETED"),
        ("CANCELLED", "None", DONE, "CANCELLED"),
        ("FAILED", "NonZeroExitCode", QUEUE_FAILED, "FAILED: NonZeroExitCode"),
        ("TIMEOUT", "TimeLimit", TIMEOUT, "TIMEOUT: TimeLimit"),
        ("DEADLINE", "DeadLine", TIMEOUT, "DEADLINE"),
        ("NODE_FAIL", "NodeDown", QUEUE_FAILED, "NODE_FAIL: NodeDown"),
        ("SOME_NEW_FAILURE", "None", QUEUE_FAILED, "SOME_NEW_FAILURE"),
        ("SOMETHING_NEW", "None", OTHER, "SOMETHING_NEW"),
    ],
)
def test_states_and_reasons(word: str, reason: str, state: str, told: str) -> None:
    listing = listing_of(word, reason)
    assert (listing.state, listing.reason, listing.raw) == (state, told, f"{word} {reason}")


def test_why_jobs_wait() -> None:
    assert why_waiting(listing_of("PENDING", "Resources")) == "Resources"
    assert "never starts" in why_waiting(listing_of("PENDING", "DependencyNeverSatisfied"))
    assert "xpr release" in why_waiting(listing_of("PENDING", "JobHeldUser"))
    assert why_waiting(listing_of("RUNNING", "None")) == why_waiting(listing_of("COMPLETED", "None")) == ""
    for reason, words in HOPELESS.items():
        assert why_waiting(listing_of("PENDING", reason)) == f"{reason}: {words}"


# -- listings ----------------------------------------------------------------------------------------------------

# of Slurm 22.05.8
RECORDED = """\
2_2|PENDING|JobArrayTaskLimit
3_2|PENDING|JobArrayTaskLimit
2_0|RUNNING|None
2_1|COMPLETED|None
16_2|PENDING|JobHeldAdmin
17|FAILED|JobLaunchFailure
18|PENDING|Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions
19|CANCELLED|None
"""


def test_a_recorded_listing() -> None:
    ids = ["2_0", "2_1", "2_2", "16_2", "17", "18", "19", "20", "2"]
    found = read_listing(answer(RECORDED), ids)
    assert {id: listing.state for id, listing in found.items()} == {
        "2_0": RUNNING,
        "2_1": DONE,
        "2_2": QUEUED,
        "16_2": HELD,
        "17": QUEUE_FAILED,
        "18": QUEUED,
        "19": DONE,
    }
    assert found["18"].reason.startswith("Nodes required for job are DOWN")


def test_what_stands_beside_a_listing_means_nothing() -> None:
    text = "Welcome!\n7|RUNNING|None\n" + answer("CLUSTER: one\n7|PENDING|None\n\nCLUSTER: two")
    assert read_listing(text, ["7"])["7"].state == QUEUED
    warned = answer("squeue: warning: something\nslurm_load_jobs: also this\n 7|RUNNING|None")
    assert read_listing(warned, ["7"])["7"].state == RUNNING


def test_parts_of_jobs_and_members_that_wait_together() -> None:
    text = "7+0|RUNNING|None\n7+1|PENDING|None\n8_[1,3-5,10-20:5%2]|PENDING|Resources\n9|REVOKED|None\n9|RUNNING|None\n"
    ids = ["7", "8_1", "8_2", "8_3", "8_5", "8_15", "8_20", "9"]
    found = read_listing(answer(text), ids)
    assert [found[id].state if id in found else None for id in ids] == [
        RUNNING, QUEUED, None, QUEUED, QUEUED, QUEUED, QUEUED, RUNNING
    ]  # fmt: skip


def test_an_empty_listing_is_an_answer() -> None:
    assert read_listing(answer(""), ["7"]) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not complete"),
        ("bash: squeue: command not found", "not complete"),
        ("\n=== expyre squeue\n7|RUNNING|None\n", "not complete"),
        (answer("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1), "Unable to contact"),
        (answer("", 124), "no answer in"),
        (answer("", 127), "failed"),
        (answer("7|RUNNING|None\n8|RUNN"), "damaged at '8|RUNN'"),
        (answer("<html>Gateway timeout</html>"), "damaged"),
        (answer("7 RUNNING None"), "damaged"),
    ],
)
def test_no_answer_and_damaged_answers_are_errors(text: str, words: str) -> None:
    with pytest.raises(SchedulerError) as caught:
        read_listing(text, ["7"])
    assert words in str(caught.value)


ids = st.from_regex(r"\d{1,9}(_\d{1,5})?", fullmatch=True)


@given(st.dictionaries(ids, st.tuples(st.sampled_from(sorted(STATES)), st.text("abcXYZ ,()[]-|_", max_size=20))))
def test_listings_are_read_back(jobs: dict[str, tuple[str, str]]) -> None:
    text = answer("".join(f"{id}|{word}|{reason}\n" for id, (word, reason) in jobs.items()))
    assert read_listing(text, list(jobs)) == {id: listing_of(word, why.strip()) for id, (word, why) in jobs.items()}


@given(st.text(max_size=60))
def test_no_text_breaks_the_readers(text: str) -> None:
    for reader in (read_listing, read_ends):
        for wrapped in (text, answer(text)):
            try:
                reader(wrapped, ["7"])
            except SchedulerError:
                pass
    read_limits(answer(text, name="config"))
    read_names(answer(text), ["0" * 16])


# -- ends --------------------------------------------------------------------------------------------------------

# of Slurm 22.05.8: squeue -O JobArrayID:64,State:32,exit_code:16,Reason:64
CONTROLLER = """\
8                   FAILED              9                   NonZeroExitCode
9_1                 FAILED              4021                JobLaunchFailure
9_2                 FAILED              768                 NonZeroExitCode
10                  COMPLETED           0                   None
11                  TIMEOUT             0                   TimeLimit
12                  CANCELLED           15                  None
13                  RUNNING             0                   None
14                  FAILED              3:0                 NonZeroExitCode
15                  OUT_OF_MEMORY       125                 OutOfMemory
"""

ACCOUNTING = """\
8|FAILED|0:9
8.batch|FAILED|0:9
9_2|FAILED|3:0
12|CANCELLED by 1000|0:15
12.batch|CANCELLED|0:15
13|RUNNING|0:0
16|FAILED|1:0
16.batch|OUT_OF_MEMORY|0:125
16.extern|COMPLETED|0:0
17|NODE_FAIL|0:0
18|PREEMPTED|0:15
19|OUT_OF_MEMORY|0:125
20|TIMEOUT|0:0
20.batch|CANCELLED|0:15
21|BOOT_FAIL|0:0
22|CANCELLED+|0:0
23|FAILED|0:9|billing=1,cpu=1,mem=50M,node=1|
23.batch|CANCELLED by 0|0:9|cpu=1,mem=50M,node=1|407180K
24|FAILED|0:9|billing=1,cpu=1,mem=2G,node=2|
24.batch|FAILED|0:9|cpu=1,mem=1G,node=1|0.9G
25|COMPLETED|0:0|billing=1,cpu=1,mem=50M,node=1|
25.batch|COMPLETED|0:0|cpu=1,mem=50M,node=1|60000K
26|CANCELLED by 1000|0:0|nonsense|
26.batch|CANCELLED|0:15||16?
"""


@pytest.mark.parametrize(
    ("id", "reason", "exit_code", "words"),
    [
        ("8", "ExPyReJobDiedError", 137, "signal 9"),
        ("9_1", "ExPyReJobDiedError", None, "could not be opened"),
        ("9_2", "ExPyReJobDiedError", 3, "exit code 3"),
        ("10", "Completed", 0, "COMPLETED"),
        ("11", "TimedOut", 0, "TimeLimit"),
        ("12", "Cancelled", 143, "CANCELLED by 1000"),
        ("14", "ExPyReJobDiedError", 3, "exit code 3"),
        ("15", "OutOfMemory", 253, "OUT_OF_MEMORY"),
        ("16", "OutOfMemory", 253, "OUT_OF_MEMORY"),
        ("17", "NodeFailed", 0, "NODE_FAIL"),
        ("18", "Preempted", 143, "PREEMPTED"),
        ("19", "OutOfMemory", 253, "OUT_OF_MEMORY"),
        ("20", "TimedOut", 0, "TIMEOUT"),
        ("21", "NodeFailed", 0, "BOOT_FAIL"),
        ("22", "Cancelled", 0, "CANCELLED"),
        ("23", "OutOfMemory", 137, "407180 kB were used of 51200 kB"),
        ("24", "ExPyReJobDiedError", 137, "signal 9"),
        ("25", "Completed", 0, "COMPLETED"),
        ("26", "Cancelled", 0, "CANCELLED"),
    ],
)
def test_ends_from_controller_and_accounting(id: str, reason: str, exit_code: int | None, words: str) -> None:
    text = answer(CONTROLLER) + answer(ACCOUNTING, name="sacct")
    end = read_ends(text, [id, "13", "99"])[id]
    assert (end.reason, end.exit_code) == (reason, exit_code)
    assert words in end.detail


def test_jobs_that_have_not_ended_have_no_end() -> None:
    assert read_ends(answer(CONTROLLER) + answer(ACCOUNTING, name="sacct"), ["13", "99"]) == {}
    assert end_of("PENDING", 0, 0) is end_of("SUSPENDED", 0, 0) is end_of("NONSENSE", 0, 0) is None


def test_what_accounting_says_of_an_array_is_said_of_the_members_it_names() -> None:
    accounts = answer("7|CANCELLED by 0|0:0||\n7_[2-3,5%2]|CANCELLED by 0|0:0||\n7_4|FAILED|5:0||", name="sacct")
    ids = [f"7_{index}" for index in range(6)]
    ends = read_ends(answer("") + accounts, ids)
    assert {id: end.reason for id, end in ends.items()} == {
        "7_2": "Cancelled",
        "7_3": "Cancelled",
        "7_4": "ExPyReJobDiedError",
        "7_5": "Cancelled",
    }
    waiting = answer("7                   CANCELLED           0         None")
    assert {end.reason for end in read_ends(waiting, ids).values()} == {"Cancelled"}


def test_one_of_the_two_is_enough() -> None:
    refused = answer("Slurm accounting storage is disabled", 1, "sacct")
    completions = answer("10|COMPLETED|0:0", 0, "sacctc")
    down = answer("slurm_load_jobs error: Unable to contact slurm controller", 1)
    assert read_ends(answer(CONTROLLER) + refused, ["11"])["11"].reason == "TimedOut"
    assert read_ends(down + answer(ACCOUNTING, name="sacct"), ["20"])["20"].reason == "TimedOut"
    assert read_ends(down + refused + completions, ["10"])["10"].reason == "Completed"
    with pytest.raises(SchedulerError, match="Unable to contact"):
        read_ends(down + refused, ["11"])
    with pytest.raises(SchedulerError, match="neither"):
        read_ends("", ["11"])


# -- answers, names, limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Submitted batch job 123\n",
        "Submitted batch job 123 on cluster snail\n",
        "*** Welcome ***\nyour quota: 99\n\nSubmitted batch job 123\nbye\n",
        "123\n",
        "123;snail\n",
        "sbatch: Job estimates: 3 core hours\n123\n",
    ],
)
def test_the_id_in_an_answer(text: str) -> None:
    assert Slurm(None).parse_answer(text) == "123"


@pytest.mark.parametrize("text", ["", "queued", "Submitted batch job 1\nSubmitted batch job 2\n", "1\n2\n"])
def test_no_id_or_several(text: str) -> None:
    with pytest.raises(SchedulerError, match="job ids"):
        Slurm(None).parse_answer(text)


def test_units_by_their_tokens() -> None:
    one, two, three = (f"{n:016x}" for n in (1, 2, 3))
    queue = f"12|{one}|/x/script|/x\n13|(null)|/p/_expyre_submit/{two[:12]}/{two}/0.dir/job.script.slurm|/home/u|v\n"
    accounted = f"9||/p/_expyre_submit/{three[:12]}/{three}\n9|{one}|/y\n"
    units = [Unit(token, ()) for token in (one, two, three, "f" * 16)]
    disabled = answer("Slurm accounting storage is disabled", 1, "sacct")
    found = Slurm(None).parse_names(answer(queue) + disabled + answer(accounted, 0, "sacctold"), units)
    assert found == {one: "12", two: "13", three: "9"}
    assert read_names(answer("squeue: noise") + disabled, [one]) == {}
    with pytest.raises(SchedulerError):
        read_names(answer("down", 1) + answer(accounted, 0, "sacct"), [one])


def test_limits() -> None:
    config = "MaxArraySize            = 1001\nMaxJobCount             = 10000\nMaxJobId = 67043328\n"
    assert read_limits(answer(config, 0, "config")) == Limits(1001, 9999)
    accounts = answer("500\n\n200\n", 0, "assoc")
    assert read_limits(answer(config, 0, "config") + accounts) == Limits(1001, 200)
    assert read_limits(answer(config, 0, "config") + answer("500", 1, "assoc")) == Limits(1001, 9999)
    assert read_limits("") == Limits(1000, None)


def test_what_is_alive_is_not_explained() -> None:
    for word, state in STATES.items():
        assert (end_of(word, 0, 0) is None) == (state in ALIVE or state == OTHER)
    assert Listing(QUEUED).reason == ""
