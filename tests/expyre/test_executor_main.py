"""Calls of what a script itself defines: functions, classes, closures that change; from a file, stdin, a notebook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from executor_tools import run

OF_THE_SCRIPT = """
import dataclasses, enum
from expyre import Executor

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    def moved(self):
        return Point(self.x + STEP)

class Mine(Exception):
    pass

STEP = 1
class Plain:
    counter = 0
    log = []
    def step(self):
        return STEP

def colour(): return Colour.RED
def move(point): return point.moved()
def fail(): raise Mine("text")
def plain():
    Plain.counter += 1
    return Plain()
def outer(n):
    def inner(m):
        return n + m
    return inner

with Executor(max_workers=1, block_allocation=BLOCK, oversubscribe=True) as exe:
    log, step = Plain.log, Plain.step
    print(exe.submit(colour).result() is Colour.RED)
    moved = exe.submit(move, Point(1)).result()
    print(moved == Point(2), type(moved) is Point)
    try:
        exe.submit(fail).result()
    except Mine as error:
        print("caught", error)
    made = exe.submit(plain).result()
    print(type(made) is Plain, Plain.counter, Plain.log is log, Plain.step is step)
    STEP = 5
    print(made.step(), Plain().step(), exe.submit(move, Point(1)).result())
    print(exe.submit(outer(2), 3).result(), exe.submit(lambda: STEP).result())
    print(list(exe.map(lambda x: x * STEP, range(3))))
    class Local:
        def __init__(self, n): self.n = n
    print(exe.submit(Local, 7).result().n)
"""


@pytest.mark.parametrize("block", [True, False])
def test_what_the_script_defines(tmp_path: Path, block: bool) -> None:
    out = run(OF_THE_SCRIPT.replace("BLOCK", str(block)), tmp_path)
    assert out.splitlines() == [
        "True", "True True", "caught text", "True 0 True True", "5 5 Point(x=6)", "5 5", "[0, 5, 10]", "7",
    ]  # fmt: skip


CHANGING = """
from expyre import Executor
import functools

FACTOR = 1
TABLE = [1]
class Setting:
    value = 1
def helper(): return FACTOR
def scaled(x): return x * FACTOR
def through(x): return x * helper()
def from_table(): return TABLE[0]
def from_class(): return Setting.value
def default(x=FACTOR): return x
def with_attribute(): return with_attribute.value
with_attribute.value = 1
def make():
    n = 1
    def get(): return n
    def put(m):
        nonlocal n
        n = m
    return get, put
get, put = make()
functions = (lambda: scaled(1), lambda: through(1), from_table, from_class, default, with_attribute, get,
             functools.partial(scaled, 1), lambda: [FACTOR for _ in range(1)][0])

with Executor(max_workers=1, block_allocation=True, oversubscribe=True) as exe:
    for FACTOR in (1, 1, 2, 2, 3, 1):
        TABLE[0] = Setting.value = with_attribute.value = FACTOR
        default.__defaults__ = (FACTOR,)
        put(FACTOR)
        print([exe.submit(function).result() for function in functions])
    def helper(): return 100
    print(exe.submit(through, 1).result())
    scaled.__code__ = (lambda x: -x).__code__
    print(exe.submit(scaled, 1).result())
"""


def test_what_has_changed_since_the_last_call_is_used(tmp_path: Path) -> None:
    out = run(CHANGING, tmp_path).splitlines()
    assert out[:6] == [str([n] * 9) for n in (1, 1, 2, 2, 3, 1)]
    assert out[6:] == ["100", "-1"]


NO_GUARD = """
import sys, os
from expyre import Executor
print("once", flush=True)
exe = Executor(max_workers=2, block_allocation=True, oversubscribe=True)
print(list(exe.map(lambda x: x + 1, range(4))), sys.argv[0] == exe.submit(lambda: sys.argv[0]).result())
"""


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    assert run(NO_GUARD, tmp_path).splitlines() == ["once", "[1, 2, 3, 4] True"]


@pytest.mark.parametrize("way", ["-c", "-"])
def test_code_without_a_file(tmp_path: Path, way: str) -> None:
    command = [sys.executable, *([way, NO_GUARD] if way == "-c" else [way])]
    done = subprocess.run(command, input=NO_GUARD, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=True)
    assert done.stdout.splitlines() == ["once", "[1, 2, 3, 4] True"]
    assert done.stderr == ""


MODULES = """
import os, sys
from pathlib import Path
from expyre import Executor
exe = Executor(max_workers=1, block_allocation=BLOCK, oversubscribe=True, cwd="elsewhere")
exe.submit(len, []).result()
Path("late").mkdir()
Path("late/found_late.py").write_text("def f(): return 'late'\\n")
Path("beside.py").write_text("def f(): return 'beside'\\n")
sys.path.append(os.path.abspath("late"))
sys.path.insert(0, "")
import found_late, beside
with Executor(max_workers=1, block_allocation=BLOCK, oversubscribe=True, cwd="elsewhere") as other:
    print(other.submit(found_late.f).result(), other.submit(beside.f).result())
print("late" if BLOCK else exe.submit(found_late.f).result())
"""


@pytest.mark.parametrize("block", [True, False])
def test_modules_are_found_where_the_script_finds_them(tmp_path: Path, block: bool) -> None:
    assert run(MODULES.replace("BLOCK", str(block)), tmp_path) == "late beside\nlate\n"


BY_VALUE = """
import sys, types
import cloudpickle
from pathlib import Path
from expyre import Executor
Path("edited.py").write_text("VALUE = 1\\ndef f(): return VALUE\\n")
sys.path.insert(0, "")
import edited
cloudpickle.register_pickle_by_value(edited)
edited.VALUE = 2
with Executor(max_workers=1, oversubscribe=True) as exe:
    print(exe.submit(edited.f).result())
"""


def test_modules_may_be_sent_by_value(tmp_path: Path) -> None:
    assert run(BY_VALUE, tmp_path) == "2\n"


PRINTS = """
import threading, time
from expyre import Executor
def say(n):
    print("call", n)
def later():
    time.sleep(0.2)
    print("thread")
with Executor(max_workers=1, block_allocation=BLOCK, oversubscribe=True) as exe:
    for n in range(2):
        exe.submit(say, n).result()
        print("result", n, flush=True)
    exe.submit(lambda: threading.Thread(target=later).start()).result()
print("end")
"""


@pytest.mark.parametrize("block", [True, False])
def test_what_calls_print_stands_before_their_results(tmp_path: Path, block: bool) -> None:
    lines = ["call 0", "result 0", "call 1", "result 1", "thread", "end"]
    assert run(PRINTS.replace("BLOCK", str(block)), tmp_path).splitlines() == lines


NOTEBOOK = """
from expyre import Executor
import asyncio
exe = Executor(max_workers=1, block_allocation=True, oversubscribe=True)
N = 1
def f(x): return x + N
class C:
    def m(self): return N
print(exe.submit(f, 1).result(), type(exe.submit(C).result()) is C)
---
N = 5
def f(x): return -x - N
print(exe.submit(f, 1).result(), exe.submit(C.m, C()).result())
print(await asyncio.wrap_future(exe.submit(f, 2)))
---
class C:
    def m(self): return "new"
print(exe.submit(C().m).result(), type(exe.submit(C).result()) is C)
exe.shutdown()
"""


def test_notebook(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in NOTEBOOK.split("---\n")])
    nbformat.write(book, tmp_path / "book.ipynb")
    code = f"import nbformat, nbclient; b = nbformat.read({str(tmp_path / 'book.ipynb')!r}, 4); " + (
        "nbclient.NotebookClient(b, kernel_name='python3', timeout=60).execute(); "
        "print(''.join(o.get('text', '') for c in b.cells for o in c.outputs))"
    )
    environ = {**os.environ, "IPYTHONDIR": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ, check=False)
    assert done.stdout.split() == ["2", "True", "-6", "5", "-7", "new", "True"], done.stderr
