"""Classes of a script whose instances, or exceptions, come back from worker processes are those of the script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from ase import Atoms
from wfl.autoparallelize import AutoparaInfo, autoparallelize
from wfl.configset import ConfigSet, OutputSpec

class Plain:
    log = []
    count = 0
    def step(self):
        return STEP

class Mine(Exception):
    count = 0

def op(items, fail=False):
    Plain.count = Mine.count = 7
    if fail:
        raise Mine("text")
    for atoms in items:
        atoms.info["made"] = Plain()
    return items

STEP = 1
if __name__ == "__main__":
    log, step = Plain.log, Plain.step
    info = AutoparaInfo(num_inputs_per_python_subprocess=1, num_python_subprocesses=2, executor=EXECUTOR)
    inputs = ConfigSet([Atoms("H") for _ in range(4)])
    STEP = Plain.count = Mine.count = 5
    for atoms in autoparallelize(op, inputs, OutputSpec(), autopara_info=info):
        made = atoms.info["made"]
        print(type(made) is Plain, Plain.count, Plain.log is log, Plain.step is step, made.step())
    try:
        list(autoparallelize(op, inputs, OutputSpec(), autopara_info=info, fail=True))
    except Mine as error:
        print("caught", error, Mine.count)
"""


@pytest.mark.parametrize("executor", ["None", "ProcessPoolExecutor(2, multiprocessing.get_context('spawn'))"])
def test_classes_stay_those_of_the_script(tmp_path: Path, executor: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace("EXECUTOR", executor))
    env = {name: value for name, value in os.environ.items() if not name.startswith("WFL_")}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=100, check=False)
    assert done.stdout.splitlines() == ["True 5 True True 5"] * 4 + ["caught text 5"], done.stderr
