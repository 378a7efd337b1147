"""Which failures are worth another try, and with how much more."""

from __future__ import annotations

from typing import Any

import pytest

from expyre import errors
from expyre.resources import Resources
from expyre.retry import Retry

SMALL = Resources(100, num_cores=1, max_mem_tot=1000)


def test_nothing_is_retried_unless_asked() -> None:
    assert not Retry().wants(errors.TimedOut("x"), 0)
    assert Retry.from_spec(None) == Retry()


@pytest.mark.parametrize("name", Retry.on)
def test_the_default_is_what_the_queue_did(name: str) -> None:
    error = getattr(errors, name)("x")
    assert Retry(2).wants(error, 1)
    assert not Retry(2).wants(error, 2)


@pytest.mark.parametrize("error", [errors.Cancelled("x"), errors.ExPyReJobDiedError("x"), ValueError("x")])
def test_other_failures_are_not_retried(error: Exception) -> None:
    assert not Retry(3).wants(error, 0)


class FickleError(Exception):
    pass


def test_names_stand_for_derived_classes_and_may_have_a_module() -> None:
    assert Retry(1, on=("ExPyReJobDiedError",)).wants(errors.Lost("x"), 0)
    assert Retry(1, on=("OSError",)).wants(FileNotFoundError("x"), 0)
    assert Retry(1, on=(f"{FickleError.__module__}.FickleError",)).wants(FickleError(), 0)


def test_more_of_what_ran_out() -> None:
    retry = Retry(1, time_factor=1.5, mem_factor=2, partitions=("large",))
    assert retry.escalate(SMALL, errors.TimedOut("x")).to_dict() == {
        "max_time": 150,
        "num_cores": 1,
        "max_mem_tot": 1000,
        "partitions": ["large"],
    }
    assert retry.escalate(SMALL, errors.OutOfMemory("x")).max_mem == (2000, "tot")
    assert retry.escalate(SMALL, errors.NodeFailed("x")).max_time == 100


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        (2, Retry(2)),
        ({"max_retries": 1, "on": ["TimedOut"], "partitions": "a"}, Retry(1, on=("TimedOut",), partitions=("a",))),
        (Retry(5), Retry(5)),
    ],
)
def test_from_spec(spec: Any, policy: Retry) -> None:
    assert Retry.from_spec(spec) == policy


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"max_retry": 1}, "did you mean 'max_retries'"),
        ({"on": ["TimeOut"]}, "did you mean 'TimedOut'"),
        ({"on": [3]}, "no error is called 3"),
        (-1, "max_retries=-1"),
        ("many", "max_retries='many'"),
        ({"time_factor": 0.5, "mem_factor": "x"}, "time_factor=0.5 is not a number of at least 1; mem_factor='x'"),
        ({"partitions": [1]}, "not regular expressions"),
    ],
)
def test_mistakes(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match="makes no sense") as error:
        Retry.from_spec(spec)
    assert message in str(error.value)
