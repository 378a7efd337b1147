from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from wfl.utils.misc import MissingRngError
from wfl.utils.pressure import PressureRecursionError, sample_pressure


def rng():
    return np.random.default_rng(7)


@given(st.one_of(st.floats(-1e3, 1e3), st.integers(-1000, 1000)))
def test_numbers(value):
    for given_as in (value, np.float64(value), np.array(value)):
        assert sample_pressure(given_as) == value
        at = bulk("Cu")
        at.info["p"] = given_as
        assert sample_pressure(("info", "p"), at) == value


@pytest.mark.parametrize("value", [np.int64(3), np.float32(3)])
def test_numpy_scalars(value):
    result = sample_pressure(value)
    assert result == 3
    assert type(result) is float


def test_random_forms():
    assert sample_pressure(("exponential", 2.0), rng=rng()) == 2.0 * rng().exponential(1.0)
    assert sample_pressure(("uniform", 2, 3), rng=rng()) == rng().uniform(2, 3)
    generator = rng()
    values = [sample_pressure(["normal_positive", 0.0, 1.0], rng=generator) for _ in range(200)]
    assert min(values) >= 0
    assert len(set(values)) == 200


def test_info_form_passes_the_generator_on():
    at = bulk("Cu")
    at.info.update(p=["uniform", 2, 3], q=("info", "p"), text=np.array(["uniform", "2", "3"]))
    expected = rng().uniform(2, 3)
    assert [sample_pressure(("info", key), at, rng()) for key in ("p", "q", "text")] == [expected] * 3


@pytest.mark.parametrize(
    "pressure",
    ["1.0", None, True, (), ("uniform", 1), ("gamma", 1.0), ("uniform", "a", 2), ("info", "absent"), {"uniform": 1}],
)
def test_what_is_not_understood(pressure):
    with pytest.raises(RuntimeError, match="pressure"):
        sample_pressure(pressure, bulk("Cu"), rng())


def test_info_without_configuration():
    with pytest.raises(RuntimeError, match="needs a configuration"):
        sample_pressure(("info", "p"))


def test_circles():
    at = bulk("Cu")
    at.info.update(a=("info", "a"), b=("info", "c"), c=("info", "b"))
    for key in "abc":
        with pytest.raises(PressureRecursionError):
            sample_pressure(("info", key), at)


def test_hopeless_normal():
    with pytest.raises(RuntimeError, match="1000 draws"):
        sample_pressure(("normal_positive", -100.0, 1.0), rng=rng())


def test_random_needs_generator():
    with pytest.raises(MissingRngError, match="default_rng"):
        sample_pressure(("exponential", 1.0))
