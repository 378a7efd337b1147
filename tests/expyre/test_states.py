"""What evidence of a job amounts to, and what status words stand for."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre import errors, states
from expyre.states import End, Evidence, decide, expand_statuses

END_WORDS = [value for name, value in vars(states).items() if name.startswith("END_")]
UNFINISHED = (states.CREATED, states.SUBMITTED, states.STARTED, states.DIED)
BUDGET = 60.0
YES_NO = (False, True)
# every look there can be, with the times on both sides of each limit
LOOKS = [
    Evidence(*look)
    for look in product(
        YES_NO,
        YES_NO,
        YES_NO,
        states.REMOTE_STATUSES,
        (None, *(End(word, "detail", 1) for word in END_WORDS)),
        (0.0, 4.9, 5.0, 59.9, 60.0, 1e9),
    )
]
CASES = list(product(LOOKS, states.STATUSES))
SILENT = [e for e in LOOKS if not (e.succeeded or e.failed or e.end)]


def alive(evidence: Evidence) -> bool:
    return evidence.queue in states.ALIVE or evidence.queue == states.OTHER


def test_files_outrank_the_queue() -> None:
    for evidence, status in product(LOOKS, UNFINISHED):
        verdict = decide(evidence, status=status, budget=BUDGET)
        if evidence.succeeded:
            assert verdict.status == states.SUCCEEDED
        elif evidence.failed:
            assert verdict.status == states.FAILED
        else:
            assert verdict.status in UNFINISHED


def test_what_is_alive_never_dies() -> None:
    for evidence, status in CASES:
        verdict = decide(evidence, status=status, budget=BUDGET)
        if alive(evidence):
            assert verdict.status != states.DIED
            assert verdict.end is None


def test_unknown_is_neither_done_nor_dead_before_its_budget_is_spent() -> None:
    for evidence, status in product(SILENT, (states.SUBMITTED, states.STARTED)):
        if evidence.queue == states.UNKNOWN:
            verdict = decide(evidence, status=status, budget=BUDGET)
            assert verdict.remote_status == states.UNKNOWN
            lost = evidence.unknown_for >= BUDGET
            assert (verdict.status == states.DIED) == lost
            assert (verdict.end is not None and verdict.end.reason == states.END_LOST) == lost


def test_a_job_dies_with_a_named_end() -> None:
    for evidence, status in CASES:
        verdict = decide(evidence, status=status, budget=BUDGET)
        if verdict.status == states.DIED and status != states.DIED:
            assert verdict.end is not None
        if verdict.end is not None:
            assert verdict.status == states.DIED
            assert issubclass(getattr(errors, verdict.end.reason), errors.ExPyReJobDiedError)


def test_more_silence_never_revives() -> None:
    for evidence, status in CASES:
        if decide(evidence, status=status, budget=BUDGET).status == states.DIED:
            later = dataclasses.replace(evidence, unknown_for=evidence.unknown_for + 100.0)
            assert decide(later, status=status, budget=BUDGET).status == states.DIED


def test_words_are_of_the_vocabulary() -> None:
    for evidence, status in CASES:
        verdict = decide(evidence, status=status, budget=BUDGET)
        assert verdict.status in states.STATUSES
        assert verdict.remote_status in states.REMOTE_STATUSES


def test_every_verdict_is_a_step_that_may_be_taken() -> None:
    for evidence, status in CASES:
        verdict = decide(evidence, status=status, budget=BUDGET)
        if status != states.SUCCEEDED:
            assert verdict.status == status or verdict.status in states.STEPS[status], (evidence, status, verdict)


def test_deciding_again_on_the_same_look_changes_no_status() -> None:
    for evidence, status in CASES:
        once = decide(evidence, status=status, budget=BUDGET)
        assert decide(evidence, status=once.status, budget=BUDGET).status == once.status


def test_silence_does_not_touch_what_is_recorded() -> None:
    for status in states.STATUSES:
        assert decide(Evidence(), status=status).status == status
        assert decide(Evidence(unknown_for=30.0), status=status, budget=BUDGET).status == status


def test_what_was_never_submitted_or_is_dead_already_is_not_lost() -> None:
    for status in (states.CREATED, states.DIED):
        verdict = decide(Evidence(unknown_for=1e6), status=status, budget=BUDGET)
        assert verdict.status == status
        assert verdict.end is None


def test_started_is_not_taken_back_unless_the_queue_says_so() -> None:
    for evidence in SILENT:
        verdict = decide(evidence, status=states.STARTED, budget=BUDGET)
        waits_again = evidence.queue == states.QUEUED and not evidence.started
        assert (verdict.status == states.SUBMITTED) == waits_again


def test_what_is_done_with_stays_so_and_results_do_not_vanish() -> None:
    for evidence in LOOKS:
        for status in (states.PROCESSED, states.CLEANED):
            assert decide(evidence, status=status, budget=BUDGET).status == status
    for evidence, status in product([e for e in LOOKS if not (e.succeeded or e.failed)], ("succeeded", "failed")):
        assert decide(evidence, status=status, budget=BUDGET).status == status


def test_a_dead_job_is_revived_by_being_seen() -> None:
    assert decide(Evidence(queue=states.RUNNING), status=states.DIED).status == states.SUBMITTED
    assert decide(Evidence(started=True, queue=states.RUNNING), status=states.DIED).status == states.STARTED
    assert decide(Evidence(succeeded=True), status=states.DIED).status == states.SUCCEEDED


def test_groups_and_steps_are_made_of_statuses() -> None:
    for words in (*states.GROUPS.values(), *states.STEPS.values(), states.STEPS):
        assert set(words) <= set(states.STATUSES)
    assert set(states.STEPS) == set(states.STATUSES)


def test_every_status_can_be_cleaned_and_a_processed_job_gives_no_results() -> None:
    for status in states.STATUSES:
        assert status == states.CLEANED or states.CLEANED in states.STEPS[status]
    assert states.PROCESSED not in states.GROUPS["can_produce_results"]


@given(st.lists(st.sampled_from([*states.STATUSES, *states.GROUPS])))
def test_expanded_statuses_are_all_and_only_those_named(words: list[str]) -> None:
    found = expand_statuses(words)
    assert found is not None
    assert set(found) == {status for word in words for status in states.GROUPS.get(word, (word,))}
    assert len(found) == len(set(found))
    assert expand_statuses(found) == found


def test_a_single_word_and_no_word() -> None:
    assert expand_statuses("ongoing") == ["created", "submitted", "started"]
    assert expand_statuses(None) is None
    assert expand_statuses([]) == []


@given(st.text().filter(lambda word: word not in (*states.STATUSES, *states.GROUPS)))
def test_an_unknown_word_is_refused_with_the_known_ones(word: str) -> None:
    with pytest.raises(ValueError, match="can_produce_results"):
        expand_statuses([word])
