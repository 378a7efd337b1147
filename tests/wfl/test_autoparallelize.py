import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.atoms import Atoms
from ase.build import bulk

from wfl.autoparallelize import AutoparaInfo, autoparallelize, autoparallelize_docstring, autoparallelized
from wfl.configset import ConfigSet, OutputSpec

SERIAL = {"num_python_subprocesses": 0}
POOL = {"num_python_subprocesses": 2}


def _mark(atoms, key="seen", value=1):
    """Mark configurations.

    Parameters
    ----------
    atoms: list(Atoms)
        configurations to mark
    key: str
        where
    value: int, optional
        what

    Returns
    -------
    list(Atoms)
        marked
    """
    for at in atoms:
        at.info[key] = value
    return atoms


def mark(*args, **kwargs):
    return autoparallelize(_mark, *args, default_autopara_info={"num_inputs_per_python_subprocess": 3}, **kwargs)


autoparallelize_docstring(mark, _mark, "Atoms")


@autoparallelized(num_inputs_per_python_subprocess=2)
def number(atoms, base=0, _autopara_per_item_info=None):
    """Number configurations."""
    for at, info in zip(atoms, _autopara_per_item_info, strict=True):
        at.info["n"] = base + info["item_i"]
    return atoms


def configs(n):
    return [Atoms("H", positions=[(i, 0, 0)]) for i in range(n)]


@pytest.fixture(params=[0, 2], ids=["serial", "pool"])
def workers(request):
    return {"num_python_subprocesses": request.param}


# ------------------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize("n", [0, 1, 2, 7])
@pytest.mark.parametrize("kind", [list, iter, ConfigSet, tuple])
def test_any_input_to_memory_and_file(tmp_path, n, kind, workers):
    for output in (OutputSpec(), OutputSpec(tmp_path / "out.xyz")):
        result = mark(kind(configs(n)), output, "seen", value=3, autopara_info=workers)
        found = list(result)
        assert [at.positions[0, 0] for at in found] == list(range(n))
        assert all(at.info["seen"] == 3 for at in found)
        assert result.items or n == 0
    assert (tmp_path / "out.xyz").exists() is (n > 0)


def test_inputs_and_outputs_by_keyword(workers):
    assert len(list(mark(inputs=configs(2), outputs=OutputSpec(), autopara_info=workers))) == 2
    assert len(list(mark(configs(2), outputs=OutputSpec(), autopara_info=workers))) == 2
    with pytest.raises(KeyError, match="outputs"):
        mark(OutputSpec(), inputs=configs(2))
    with pytest.raises(TypeError, match="needs an output"):
        mark(configs(2))
    with pytest.raises(RuntimeError, match="must be an OutputSpec or None"):
        mark(configs(2), "out.xyz")


def test_side_effects_only(tmp_path, workers):
    def touch(numbers):
        for i in numbers:
            (tmp_path / str(i)).touch()

    assert autoparallelize(touch, range(5), None, autopara_info=workers) is None
    assert len(list(tmp_path.iterdir())) == 5
    result = autoparallelize(touch, range(5), OutputSpec(tmp_path / "none.xyz"), autopara_info=workers)
    assert list(result) == []
    assert (tmp_path / "none.xyz").exists()


def test_none_leaves_the_others_at_their_places(tmp_path, workers):
    def odd(atoms):
        return [at if at.positions[0, 0] % 2 else None for at in atoms]

    files = [tmp_path / name for name in ("a.xyz", "b.xyz")]
    ins = ConfigSet([configs(3), configs(4)])
    result = autoparallelize(odd, ins, OutputSpec(files), autopara_info=workers)
    assert [at.info["_ConfigSet_loc"] for at in result] == [" / 0 / 1", " / 1 / 1", " / 1 / 3"]
    result = autoparallelize(odd, ins, OutputSpec(), autopara_info=workers)
    assert [at.info["_ConfigSet_loc"] for at in result] == [" / 0 / 1", " / 1 / 1", " / 1 / 3"]


def test_groups_as_items(tmp_path, workers):
    def last_two(groups):
        return [list(group)[-2:] for group in groups]

    nested = ConfigSet([configs(3), configs(4), configs(2)])
    mark(nested, OutputSpec(tmp_path / "nested.xyz"), autopara_info=SERIAL)
    for ins in (nested, ConfigSet(tmp_path / "nested.xyz")):
        for output in (OutputSpec(), OutputSpec(tmp_path / f"out{len(list(tmp_path.iterdir()))}.xyz")):
            result = autoparallelize(last_two, ins.groups(), output,
                                     autopara_info={**workers, "num_inputs_per_python_subprocess": 2})
            assert [at.positions[0, 0] for at in result] == [1, 2, 2, 3, 0, 1]
            assert [at.info["_ConfigSet_loc"] for at in result][2:4] == [" / 1 / 0", " / 1 / 1"]


def test_stale_location_of_a_plain_list_is_no_place(tmp_path, workers):
    stale = configs(3)
    for i, at in enumerate(stale):
        at.info["_ConfigSet_loc"] = f" / 7 / {2 - i}"
    for output in (OutputSpec(), OutputSpec(tmp_path / "out.xyz")):
        result = mark(stale, output, autopara_info=workers)
        assert [(at.positions[0, 0], at.info["_ConfigSet_loc"]) for at in result] == [
            (i, f" / {i}") for i in range(3)
        ]


def test_pool_leaves_the_callers_objects_alone():
    ats = configs(3)
    mark(ats, OutputSpec(), autopara_info=POOL)
    assert all(at.info == {} for at in ats)


def test_info_object_is_not_changed_and_can_be_used_again():
    info = AutoparaInfo(**SERIAL)
    mark(configs(2), OutputSpec(), autopara_info=info)
    assert vars(info) == SERIAL
    with pytest.raises(ValueError, match="num_python_subprocess"):
        mark(configs(1), OutputSpec(), autopara_info={"num_python_subproces": 1})
    with pytest.raises(TypeError, match="autopara_info must be"):
        mark(configs(1), OutputSpec(), autopara_info=3)


def test_priority_of_settings(monkeypatch):
    sizes = []

    def op(items):
        sizes.append(len(items))

    def wrapped(*args, **kwargs):
        return autoparallelize(op, *args, default_autopara_info={"num_inputs_per_python_subprocess": 4}, **kwargs)

    monkeypatch.setenv("WFL_NUM_PYTHON_SUBPROCESSES", "")
    wrapped(range(8), None)
    wrapped(range(8), None, autopara_info={"num_inputs_per_python_subprocess": 8})
    assert sizes == [4, 4, 8]
    monkeypatch.setenv("WFL_NUM_PYTHON_SUBPROCESSES", "two")
    with pytest.raises(ValueError, match="WFL_NUM_PYTHON_SUBPROCESSES must be a non-negative integer, not 'two'"):
        wrapped(range(8), None)


@pytest.mark.parametrize("iterable_arg", [1, "things"])
def test_position_of_the_items(iterable_arg, workers):
    def op(factor, things):
        return [Atoms("H", positions=[(factor * x, 0, 0)]) for x in things]

    result = autoparallelize(op, [1, 2], OutputSpec(), 3, autopara_info={**workers, "iterable_arg": iterable_arg})
    assert [at.positions[0, 0] for at in result] == [3, 6]


def test_initializer_runs_once_per_process(tmp_path, workers):
    def note(directory, name="init"):
        with open(Path(directory) / f"{name}.{os.getpid()}", "a") as f:
            f.write("x")

    def slow(items):
        time.sleep(0.05)

    info = {**workers, "initializer": (note, [tmp_path])}
    autoparallelize(slow, range(6), None, autopara_info=info)
    found = list(tmp_path.iterdir())
    assert len(found) == max(1, workers["num_python_subprocesses"])
    assert all(path.read_text() == "x" for path in found)


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("returned", [[], [1, 2, 3], "ab", 5, {"a": 1, "b": 2}], ids=repr)
def test_wrong_results_are_refused(tmp_path, workers, returned):
    def op(items):
        return returned

    with pytest.raises(RuntimeError, match=r"op.*items \d-\d of its input"):
        autoparallelize(op, configs(4), OutputSpec(tmp_path / "o.xyz"),
                        autopara_info={**workers, "num_inputs_per_python_subprocess": 2})
    assert not (tmp_path / "o.xyz").exists()


def test_an_atoms_is_no_list_of_results(workers):
    with pytest.raises(RuntimeError, match="returned a Atoms for item 0"):
        autoparallelize(lambda items: items[0], configs(1), OutputSpec(), autopara_info=workers)


class OddError(Exception):
    pass


def test_errors_keep_their_type_and_name_the_items(workers):
    def op(items):
        if 5 in items:
            raise OddError("five")

    with pytest.raises(OddError, match="five") as error:
        autoparallelize(op, range(9), None, autopara_info={**workers, "num_inputs_per_python_subprocess": 2})
    assert "op for items 4-5 of its input" in error.value.__notes__[0]


# ------------------------------------------------------------------------------------------------- signatures


def test_decorated_operation():
    assert str(inspect.signature(number)) == "(inputs, outputs, base=0, *, autopara_info=None)"
    assert number.__doc__.startswith("Number configurations.")
    assert "autopara_info" in number.__doc__
    assert "_autopara_per_item_info" not in number.__doc__
    assert (number.__name__, number.__qualname__, number.__module__) == ("number", "number", __name__)
    assert number.op.__qualname__ == "number.op"
    import pickle

    assert pickle.loads(pickle.dumps(number.op)) is number.op
    assert pickle.loads(pickle.dumps(number)) is number
    result = number(configs(5), OutputSpec(), base=10, autopara_info=POOL)
    assert [at.info["n"] for at in result] == [10, 11, 12, 13, 14]


def test_docstring_of_the_call_form():
    doc = mark.__doc__
    assert doc.startswith("Mark configurations.")
    for words in ("inputs : iterable(Atoms)", "outputs : OutputSpec or None", "key : str", "value : int, optional",
                  "autopara_info : AutoparaInfo / dict, optional", "co : ConfigSet"):
        assert words in doc
    assert "atoms" not in doc.split("Parameters")[1].split("Returns")[0].replace("configurations", "")


def test_operation_without_docstring_is_harmless():
    def f():
        "mine"

    autoparallelize_docstring(f, lambda items: None, "Atoms")
    assert f.__doc__ == "mine"


# ------------------------------------------------------------------------------------------------- outputs


def test_finished_output_is_reused(tmp_path, capsys, caplog):
    path = tmp_path / "out.xyz"
    mark(configs(2), OutputSpec(path), value=1, autopara_info=SERIAL)
    capsys.readouterr()
    result = mark(iter(configs(3)), OutputSpec(path), value=1, autopara_info=SERIAL)
    assert len(list(result)) == 2
    assert capsys.readouterr().err == (
        f"Reusing existing output instead of doing {__name__}._mark since overwrite=False and output is done\n"
    )
    assert caplog.text == ""
    mark(configs(2), OutputSpec(path), value=2, autopara_info=SERIAL)
    assert len(caplog.records) == 1
    assert "kwargs['value']" in caplog.text
    assert len(list(mark(configs(3), OutputSpec(path, overwrite=True), autopara_info=SERIAL))) == 3


def test_changed_input_file_is_named(tmp_path, caplog):
    for value in (1, 2):
        mark(configs(2), OutputSpec(tmp_path / "in.xyz", overwrite=True), value=value, autopara_info=SERIAL)
        mark(ConfigSet(tmp_path / "in.xyz"), OutputSpec(tmp_path / "out.xyz"), autopara_info=SERIAL)
    assert len(caplog.records) == 1
    assert "in.xyz" in caplog.text


def test_foreign_file_is_reused_without_a_word(tmp_path, caplog):
    (tmp_path / "out.xyz").write_text("fake")
    mark(configs(2), OutputSpec(tmp_path / "out.xyz"), autopara_info=SERIAL)
    assert caplog.text == ""


SCRIPT = """
import os, sys, time
from pathlib import Path
from ase import Atoms
from wfl.autoparallelize import autoparallelized
from wfl.configset import ConfigSet, OutputSpec

@autoparallelized()
def op(atoms, log, seconds, rng=None, _autopara_per_item_info=None):
    for at, info in zip(atoms, _autopara_per_item_info):
        time.sleep(seconds)
        at.info["r"] = float(info["rng"].normal())
        with open(log, "a") as f:
            f.write(f"{at.positions[0, 0]:.0f}\\n")
    return atoms

import numpy as np
inputs = [Atoms("H", positions=[(i, 0, 0)]) for i in range(int(sys.argv[1]), int(sys.argv[1]) + 10)]
if sys.argv[3] == "iter":
    inputs = iter(inputs)
result = op(inputs, OutputSpec("out.xyz"), "log", float(sys.argv[2]), rng=np.random.default_rng(1))
print(*[f"{at.positions[0, 0]:.0f}:{at.info['r']}" for at in result])
"""


def run_script(directory, *args, workers=0, kill_at=None, text=SCRIPT, **env):
    (directory / "script.py").write_text(text)
    env = {**os.environ, "WFL_NUM_PYTHON_SUBPROCESSES": str(workers), **env}
    root = str(Path(__file__).resolve().parent.parent.parent)
    env["PYTHONPATH"] = root + os.pathsep + env.get("PYTHONPATH", "")
    process = subprocess.Popen([sys.executable, "script.py", *map(str, args)], cwd=directory, env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if kill_at is not None:
        log = directory / "log"
        deadline = time.time() + 150
        while time.time() < deadline and process.poll() is None:
            if log.exists() and len(log.read_text().split()) >= kill_at:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


@pytest.mark.parametrize(("workers", "kind"), [(0, "list"), (2, "list"), (0, "iter")])
def test_killed_script_goes_on_where_it_was(tmp_path, workers, kind):
    # op waits longer than the shortest time between checkpoints, so at most what was in hand is done again
    code, _, _ = run_script(tmp_path, 0, 0.22, kind, workers=workers, kill_at=4)
    assert code == -signal.SIGKILL
    time.sleep(0.4)
    assert not (tmp_path / "out.xyz").exists()
    before = (tmp_path / "log").read_text().split()
    code, out, err = run_script(tmp_path, 0, 0.22, kind, workers=workers)
    assert code == 0, err
    done = (tmp_path / "log").read_text().split()
    assert sorted(map(int, set(done))) == list(range(10))
    assert len(done) <= 10 + (2 * workers or 1)
    assert len(before) >= 4
    (tmp_path / "whole").mkdir()
    assert run_script(tmp_path / "whole", 0, 0.0, kind)[1] == out


def test_other_items_are_not_taken_for_the_same(tmp_path):
    run_script(tmp_path, 0, 0.25, "list", kill_at=3)
    code, out, err = run_script(tmp_path, 100, 0.0, "list")
    assert code == 0, err
    assert [word.split(":")[0] for word in out.split()] == [str(i) for i in range(100, 110)]
    assert (tmp_path / "log").read_text().split()[-10:] == [str(i) for i in range(100, 110)]


def test_other_arguments_start_anew(tmp_path):
    run_script(tmp_path, 0, 0.25, "list", kill_at=3)
    code, _, err = run_script(tmp_path, 0, 0.0, "list")
    assert code == 0, err
    assert len((tmp_path / "log").read_text().split()) >= 12


DYING = """
import os, signal, time
from ase import Atoms
from wfl.autoparallelize import autoparallelized
from wfl.configset import OutputSpec

@autoparallelized()
def op(atoms, log):
    for at in atoms:
        i = round(at.positions[0, 0])
        if i == 4 and not os.path.exists("mended"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1.5 if i == 4 else 0.05)
        with open(log, "a") as f:
            f.write(f"{i}\\n")
    return atoms

result = op([Atoms("H", positions=[(i, 0, 0)]) for i in range(15)], OutputSpec("out.xyz"), "log")
print(*[round(at.positions[0, 0]) for at in result])
"""


@pytest.mark.parametrize("workers", [2, 0])
def test_results_after_a_dead_worker_are_kept(tmp_path, workers):
    code, _, err = run_script(tmp_path, workers=2, text=DYING)
    assert code == 1
    assert "item 4 of its input was killed by SIGKILL" in err
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == [*range(4), *range(5, 15)]
    (tmp_path / "mended").touch()
    code, out, err = run_script(tmp_path, workers=workers, text=DYING)
    assert code == 0, err
    assert out.split() == [str(i) for i in range(15)]
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(15))
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_results_that_wait_survive_kill(tmp_path):
    (tmp_path / "mended").touch()
    code, _, _ = run_script(tmp_path, workers=2, text=DYING, kill_at=9)
    assert code == -signal.SIGKILL
    time.sleep(0.3)
    code, out, err = run_script(tmp_path, workers=2, text=DYING)
    assert code == 0, err
    assert out.split() == [str(i) for i in range(15)]
    log = list(map(int, (tmp_path / "log").read_text().split()))
    assert len(log) <= 15 + 4


def test_other_seed_starts_anew(tmp_path):
    run_script(tmp_path, 0, 0.22, "list", kill_at=3)
    changed = SCRIPT.replace("default_rng(1)", "default_rng(2)")
    (tmp_path / "whole").mkdir()
    expected = run_script(tmp_path / "whole", 0, 0.0, "list", text=changed)[1]
    assert run_script(tmp_path, 0, 0.22, "list", text=changed)[1] == expected


def test_two_writers_of_one_output(tmp_path):
    first = OutputSpec(tmp_path / "out.xyz")
    first.store(bulk("Cu"))
    with pytest.raises(RuntimeError, match="being written by"):
        mark(configs(2), OutputSpec(tmp_path / "out.xyz"), autopara_info=SERIAL)
    first.close()


def test_import_is_light():
    code = (
        "import sys, wfl.autoparallelize; bad = {'torch', 'matplotlib', 'paramiko', 'numpy', 'docstring_parser', "
        "'expyre.func', 'expyre.config', 'mpi4py'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("processes", [0, 1])
def test_what_the_caller_passed_in_is_not_changed(processes):
    from ase.calculators.emt import EMT

    plain, calculated = Atoms("Cu"), Atoms("Cu")
    calculated.calc = EMT()
    nested = ConfigSet([[plain, calculated], [plain]])

    def spoil(atoms):
        for at in atoms:
            at.info["spoiled"] = True
            at.positions += 1.0
        return atoms

    results = autoparallelize(spoil, nested, OutputSpec(), autopara_info={"num_python_subprocesses": processes})
    assert [at.info["spoiled"] for at in results] == [True] * 3
    assert not plain.info
    assert not calculated.info
    assert (plain.positions == 0.0).all()
    groups = autoparallelize(lambda sets: [spoil(list(s)) for s in sets], nested.groups(), OutputSpec(),
                             autopara_info={"num_python_subprocesses": processes})
    assert len(list(groups)) == 3
    assert "spoiled" not in plain.info
