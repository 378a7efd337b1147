"""How long is waited between two looks."""

from __future__ import annotations

import time

import pytest

from expyre.gather.pace import Pace


def test_looks_that_find_nothing_follow_each_other_ever_more_slowly() -> None:
    pace = Pace([], slowest=1.0)
    naps = []
    for _ in range(30):
        pace.looked(0.0)
        naps.append(pace.rest(progressed=False, at_most=None))
    assert naps[0] < 0.1
    assert naps[-1] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("progressed", "rest"), [(False, 12.0), (True, 3.0)])
def test_a_queue_that_is_slow_to_answer_rests_longer(progressed: bool, rest: float) -> None:
    pace = Pace([], slowest=30.0)
    pace.looked(2.0)
    pace.looked(1.0)
    assert pace.rest(progressed, at_most=None) == pytest.approx(rest, abs=1.0)


@pytest.mark.parametrize(("slowest", "rest"), [(2.0, 30.0), (100.0, 100.0)])
def test_no_rest_is_without_end(slowest: float, rest: float) -> None:
    pace = Pace([], slowest=slowest)
    pace.looked(60.0)
    assert pace.rest(progressed=False, at_most=None) == pytest.approx(rest, abs=1.0)


def test_what_is_done_with_results_is_part_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace([], slowest=30.0)
    pace.looked(2.0)
    later = time.monotonic() + 100
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert pace.rest(progressed=True, at_most=None) == 0.0


def test_a_round_without_a_look_is_followed_by_a_rest_all_the_same() -> None:
    pace = Pace([], slowest=30.0)
    assert pace.rest(progressed=False, at_most=None) > 0


def test_no_look_comes_later_than_the_end_of_somebodys_patience() -> None:
    pace = Pace([], slowest=30.0)
    pace.looked(2.0)
    assert pace.rest(progressed=False, at_most=0.5) == 0.5
