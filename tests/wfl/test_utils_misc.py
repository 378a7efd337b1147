from __future__ import annotations

import io
import re

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import wfl
from wfl.generate.utils import save_config_type
from wfl.utils import logging as wfl_logging
from wfl.utils.logging import PrefixedStream, increment_active_iter, print_log, process_active_iter
from wfl.utils.misc import atoms_to_list, chunks, describe_failure, dict_tuple_keys_to_str
from wfl.utils.parallel import construct_calculator_picklesafe
from wfl.utils.replace_eval_in_strs import replace_eval_in_strs
from wfl.utils.round_sig_figs import round_sig_figs
from wfl.utils.version import get_wfl_version


def factory(scale, offset=1.0):
    return LennardJones(epsilon=scale + offset)


def test_calculator_forms():
    calc = EMT()
    assert construct_calculator_picklesafe(calc) is calc
    assert isinstance(construct_calculator_picklesafe((EMT, None, None)), EMT)
    assert construct_calculator_picklesafe([factory, [2.0], {"offset": 0.5}]).parameters.epsilon == 2.5


@pytest.mark.parametrize("recipe", [(EMT,), (EMT, [], {}, 1), ("EMT", [], {}), (None, None, None), EMT, None, "EMT"])
def test_bad_calculator_forms(recipe):
    with pytest.raises(RuntimeError, match="callable"):
        construct_calculator_picklesafe(recipe)


def test_chunks_and_lists():
    assert list(chunks(list(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    at = bulk("Cu")
    assert atoms_to_list(at) == [at]
    assert atoms_to_list(iter([at, at])) == [at, at]


def test_tuple_keys():
    assert dict_tuple_keys_to_str({("a", 1): {(2, 3): (4, 5)}, "b": 1}) == {"(a,1)": {"(2,3)": (4, 5)}, "b": 1}


def test_failures_fit_on_a_line():
    assert describe_failure(ValueError("a\n  b")) == "ValueError: a b"
    assert len(describe_failure(ValueError("x" * 9999))) == 500


@pytest.mark.parametrize(
    ("value", "n", "text"),
    [(19.95, 2, "20"), (12345.6, 2, "12000"), (0.012345, 3, "0.0123"), (0, 2, "0"), (-1.25, 1, "-1")],
)
def test_round_sig_figs(value, n, text):
    assert round_sig_figs(value, n) == text


def test_version():
    assert re.fullmatch(r"git \S+|" + re.escape(wfl.__version__), get_wfl_version())


@pytest.mark.parametrize(
    ("before", "action", "after"),
    [
        (None, "append", "new"),
        ("old", "append", "old:new"),
        ("old", "overwrite", "new"),
        ("old", False, "old"),
        (None, None, None),
    ],
)
def test_save_config_type(before, action, after):
    at = bulk("Cu")
    if before is not None:
        at.info["config_type"] = before
    save_config_type(at, action, "new")
    assert at.info.get("config_type") == after


def test_save_config_type_other():
    with pytest.raises(ValueError, match="prepend"):
        save_config_type(bulk("Cu"), "prepend", "new")


def test_print_log():
    stream = io.StringIO()
    print_log("hello", logfile=stream)
    print_log("bare", show_time=False, logfile=stream)
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"LOG \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: hello", first)
    assert second == "LOG bare"


def test_active_iter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    increment_active_iter(3)
    assert not wfl_logging.ACTIVE_ITER.exists()
    assert process_active_iter(5) == 5
    assert process_active_iter(None) == 0
    increment_active_iter(3)
    increment_active_iter(1)
    assert process_active_iter(None) == 4


def test_prefixed_stream(tmp_path, capsys):
    with PrefixedStream("-", "> ") as stream:
        stream.write("a")
        stream.write("b\nc\n")
    assert capsys.readouterr().out == "> ab\n> c\n"
    with PrefixedStream(tmp_path / "log", "x ") as stream:
        stream.write("1\n")
    with PrefixedStream(tmp_path / "log") as stream:
        stream.write("2\n")
    assert (tmp_path / "log").read_text() == "x 1\n2\n"


REPLACEMENTS = {"A": 2.0, "Z": np.int64(3), "Zs": np.array([3, 13]), "many": [np.int64(1), np.float64(0.5)]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_EVAL_ {A}/4.0", 0.5),
        ("_EVAL_ 10/3", 3.3),
        ("_EVAL_ {Z}", 3),
        ("_EVAL_ {Zs}", [3, 13]),
        ("_EVAL_ max({many}) + len({Zs})", 3),
        ("_EVAL_ -2**2 if {A} > 1 and not False else 0", -4),
        ("_EVAL_ np.sqrt(4) * math.pi // 1", 6.0),
        ("_EVAL_ {Zs}[1] % 5", 3),
        ("_EVAL_no_eval", "_EVAL_no_eval"),
        ("{A}", "{A}"),
    ],
)
def test_replace_eval(text, expected):
    result = replace_eval_in_strs({"a": [text, (text, 1.23456)], "b": None}, REPLACEMENTS, n_float_sig_figs=2)
    assert result == {"a": [expected, (expected, 1.23456)], "b": None}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "().__class__", "open('x')", "9**9**9", "[1]*10**9", "{missing}", "1 +",
        "lambda: 1", "[x for x in [1]]", "1/0", "print(1)", "int(x=1)", "1 << 3",
    ],
)  # fmt: skip
def test_replace_eval_refuses(text):
    with pytest.raises(ValueError, match=r"cannot evaluate|have values"):
        replace_eval_in_strs(f"_EVAL_ {text}", {})


def test_replace_eval_other_types():
    with pytest.warns(UserWarning, match="object"):
        replace_eval_in_strs(object(), {})
