"""However a script ends, what was submitted is finished where that is meant, and no process is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from executor_tools import nothing_left, run, script, wait_until

HEAD = """
import os, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from expyre import Executor

def work(n):
    time.sleep(0.1)
    with open("done", "a") as file:
        file.write(f"{n}\\n")
    return n

def hang(n=0):
    subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    Path(f"hanging_{n}").write_text("yes\\n")
    time.sleep(600)

def leave_children():
    hang_on = subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    return hang_on.pid

def make():
    return Executor(max_workers=1, block_allocation=BLOCK, oversubscribe=True)
"""
BLOCK = pytest.mark.parametrize("block", [True, False], ids=["block", "per_call"])


def text(block: bool, body: str) -> str:
    return HEAD.replace("BLOCK", str(block)) + body


# ------------------------------------------------------------------------------------------------ what is finished

FINISHED = {
    "without_shutdown": "exe = make(); [exe.submit(work, n) for n in range(3)]",
    "shutdown_without_waiting": "exe = make(); [exe.submit(work, n) for n in range(3)]; exe.shutdown(wait=False)",
    "no_reference": "[make().submit(work, n) for n in range(3)]",
    "collected": "exe = make(); [exe.submit(work, n) for n in range(3)]; del exe; import gc; gc.collect()",
    "chain": "exe = make(); a = exe.submit(work, 0); b = exe.submit(work, exe.submit(max, a, 1)); exe.submit(max, b, 2)"
    ".add_done_callback(lambda f: work(f.result()))",
    "foreign": "p = ThreadPoolExecutor(); exe = make(); [exe.submit(work, p.submit(work, n)) for n in range(3)];"
    " del exe",
    "in_thread": "threading.Thread(target=lambda: [make().submit(work, n) for n in range(3)]).start();"
    " time.sleep(0.3)",
}


@BLOCK
@pytest.mark.parametrize("how", FINISHED)
def test_what_was_submitted_is_finished(tmp_path: Path, block: bool, how: str) -> None:
    run(text(block, FINISHED[how]), tmp_path)
    assert {"0", "1", "2"} == set((tmp_path / "done").read_text().split())


def test_nothing_is_submitted_when_the_interpreter_ends(tmp_path: Path) -> None:
    body = """
exe = make()
def late():
    time.sleep(0.5)
    try:
        exe.submit(work, 1)
    except RuntimeError as error:
        print(error)
threading.Thread(target=late).start()
"""
    assert run(text(True, body), tmp_path) == "cannot schedule new futures after interpreter shutdown\n"


UNUSED = {
    "never_used": "make()",
    "kept": "exe = make()",
    "closed": "make().shutdown()",
    "with": "\nwith make(): pass",
    "wrong": "\ntry: Executor(max_cores=1, cores_per_worker=2)\nexcept ValueError: pass",
}


@pytest.mark.parametrize("how", UNUSED)
def test_an_executor_that_is_not_used_costs_nothing(tmp_path: Path, how: str) -> None:
    body = f"""
import gc, warnings
warnings.simplefilter("error")
def now(): return len(os.listdir("/proc/self/fd")), threading.active_count()
before = now()
{UNUSED[how]}
gc.collect()
print(before == now())
"""
    assert run(text(True, body), tmp_path) == "True\n"


MANY = """
def use(n):
    with make() as exe:
        assert exe.submit(abs, n).result() == abs(n)
use(0)
def now():
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task"))
def wait_until(settled):  # a thread that has been joined takes its time to go
    end = time.monotonic() + 10
    while not settled() and time.monotonic() < end:
        time.sleep(0.01)
wait_until(lambda: now()[1] == now()[2])
before = now()
for n in range(12):
    use(n)
wait_until(lambda: before == now())
print(before == now() or (before, now()))
from expyre.node.family import descendants
print(descendants(os.getpid()))
"""


@BLOCK
def test_many_executors_one_after_the_other_leave_nothing(tmp_path: Path, block: bool) -> None:
    assert run(text(block, MANY), tmp_path) == "True\n[]\n"


@BLOCK
def test_children_of_calls_end_with_the_executor(tmp_path: Path, block: bool) -> None:
    body = """
with make() as exe:
    pid = exe.submit(leave_children).result()
print("end", flush=True)
Path("go").write_text("yes\\n")
sys.stdin.read()
"""
    with script(text(block, body), tmp_path, stdin=-1) as running:
        running.wait_for_file("go")
        nothing_left(running)
        running.process.communicate("")


# ----------------------------------------------------------------------------------------------- what ends it early

WAYS = {
    "with": "\nwith make() as exe:\n    f = exe.submit(hang); exe.submit(work, 1)\n    f.result()",
    "without": "\nexe = make()\nf = exe.submit(hang); exe.submit(work, 1)\nf.result()",
    "exit": "\nexe = make()\nf = exe.submit(hang); exe.submit(work, f)",  # waits for it when the interpreter ends
    "thread": "\nexe = make()\ndef wait(): exe.submit(hang).result()\nt = threading.Thread(target=wait, daemon=True)\n"
    "t.start(); t.join()",
}


INTERRUPTED = [
    (True, "with", True), (True, "with", False), (True, "without", True), (True, "without", False),
    (True, "thread", False), (False, "with", True), (False, "without", False),
]  # fmt: skip


@pytest.mark.parametrize(("block", "way", "group"), INTERRUPTED)
def test_interrupt(tmp_path: Path, block: bool, way: str, group: bool) -> None:
    with script(text(block, WAYS[way]), tmp_path) as running:
        running.wait_for_file("hanging_0")
        (os.killpg if group else os.kill)(running.process.pid, signal.SIGINT)
        status, _, err = running.finish()
        assert status == -signal.SIGINT
        assert "KeyboardInterrupt" in err
        nothing_left(running)
        assert not (tmp_path / "done").exists()


@BLOCK
@pytest.mark.parametrize("way", ["with", "exit"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed(tmp_path: Path, block: bool, way: str, number: signal.Signals) -> None:
    with script(text(block, WAYS[way]), tmp_path) as running:
        running.wait_for_file("hanging_0")
        running.process.send_signal(number)
        assert running.finish()[0] == -number
        nothing_left(running)


def test_killed_while_a_fork_of_the_script_lives_on(tmp_path: Path) -> None:
    body = """
exe = make()
f = exe.submit(hang)
while not os.path.exists("hanging_0"):
    time.sleep(0.01)
pid = os.fork()
if pid == 0:
    os.setsid()
    time.sleep(600)
Path("fork").write_text(f"{pid}\\n")
f.result()
"""
    with script(text(True, body), tmp_path) as running:
        fork = int(running.wait_for_file("fork"))
        running.process.kill()
        running.process.wait()
        wait_until(lambda: running.others() == [fork], 15.0, lambda: running.others())
        os.kill(fork, signal.SIGKILL)


@BLOCK
def test_an_exception_of_the_script_lets_calls_finish(tmp_path: Path, block: bool) -> None:
    body = "\nwith make() as exe:\n    exe.submit(work, 1); exe.submit(work, 2)\n    raise ValueError('mine')"
    with script(text(block, body), tmp_path) as running:
        status, _, err = running.finish()
        assert (status, "ValueError: mine" in err) == (1, True)
        nothing_left(running)
    assert (tmp_path / "done").read_text().split() == ["1", "2"]


def test_exit_ends_what_runs(tmp_path: Path) -> None:
    body = """
with make() as exe:
    exe.submit(hang)
    while not os.path.exists("hanging_0"):
        time.sleep(0.01)
    sys.exit(3)
"""
    with script(text(True, body), tmp_path) as running:
        assert running.finish()[0] == 3
        nothing_left(running)


KEEPER = """
import psutil
exe = make()
f = exe.submit(hang)
while not os.path.exists("hanging_0"):
    time.sleep(0.01)
(keeper,) = psutil.Process().children()
keeper.kill()
print(type(f.exception()).__name__, "process that keeps it" in str(f.exception()))
print(exe.submit(work, 1).result())
Path("go").write_text("yes\\n")
time.sleep(1.0)
"""


@BLOCK
def test_the_keeper_is_killed(tmp_path: Path, block: bool) -> None:
    with script(text(block, KEEPER), tmp_path) as running:
        status, out, err = running.finish()
        assert (status, out.split(), err) == (0, ["WorkerDied", "True", "1"], "")
        # what a call has put into a session of its own is out of reach once the keeper is dead
        assert len(running.others()) <= 1


FORKS = """
import multiprocessing
def child(q):
    try:
        exe.submit(work, 9)
    except RuntimeError as error:
        q.put("other" if "make another one here" in str(error) else str(error))
    with make() as own:
        q.put(own.submit(work, 1).result())
exe = make()
f = exe.submit(work, 0)
context = multiprocessing.get_context("fork")
q = context.Queue()
process = context.Process(target=child, args=(q,))
process.start()
print(q.get(), q.get())
process.join()
print(process.exitcode, f.result(), exe.submit(work, 2).result())
"""


def test_forks_of_the_script(tmp_path: Path) -> None:
    assert run(text(True, FORKS), tmp_path) == "other 1\n0 0 2\n"


NESTED = """
def inner(n):
    with make() as exe:
        return exe.submit(work, n).result()
def inner_hang():
    with make() as exe:
        exe.submit(hang).result()
with make() as outer:
    print(outer.submit(inner, 5).result())
    f = outer.submit(inner_hang)
    while not os.path.exists("hanging_0"):
        time.sleep(0.01)
    (keeper,) = psutil.Process().children()
    [worker] = keeper.children()
    worker.kill()
    print(type(f.exception()).__name__)
    print(outer.submit(inner, 6).result())
"""


@BLOCK
def test_executors_within_calls(tmp_path: Path, block: bool) -> None:
    assert run(text(block, "import psutil\n" + NESTED), tmp_path) == "5\nWorkerDied\n6\n"
