"""Times and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre.units import kB_to_mem, mem_to_kB, time_to_HMS, time_to_sec

SECONDS = st.integers(min_value=0, max_value=10**9)
KILOBYTES = st.integers(min_value=0, max_value=2**45)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("5.5 m", 330),
        ("5S", 5),
        ("1D", 86400),
        ("0.5h", 1800),
        (".5h", 1800),
        ("1.15h", 4140),
        ("1.9999s", 1),
        ("10:10", 610),
        ("2:10:10", 7810),
        ("90:90", 5490),
        ("1-0", 86400),
        ("1-2:3", 86523),
        ("3-2:10:10", 267010),
        ("  7 ", 7),
        ("_NONE_", None),
        (None, None),
        (-3, -3),
        (7.9, 7),
    ],
)
def test_times(text: str | float | None, seconds: int | None) -> None:
    assert time_to_sec(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["1:2:3:4", "1.5", "1e3s", "-5", "", "1-5h", "1:", "5w", "٣s", "1 2", float("nan"), float("inf"), [1], True, b"5"],
)
def test_no_times(text: object) -> None:
    with pytest.raises(ValueError, match="give seconds"):
        time_to_sec(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kilobytes"),
    [
        ("5kB", 5),
        ("5 k", 5),
        ("1.5g", 1572864),
        ("5TB", 5 * 1024**3),
        ("2 mb", 2048),
        ("0.3m", 307),
        ("_none_", None),
        (None, None),
        (12, 12),
        (12.7, 12),
    ],
)
def test_sizes(text: str | float | None, kilobytes: int | None) -> None:
    assert mem_to_kB(text) == kilobytes


@pytest.mark.parametrize("text", ["5", "5b", "1gib", "5 T b", "", "-1k", "1e3k", {}, False])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="give kB"):
        mem_to_kB(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (61, "0:01:01"), (176410, "49:00:10")])
def test_hours_are_unbounded(seconds: int, text: str) -> None:
    assert time_to_HMS(seconds) == text


@pytest.mark.parametrize("seconds", [-1, None, "60", 1.5])
def test_no_hms(seconds: object) -> None:
    with pytest.raises(ValueError, match=r"[Ss]econds"):
        time_to_HMS(seconds)  # type: ignore[arg-type]


@given(SECONDS)
def test_a_time_written_reads_back(seconds: int) -> None:
    assert time_to_sec(time_to_HMS(seconds)) == seconds


@given(KILOBYTES)
def test_a_size_written_reads_back(kilobytes: int) -> None:
    assert mem_to_kB(kB_to_mem(kilobytes)) == kilobytes


@given(st.tuples(*[st.integers(0, 10**4)] * 4))
def test_fields_add_up(fields: tuple[int, int, int, int]) -> None:
    days, hours, minutes, seconds = fields
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert time_to_sec(f"{days}-{hours}:{minutes}:{seconds}") == expected


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from("smhd"), st.sampled_from(["", " ", "  "]))
def test_decimals_are_exact(whole: int, thousandths: int, unit: str, blanks: str) -> None:
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert time_to_sec(f"{whole}.{thousandths:03d}{blanks}{unit}") == (whole * 1000 + thousandths) * factor // 1000


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (time_to_sec, mem_to_kB):
        try:
            value = read(text)
        except ValueError as error:
            message = str(error)
            assert repr(text) in message
        else:
            assert value is None or value >= 0
