from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre.cli.filters import split_list
from expyre.cli.table import Column, fit, render
from expyre.cli.text import clean, crop, middle, pad, width
from expyre.cli.times import duration

hostile = st.text(st.characters() | st.sampled_from("\n\x1b…漢字é\u0301\u200b\u202e'\"$()`"), max_size=40)


@given(hostile, st.integers(0, 30))
def test_text_is_made_to_fit_whatever_it_holds(text: str, columns: int) -> None:
    shown = clean(text)
    assert shown.isprintable()
    assert width(crop(shown, columns)) <= columns
    assert width(middle(shown, columns)) <= columns
    assert width(middle(shown, columns, tail=8)) <= columns


@given(hostile)
def test_text_that_fits_is_left_alone(text: str) -> None:
    shown = clean(text)
    assert crop(shown, width(shown)) == middle(shown, width(shown)) == shown
    assert width(pad(shown, width(shown) + 3)) == width(shown) + 3


def test_middle_keeps_the_end() -> None:
    assert middle("relax_chunk_abcd1234", 14, tail=8) == "relax…abcd1234"
    assert middle("漢字漢字漢字", 8) == "漢字…字"
    assert clean("a\nb\x1b[31m") == "a\\nb\\x1b[31m"


@given(st.lists(st.lists(hostile, min_size=2, max_size=2), min_size=1, max_size=5), st.integers(8, 60))
def test_tables_never_get_wider_than_the_terminal(rows: list[list[str]], total: int) -> None:
    columns = [Column("one", [row[0] for row in rows], 3), Column("two", [row[1] for row in rows], 4)]
    fit(columns, total)
    lines = render(columns)
    assert len(lines) == len(rows) + 1
    assert len({width(line) for line in lines}) == 1
    assert max(map(width, lines)) <= total
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ", ["a", "b"]),
        ("a{2,3},b", ["a{2,3}", "b"]),
        ("[a,b],(c,d)", ["[a,b]", "(c,d)"]),
        (r"a\,b,c", [r"a\,b", "c"]),
        (",,a,", ["a"]),
        (r"x\(,y", [r"x\(", "y"]),
        ("", []),
    ],
)
def test_lists_are_split_at_commas_that_belong_to_no_expression(text: str, items: list[str]) -> None:
    assert split_list(text) == items


@given(st.lists(st.from_regex(r"[a-z.*+]{1,8}(\{1,3\})?|\([a-z],[a-z]\)", fullmatch=True), max_size=5))
def test_lists_of_expressions_come_back(items: list[str]) -> None:
    assert split_list(", ".join(items)) == items


@given(st.text(max_size=30))
def test_splitting_never_fails_and_loses_nothing_but_commas_and_blanks(text: str) -> None:
    squeezed = re.sub(r"[\s,]", "", "".join(split_list(text)))
    assert squeezed == re.sub(r"[\s,]", "", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (1.25, "1.25s"), (42.4, "42s"), (90, "1.5m"), (7200, "2h"),
     (2e5, "2.31d"), (-90, "-1.5m")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
