"""Mistakes on the command line of ``wfl`` end as one message that names the way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from wfl.cli.cli import cli

EVAL = "eval ase emt -i in.xyz -o out.xyz"
OPTIMIZE = "optimize -i in.xyz -o out.xyz -c emt --steps 1"
MD = "md -i in.xyz -o out.xyz -c emt --steps 1 --dt 1"


@pytest.fixture(autouse=True)
def _files(change_test_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WFL_NUM_PYTHON_SUBPROCESSES", "0")
    write("in.xyz", bulk("Cu"))
    Path("broken.xyz").write_text("2\nProperties=species:S:1:pos:R:3\nCu 0 0 0\n")
    Path("raises.py").write_text("1 / 0\n")
    Path("needs.py").write_text("import no_such_package\n")
    Path("makes.py").write_text("number = 1\n\n\ndef broken():\n    raise KeyError('no model')\n")


def mistake(words: str | list[str]) -> tuple[int, str]:
    result = CliRunner().invoke(cli, words)
    assert not os.path.exists("out.xyz")
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evil", "No such command 'evil'. Did you mean: eval?"),
        ("zzz", "There are: info, convert, eval, optimize, md."),
        ("eval gaap", "No such command 'gaap'. There are: ase."),
        (f"{EVAL} -i missing.xyz -i no*.xyz", "no file matches 'missing.xyz', 'no*.xyz'"),
        ("info missing.xyz", "no file matches 'missing.xyz'"),
        ("eval ase emtt -i in.xyz -o out.xyz", "there is no calculator 'emtt'; did you mean emt"),
        ("eval ase LenardJones -i in.xyz -o out.xyz", "did you mean lennardjones"),
        ("eval ase qqqqqqq -i in.xyz -o out.xyz", "give a name that ASE knows, or module:callable"),
        ("eval ase ase.calculators.emt.EMT -i in.xyz -o out.xyz", "did you mean ase.calculators.emt:EMT?"),
        ("eval ase ase.calculators.emt:ETM -i in.xyz -o out.xyz", "ase.calculators.emt has no 'ETM'; did you mean EMT"),
        ("eval ase no_module:EMT -i in.xyz -o out.xyz", "there is no module 'no_module', neither installed nor in"),
        ("eval ase raises:EMT -i in.xyz -o out.xyz", "module 'raises' cannot be imported: ZeroDivisionError"),
        ("eval ase needs:EMT -i in.xyz -o out.xyz", "module 'needs' needs 'no_such_package', which is not installed"),
        ("eval ase makes:number -i in.xyz -o out.xyz", "makes:number is a int, not a class or function"),
        (f"{EVAL} --properties energy,force", "--properties: unknown 'force' (did you mean forces"),
        (f"""{EVAL} -kw '{{"asap_cutof": 1}}'""", "--kwargs of EMT: unknown 'asap_cutof' (did you mean asap_cutoff?)"),
        (f"{EVAL} -kw '[1]'", 'a JSON object is needed, like {"name": 1.5}, not [1]'),
        (f"""{EVAL} -kw '{{"a": 1 "b": 2}}'""", """at line 1 column 9\n  {"a": 1 "b": 2}\n          ^"""),
        (f'{EVAL} -kw "{{\'a\': 1}}"', "at line 1 column 2 (JSON has double quotes)"),
        (f"{EVAL} -kw ''", "not JSON"),
        (f"""{EVAL} -kw '{{"a": 1, "a": 2}}'""", "given more than once: 'a'"),
        (f"{EVAL} --num-inputs-per-python-subprocess 0", "0 is not in the range x>=1"),
        (f"{OPTIMIZE} --pressur 1", "Did you mean '--pressure'?"),
        (f"{OPTIMIZE} --pressure 1,2", "not JSON"),
        (f"""{OPTIMIZE} --pressure '["uniform", 0, 1]'""", "--pressure is random: give --seed, too"),
        (f"""{OPTIMIZE} -kw '{{"maxstp": 1}}'""", "--kwargs: unknown 'maxstp' (did you mean maxstep"),
        (f"""{OPTIMIZE} -kw '{{"steps": 1}}'""", "given twice, in --kwargs and as an option of its own: --steps"),
        (f"""{OPTIMIZE} -kw '{{"calculator": 1}}'""", "unknown 'calculator'"),
        (f"""{OPTIMIZE} -ckw '{{"foo": 1}}'""", "--calculator-kwargs of EMT: unknown 'foo'; there are:"),
        ("md -i in.xyz -o out.xyz -c emt --dt 1", "Missing option '--steps'"),
        (f"{MD} --temperature 300", "give --seed, too"),
        (f"{MD} --integrator langevin", "'langevin' is not one of 'Berendsen', 'Langevin', 'LangevinBAOAB'"),
        (f"""{MD} -kw '{{"abort_check": 1}}'""", "unknown 'abort_check'"),
        ("convert -i in.xyz -o out.xyz --index 1", "--index selects nothing: there are 1 configurations"),
        ("convert -i in.xyz -o out.xyz --index a:b", "index 'a:b' is neither an integer nor a slice"),
        ("convert -i in.xyz -o out.xyz --index ::-1", "the step of '::-1' must be at least 1"),
        ("convert -i in.xyz -o out.xyz --output-format extxy", "there is no format 'extxy'; did you mean extxyz"),
    ],
)
def test_mistakes_of_usage(words: str, message: str) -> None:
    code, text = mistake(words)
    assert message in text
    assert code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("convert -i in.xyz -o out.strange", "the format 'strange' cannot hold a growing series"),
        ("convert -i broken.xyz -o out.xyz", "broken.xyz"),
        ("info broken.xyz", "broken.xyz"),
        ("info in.xyz makes.py", "while reading makes.py"),
        ("convert -i makes.py -o out.xyz", "while converting ConfigSet with single file makes.py"),
        ("eval ase makes:broken -i in.xyz -o out.xyz", "the calculator cannot be made: KeyError: 'no model'"),
        ("eval ase emt -i in.xyz -o no_directory/out.xyz -pp ''", "output_prefix must not be empty"),
        ("optimize -i in.xyz -o out.xyz -c makes:broken", "KeyError: no model (EXPYRE_TRACEBACK=1"),
        (f"{MD} --pressure 1 --temperature 300 --seed 1", "'Berendsen' with pressure needs temperature_tau"),
    ],
)
def test_errors_while_running(words: str, message: str) -> None:
    code, text = mistake(words)
    assert message in text
    assert code == 1


def test_mistakes_in_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WFL_EXPYRE_INFO", '{"generic.py::calculate": {"sys_nam": "local"}}')
    assert "unknown key 'sys_nam'; did you mean 'sys_name'?" in mistake(EVAL)[1]


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_TRACEBACK", "1")
    result = CliRunner().invoke(cli, "optimize -i in.xyz -o out.xyz -c makes:broken")
    assert isinstance(result.exception, KeyError)


@given(st.text(max_size=30))
def test_any_text_for_json_is_a_value_or_one_message(text: str) -> None:
    import json

    import click

    from wfl.cli.parameters import Json

    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(click.BadParameter):
            Json().convert(text, None, None)
    else:
        found = Json().convert(text, None, None)
        assert found == expected or expected != expected
