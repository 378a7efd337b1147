import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCHER = Path(sys.executable).parent / "mpiexec"

SCRIPT = """
import os, sys
from wfl.autoparallelize import mpipool_support
if sys.argv[1] == "late":
    from mpi4py import MPI
mpipool_support.init()
from ase import Atoms
from wfl.autoparallelize import autoparallelize
from wfl.configset import OutputSpec

def note(directory):
    open(os.path.join(directory, f"init.{os.getpid()}"), "a").write("x")

def op(items, fail=None, leave=None):
    if fail in items:
        raise ValueError("bad item")
    if leave in items:
        os._exit(3)
    return [Atoms("H", positions=[(x, 0, 0)], info={"pid": os.getpid()}) for x in items]

def run(n, *args, output=True, **kwargs):
    info = {"num_python_subprocesses": n, "initializer": (note, ["."])}
    return autoparallelize(op, range(50), OutputSpec() if output else None, *args, autopara_info=info, **kwargs)

if sys.argv[1] == "fail":
    run(2, 5)
elif sys.argv[1] == "raise":
    raise RuntimeError("the script itself fails")
elif sys.argv[1] == "leave":
    run(2, None, 5)
else:
    there, here = list(run(2)), list(run(0))
    assert [at.positions[0, 0] for at in there] == [at.positions[0, 0] for at in here] == list(range(50))
    assert os.getpid() not in {at.info["pid"] for at in there}
    assert {at.info["pid"] for at in here} == {os.getpid()}
    print("same", flush=True)
"""


def mpirun(directory, n, word):
    if not LAUNCHER.exists():
        pytest.skip("no mpiexec next to this Python")
    (directory / "script.py").write_text(SCRIPT)
    env = {**os.environ, "WFL_MPIPOOL": str(n), "PYTHONPATH": str(ROOT)}
    return subprocess.run([str(LAUNCHER), "-n", str(n), sys.executable, "script.py", word], cwd=directory, env=env,
                          text=True, capture_output=True, timeout=50, check=False)


def test_ranks_serve_and_end(tmp_path):
    done = mpirun(tmp_path, 2, "good")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "same\n"
    assert "num_python_subprocesses=2 is ignored" in done.stderr
    inits = list(tmp_path.glob("init.*"))
    assert len(inits) == 2  # the rank that served, and rank 0 when it worked alone
    assert all(path.read_text() == "x" for path in inits)


@pytest.mark.parametrize(("word", "message"), [("fail", "bad item"), ("raise", "the script itself fails")])
def test_failures_end_the_run(tmp_path, word, message):
    begin = time.time()
    done = mpirun(tmp_path, 2, word)
    assert time.time() - begin < 40
    assert done.returncode != 0
    assert message in done.stderr


def test_dying_rank_ends_the_run(tmp_path):
    assert mpirun(tmp_path, 2, "leave").returncode != 0


def test_one_rank_uses_processes(tmp_path):
    done = mpirun(tmp_path, 1, "good")
    assert done.returncode == 0, done.stderr
    assert "only one MPI rank" in done.stderr


def test_without_the_variable_nothing_happens(monkeypatch):
    from wfl.autoparallelize import mpipool_support

    monkeypatch.delenv("WFL_MPIPOOL", raising=False)
    mpipool_support.init()
    assert mpipool_support.wfl_mpipool is None
    monkeypatch.setenv("WFL_MPIPOOL", "")
    mpipool_support.init()
    assert mpipool_support.wfl_mpipool is None


@pytest.mark.mpi
def test_thread_vs_mpi():
    """For ``mpirun -n 2 pytest --with-mpi -k mpi`` with WFL_MPIPOOL set."""
    from ase.atoms import Atoms

    from wfl.autoparallelize import autoparallelize, mpipool_support
    from wfl.configset import OutputSpec

    assert mpipool_support.wfl_mpipool is not None

    def op(items):
        return [Atoms("H", info={"x": i}) for i in items]

    found = [list(autoparallelize(op, range(9), OutputSpec(), autopara_info={"num_python_subprocesses": n}))
             for n in (0, 2)]
    assert found[0] == found[1]
