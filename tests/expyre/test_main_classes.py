"""Classes of the script itself whose instances come back: reading these leaves the classes as the script has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from executor_jobs_tools import place_for_jobs

SCRIPT = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from expyre import Executor, ExPyRe, stage

class Plain:
    log = []
    count = 0
    def step(self):
        return STEP

class Mine(Exception):
    count = 0

def make(plain):
    Plain.count = 7
    return Plain()

def fail(plain):
    Mine.count = 7
    raise Mine("text")

class Job:
    def __init__(self, function, *args):
        self.job = ExPyRe(function.__name__, function=function, args=args, try_restart_from_prev=False)
        self.job.start({"num_cores": 1, "max_time": "1m"}, "queue")
    def result(self):
        try:
            return self.job.get_results(check_interval=0.1, quiet=True)[0]
        finally:
            stage.read_task(self.job.stage_dir, self.job.row.hmac_key)

class Jobs:
    submit = Job

STEP = 1
if __name__ == "__main__":
    log, step = Plain.log, Plain.step
    executor = EXECUTOR
    made = [executor.submit(make, Plain()) for _ in range(2)]
    failed = executor.submit(fail, Plain())
    STEP = Plain.count = Mine.count = 5
    for each in made:
        value = each.result()
        print(type(value) is Plain, Plain.count, Plain.log is log, Plain.step is step, value.step())
    try:
        failed.result()
    except Mine as error:
        print("caught", error, Mine.count)
    if hasattr(executor, "shutdown"):
        executor.shutdown()
"""

EXECUTORS = {
    "jobs": "Jobs()",
    "jobs_of_executor": "Executor(backend='queue')",
    "blocks": "Executor(backend='queue', block_allocation=True, max_workers=1)",
    "workers": "Executor(block_allocation=True, max_workers=1)",
    "cache": "Executor(cache_directory='cache', max_workers=1)",
    "foreign": "Executor(executor=ProcessPoolExecutor(1, get_context('spawn')))",
}


@pytest.mark.parametrize("kind", EXECUTORS)
def test_results_leave_the_classes_of_the_script_alone(tmp_path: Path, kind: str) -> None:
    with place_for_jobs(tmp_path) as place:
        out, err = place.script(SCRIPT.replace("EXECUTOR", EXECUTORS[kind])).communicate(timeout=100)
    assert out.splitlines() == ["True 5 True True 5"] * 2 + ["caught text 5"], err


RUN_AGAIN = """
import dataclasses, enum
from typing import Generic, TypeVar
from expyre import Executor, ExPyRe

T = TypeVar("T")
class Colour(enum.Enum):
    RED = 1
class Base(Generic[T]):
    pass
@dataclasses.dataclass
class Point(Base[int]):
    x: int = 0
    colour: Colour = Colour.RED
class Local:
    def said(self): return "of the script"

def point(x): return Point(x)
def local(x):
    class Local:
        def said(self): return "of the function"
    return Local()

if __name__ == "__main__":
    with EXECUTOR as executor:
        found = executor.submit(point, 3).result()
        print(found == Point(3), found.colour is Colour.RED, executor.submit(local, 4).result().said())
"""


@pytest.mark.parametrize("kind", ["jobs_of_executor", "cache"])
def test_results_of_an_earlier_run_are_of_the_classes_of_the_script(tmp_path: Path, kind: str) -> None:
    with place_for_jobs(tmp_path) as place:
        text = RUN_AGAIN.replace("EXECUTOR", EXECUTORS[kind])
        for _ in range(2):
            out, err = place.script(text).communicate(timeout=100)
            assert out == "True True of the function\n", err
