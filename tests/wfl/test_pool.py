import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest

from wfl.autoparallelize import autoparallelize
from wfl.autoparallelize.batching import AdaptiveSize
from wfl.autoparallelize.engines import WorkerDied, workers
from wfl.autoparallelize.output import ItemResults
from wfl.autoparallelize.pool import do_in_pool

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(params=["fork", "fresh"])
def start(request, monkeypatch):
    monkeypatch.setenv("WFL_POOL_START", request.param)
    return request.param


def results(n, op, items, size=1, **kwargs):
    output = ItemResults()
    assert do_in_pool(n, size, items, output, op, **kwargs) is output.results
    return output.results


def double(items, factor=2):
    return [factor * item for item in items]


class Doubler:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, items):
        return double(items, self.factor)

    def method(self, items):
        return double(items, self.factor)


def test_any_callable(start):
    k = 3
    ops = [partial(double, factor=k), Doubler(k), Doubler(k).method, lambda items: double(items, k)]
    for op in ops:
        for size in (1, 4):
            assert results(2, op, range(10), size) == [3 * i for i in range(10)]


def test_order_and_reading_ahead(start):
    read = []

    def numbers():
        for i in range(200):
            read.append(i)
            yield i

    def slow(items):
        time.sleep(0.02 if items[0] < 20 else 0.0)
        return items

    output = []

    class Watching(ItemResults):
        pass

    sink = Watching()
    do_in_pool(2, 1, numbers(), sink, slow)
    output = sink.results
    assert output == list(range(200))
    assert len(read) == 200


def test_unpicklable_argument_is_named(monkeypatch, start):
    monkeypatch.setenv("WFL_POOL_START", "fresh")
    import threading

    with pytest.raises(TypeError, match=r"argument 'lock' of .*double.*constructor, args, kwargs"):
        results(2, double, range(3), kwargs={"lock": threading.Lock()})


def test_large_items_and_results(start):
    items = [os.urandom(700_000) for _ in range(12)]
    assert results(2, lambda given: given, items, 2) == items


def test_killed_worker_fails_its_items_only(start, tmp_path):
    def op(items):
        for i in items:
            if i == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            (tmp_path / str(i)).touch()
            time.sleep(0.01)

    with pytest.raises(WorkerDied, match=r"op for items 6-7 of its input was killed by SIGKILL.*memory runs out"):
        do_in_pool(2, 2, range(20), None, op)
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(20)) - {7}


def test_exiting_worker_is_named(start):
    def op(items):
        if items[0] == 300:
            os._exit(137)
        return items

    with pytest.raises(WorkerDied, match=r"item 300 of its input ended with exit status 137"):
        results(2, op, range(1000))


def test_failing_initializer_is_raised(start):
    def initializer():
        raise OSError("no license")

    with pytest.raises(OSError, match="no license"):
        results(2, double, range(3), initializer=(initializer, []))


def test_no_process_is_left(start):
    def op(items):
        if items[0] == 3:
            raise ValueError("three")
        subprocess.run(["sleep", "60"], check=False)

    with pytest.raises(ValueError, match="three"):
        results(2, op, [1, 3, 4])
    time.sleep(0.2)
    workers.close_idle_pools()
    left = [p.name() for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    assert "sleep" not in left


def test_fresh_workers_stay_and_follow(monkeypatch, tmp_path):
    monkeypatch.setenv("WFL_POOL_START", "fresh")

    def where(items):
        time.sleep(0.05)
        return [(os.getpid(), os.getcwd(), os.environ.get("SOME_VARIABLE")) for _ in items]

    workers.close_idle_pools()
    first = results(2, where, range(4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_VARIABLE", "set")
    second = results(2, where, range(4))
    assert {pid for pid, _, _ in first} == {pid for pid, _, _ in second}
    assert {rest for _, *rest in map(tuple, second) for rest in [tuple(rest)]} == {(str(tmp_path), "set")}


def test_operations_in_operations_make_no_pools(start):
    def inner(items):
        return [os.getpid() for _ in items]

    def outer(items):
        return [(os.getpid(), *results(None, inner, [1])) for _ in items]

    assert all(mine == inner_pid for mine, inner_pid in results(2, outer, range(4)))


def test_executors(monkeypatch):
    loky = pytest.importorskip("loky")
    monkeypatch.setenv("WFL_NUM_PYTHON_SUBPROCESSES", "0")
    executors = [ThreadPoolExecutor(2), ProcessPoolExecutor(2), loky.ProcessPoolExecutor(2)]
    big = os.urandom(100_000)

    def op(items, blob):
        return [item * len(blob) for item in items]

    for executor in executors:
        with executor:
            found = results(None, op, range(50), 2, args=[big], executor=executor)
            assert found == [i * len(big) for i in range(50)]
            with pytest.raises(ZeroDivisionError):
                results(None, lambda items: 1 / 0, range(5), executor=executor)


class AtOnce(Executor):
    """Executor that works in the thread that submits."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        future.set_result(function(*args, **kwargs))
        return future


BEGUN = threading.Event()
CROWD = threading.Barrier(7)


def meet(items):
    if items[0] == 0:
        BEGUN.set()
        CROWD.wait(60)
    return items


def test_many_calls_at_a_time_in_one_process():
    def call(executor):
        assert executor is threads or BEGUN.wait(60)
        return results(None, meet, range(3), executor=executor)

    with ThreadPoolExecutor(1) as threads, ThreadPoolExecutor(7) as callers:
        found = callers.map(call, [threads] + [AtOnce() for _ in range(6)])
        assert list(found) == [[0, 1, 2]] * 7


def test_broken_executor_names_the_items():
    def op(items):
        os._exit(1)

    with ProcessPoolExecutor(1) as executor, pytest.raises(WorkerDied, match=r"op.*item 0"):
        results(None, op, range(3), executor=executor)


def make_executor():
    return ThreadPoolExecutor(3, thread_name_prefix="mine")


def test_executor_from_the_environment(monkeypatch):
    monkeypatch.setenv("WFL_EXECUTOR", f"{__name__}:make_executor")
    import threading

    def op(items):
        return [threading.current_thread().name for _ in items]

    monkeypatch.delenv("WFL_NUM_PYTHON_SUBPROCESSES")
    assert all(name.startswith("mine") for name in results(None, op, range(5)))
    assert results(0, op, range(1)) == [threading.current_thread().name]
    monkeypatch.setenv("WFL_EXECUTOR", "nonsense")
    with pytest.raises(ValueError, match="module:factory"):
        results(2, op, range(5))
    monkeypatch.setenv("WFL_EXECUTOR", "no_such_module:f")
    with pytest.raises(ValueError, match="no_such_module"):
        results(2, op, range(5))


def run(directory, script, *, timeout=200, **env):
    (directory / "script.py").write_text(script)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run([sys.executable, "script.py"], cwd=directory, env=env, text=True, capture_output=True,
                          timeout=timeout, check=False)


UNGUARDED = """
print("top of the script", flush=True)
import os
from wfl.autoparallelize import autoparallelize
from wfl.configset import OutputSpec
from ase import Atoms

class Here:
    n = 5

def op(items, here):
    return [Atoms("H", info={"n": here.n * i, "pid": os.getpid()}) for i in items]

for n in (0, 2, 2):
    found = list(autoparallelize(op, range(9), OutputSpec(), Here(), autopara_info={"num_python_subprocesses": n}))
    print([at.info["n"] for at in found] == [5 * i for i in range(9)], found[0].info["pid"] == os.getpid())
"""


def test_script_without_main_guard(tmp_path, start):
    done = run(tmp_path, UNGUARDED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["top of the script", "True True", "True False", "True False"]


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from wfl.autoparallelize import autoparallelize

def op(items):
    open(f"pid.{os.getpid()}", "w").close()
    time.sleep(100)

def send_signal():
    while len(list(Path().glob("pid.*"))) < 2:
        time.sleep(0.02)
    os.kill(os.getpid(), int(os.environ["SIGNAL"]))

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
threading.Thread(target=send_signal).start()
os.environ["WFL_POOL_START"] = os.environ["START"]
try:
    autoparallelize(op, range(5), None, autopara_info={"num_python_subprocesses": 2})
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_go_with_the_script(tmp_path, start, number):
    done = run(tmp_path, INTERRUPTED, SIGNAL=str(int(number)), START=start)
    if number == signal.SIGINT:
        assert done.stdout == "interrupted\n"
    else:
        assert done.returncode == -number
    pids = [int(path.suffix[1:]) for path in tmp_path.glob("pid.*")]
    assert len(pids) == 2
    deadline = time.time() + 150
    while any(psutil.pid_exists(pid) for pid in pids) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_gpus_belong_to_workers(tmp_path):
    (tmp_path / "torch.py").write_text(
        "import os\nclass cuda:\n    @staticmethod\n    def set_device(i):\n"
        "        open('set_device', 'a').write(f'{os.getpid()} {i}\\n')\n"
    )
    script = """
import multiprocessing, os, sys, time
from wfl.autoparallelize import autoparallelize
method = multiprocessing.get_start_method(allow_none=True)
def op(items):
    time.sleep(0.1)
    import torch
autoparallelize(op, range(12), None, autopara_info={"num_python_subprocesses": 3})
assert multiprocessing.get_start_method(allow_none=True) == method
assert "torch" not in sys.modules
"""
    done = run(tmp_path, script, WFL_TORCH_N_GPUS="2", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (tmp_path / "set_device").read_text().splitlines()]
    assert sorted(gpu for _, gpu in lines) == ["0", "0", "1"]
    assert len({pid for pid, _ in lines}) == 3
    (tmp_path / "set_device").unlink()
    assert run(tmp_path, script, WFL_TORCH_N_GPUS="", PYTHONPATH=f"{ROOT}:{tmp_path}").returncode == 0
    assert not (tmp_path / "set_device").exists()


def test_gpus_need_torch(monkeypatch):
    import importlib.util

    if importlib.util.find_spec("torch"):
        pytest.skip("torch is installed")
    monkeypatch.setenv("WFL_TORCH_N_GPUS", "1")
    with pytest.raises(RuntimeError, match="torch, which is not installed"):
        results(2, double, range(3))


def test_start_method(monkeypatch):
    monkeypatch.setenv("WFL_POOL_START", "spoon")
    with pytest.raises(ValueError, match="'fork' or 'fresh', not 'spoon'"):
        workers.start_method()
    monkeypatch.setenv("WFL_POOL_START", "")
    import threading

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert workers.start_method() == "fresh"
    finally:
        stop.set()
        thread.join()


def test_tiny_calls_travel_together_and_long_ones_alone():
    size = AdaptiveSize()
    assert size.size == 1
    for _ in range(10):
        size.learn(size.size, 1e-6 * size.size)
    assert size.size > 500
    size.learn(1, 10.0)
    assert size.size == 1


def test_message_says_how_it_runs(capsys):
    autoparallelize(double, range(3), None, autopara_info={"num_python_subprocesses": 2})
    assert capsys.readouterr().err == (
        f"Running {__name__}.double with num_python_subprocesses=2, num_inputs_per_python_subprocess=1\n"
    )
