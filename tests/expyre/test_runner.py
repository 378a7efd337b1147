"""What runs in a job's directory: results and every way to fail leave evidence that reads back."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import expyre
from expyre import stage
from expyre.errors import RemoteTraceback
from expyre.stage import StageRequest

SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]


def start(
    root: Path, function: Callable[..., Any], *args: Any, shell: str = "sh", python: str = sys.executable, **kw: Any
) -> tuple[stage.Staged, subprocess.Popen[bytes]]:
    staged = stage.stage(root, StageRequest(id="job", function=function, args=args, **kw))
    script = "\n".join(stage.job_commands(staged.directory, python)) + "\n"
    process = subprocess.Popen([shell, "-c", script], cwd=staged.directory, start_new_session=True)
    return staged, process


def run(root: Path, function: Callable[..., Any], *args: Any, **kw: Any) -> tuple[stage.Staged, int]:
    staged, process = start(root, function, *args, **kw)
    return staged, process.wait(60)


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Send a function of this module by value: the job cannot import the tests."""
    function.__module__ = "__main__"
    return function


@pytest.mark.parametrize("shell", SHELLS)
def test_a_result_comes_back_with_what_was_printed(tmp_path: Path, shell: str) -> None:
    def work(x: float) -> dict[str, Any]:
        import sys as there
        import warnings

        print("grüß dich")
        there.stderr.write("to stderr\n")
        warnings.warn("a warning", stacklevel=1)
        return {"root": math.sqrt(x), "function": lambda: 7}

    staged, code = run(tmp_path, by_value(work), 9.0, shell=shell)
    assert code == 0
    value = stage.read_result(staged.directory, staged.key)
    assert value["root"] == 3.0
    assert value["function"]() == 7
    streams = stage.streams(staged.directory, "job")
    assert streams.stdout == "grüß dich\n"
    assert "to stderr" in streams.stderr
    assert "a warning" in streams.stderr
    assert stage.markers(staged.directory) == stage.Markers(succeeded=True, started=True)
    started, ended = stage.times(staged.directory)
    assert started is not None
    assert ended is not None
    assert [name for name in os.listdir(staged.directory) if name.startswith("_tmp")] == []


def test_the_function_s_own_exception_comes_back_with_its_traceback(tmp_path: Path) -> None:
    staged, code = run(tmp_path, math.sqrt, -1.0)
    assert code == 1
    error = stage.read_exception(staged.directory, staged.key)
    assert type(error) is ValueError
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "Traceback" in str(error.__cause__)
    assert stage.error_text(staged.directory).startswith("Exception: ValueError: math domain error\n")


def test_an_exception_that_does_not_pickle_keeps_name_base_and_text(tmp_path: Path) -> None:
    def work() -> None:
        import threading

        class Middle(FileNotFoundError):
            pass

        class Odd(Middle):
            def __init__(self, first: int, second: Any) -> None:
                super().__init__(2, "gone", "file.dat")
                self.lock = threading.Lock()

            def __str__(self) -> str:
                return "odd text"

        try:
            raise KeyError("inner")
        except KeyError as exc:
            raise Odd(1, 2) from exc

    staged, _ = run(tmp_path, by_value(work))
    error = stage.read_exception(staged.directory, staged.key)
    assert isinstance(error, FileNotFoundError)
    assert type(error).__name__ == "Odd"
    assert str(error) == "odd text"
    assert error.errno == 2
    assert "KeyError: 'inner'" in str(error.__cause__)


def test_an_exception_of_a_module_that_is_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_there.py").write_text("class Special(ArithmeticError): pass\ndef work(): raise Special('x', 3)\n")
    monkeypatch.chdir(tmp_path)

    def work() -> None:
        import only_there

        only_there.work()

    staged, _ = run(tmp_path, by_value(work), input_files=["only_there.py"])
    error = stage.read_exception(staged.directory, staged.key)
    assert isinstance(error, ArithmeticError)
    assert (type(error).__name__, error.args) == ("Special", ("x", 3))


def exits() -> None:
    sys.exit("goodbye")


def interrupts() -> None:
    raise KeyboardInterrupt


def vanishes() -> None:
    os._exit(7)


def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (exits, "SystemExit: goodbye"),
        (interrupts, "KeyboardInterrupt"),
        (vanishes, "exit status 7"),
        (crashes, "signal 11"),
    ],
)
def test_what_ends_the_process_is_an_error_text_and_no_exception(tmp_path: Path, function: Any, words: str) -> None:
    staged, code = run(tmp_path, by_value(function))
    assert code != 0
    assert stage.markers(staged.directory).failed
    assert words in stage.error_text(staged.directory)
    assert stage.read_exception(staged.directory, staged.key) is None
    if function is crashes:
        assert "Segmentation fault" in stage.streams(staged.directory, "job").stderr


def recurses(n: int = 0) -> int:
    return recurses_again(n + 1)


def recurses_again(n: int) -> int:
    def again(n: int) -> int:
        return again(n + 1)

    return again(n)


def exhausts() -> bytes:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return b"x" * (1 << 32)


@pytest.mark.parametrize(("function", "kind"), [(recurses_again, RecursionError), (exhausts, MemoryError)])
def test_exhaustion_is_an_exception_too(tmp_path: Path, function: Any, kind: type[Exception]) -> None:
    staged, _ = run(tmp_path, by_value(function), *([0] if function is recurses_again else []))
    assert isinstance(stage.read_exception(staged.directory, staged.key), kind)


def test_a_result_that_does_not_pickle_names_the_part(tmp_path: Path) -> None:
    def work() -> Any:
        import threading

        return {"list": [1, {"lock": threading.Lock()}]}

    staged, _ = run(tmp_path, by_value(work))
    error = stage.read_exception(staged.directory, staged.key)
    assert isinstance(error, TypeError)
    assert "result['list'][1]['lock']" in str(error)
    assert "_thread.lock" in str(error)


def test_a_missing_module_is_named_with_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_sent.py").write_text("def work(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import not_sent

    staged, _ = run(tmp_path, not_sent.work)
    error = stage.read_exception(staged.directory, staged.key)
    assert isinstance(error, ModuleNotFoundError)
    for words in ("not_sent", sys.executable, "sys.path", "PYTHONPATH"):
        assert words in str(error)


def prints_and_waits() -> None:
    print("line before the end")
    try:
        time.sleep(60)
    finally:
        print("unwound")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("whom", ["python", "everybody"])
def test_being_killed_is_no_error_but_leaves_evidence(tmp_path: Path, number: int, whom: str) -> None:
    staged, process = start(tmp_path, by_value(prints_and_waits))
    stdout = staged.directory / "_expyre_stdout"
    until(lambda: stdout.exists() and stdout.read_text() != "")
    if whom == "everybody":
        os.killpg(process.pid, number)
    else:
        os.kill(child_of(process.pid), number)
    assert process.wait(20) in (128 + number, -number)
    expected = "line before the end\n" + ("unwound\n" if number == signal.SIGTERM else "")
    until(lambda: stdout.read_text() == expected)
    found = stage.markers(staged.directory)
    assert not found.ended
    assert found.terminated or (whom == "everybody" and number == signal.SIGKILL)
    if number == signal.SIGTERM:
        assert "prints_and_waits" in stage.streams(staged.directory, "job").stderr


def limits(seconds: float, margin: float) -> dict[str, Any]:
    limit = [f"EXPYRE_MAX_TIME={seconds}", f"EXPYRE_TIME_MARGIN={margin}"]
    return {"env_vars": [*limit, f"EXPYRE_JOB_STARTED={time.time()}"]}


def test_near_its_time_limit_a_job_says_so(tmp_path: Path) -> None:
    staged, process = start(tmp_path, by_value(prints_and_waits), **limits(30, 29.5))
    until(lambda: stage.markers(staged.directory).timed_out)
    assert process.poll() is None
    assert "the function was still running after" in stage.error_text(staged.directory)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
    assert stage.markers(staged.directory) == stage.Markers(started=True, terminated=True, timed_out=True)


@pytest.mark.parametrize("near", [True, False])
def test_a_signal_near_the_time_limit_is_named_so(tmp_path: Path, near: bool) -> None:
    staged, process = start(tmp_path, by_value(prints_and_waits), **limits(1000, 999.9 if near else 1))
    stdout = staged.directory / "_expyre_stdout"
    until(lambda: stdout.exists() and stdout.read_text() != "")
    until(lambda: stage.markers(staged.directory).timed_out == near)
    os.kill(child_of(process.pid), signal.SIGTERM)
    process.wait(20)
    assert stage.markers(staged.directory).timed_out == near
    assert ("time limit of 1000 s" in stage.error_text(staged.directory)) == near
    assert "terminated by SIGTERM" in stage.error_text(staged.directory)


@pytest.mark.parametrize("fails", [True, False])
def test_what_is_done_in_time_after_all_leaves_no_trace_of_the_limit(tmp_path: Path, fails: bool) -> None:
    def work(fails: bool) -> float:
        import os.path
        import time as clock

        while not os.path.exists("_expyre_job_terminated"):
            clock.sleep(0.01)
        if fails:
            raise ValueError
        from threading import Thread

        Thread(target=clock.sleep, args=(100,)).start()  # nobody waits for it when time is short
        import expyre

        left = expyre.time_left()
        assert left is not None
        return left

    staged, _ = run(tmp_path, by_value(work), fails, **limits(60, 59.9))
    found = stage.markers(staged.directory)
    assert (found.succeeded, found.failed, found.terminated) == (not fails, fails, False)
    assert fails or -59 < stage.read_result(staged.directory, staged.key) < 0


@pytest.mark.parametrize(("limit", "margin"), [(20, 4), (100, 10), (1000, 30), (1e5, 60)])
def test_the_margin_suits_the_limit(monkeypatch: pytest.MonkeyPatch, limit: float, margin: float) -> None:
    for name in ("EXPYRE_MAX_TIME", "EXPYRE_TIME_MARGIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EXPYRE_JOB_STARTED", str(time.time()))
    assert expyre.time_left() is None
    monkeypatch.setenv("EXPYRE_MAX_TIME", str(limit))
    assert expyre.time_left() == pytest.approx(limit - margin, abs=5)
    monkeypatch.setenv("EXPYRE_TIME_MARGIN", "5")
    assert expyre.time_left() == pytest.approx(limit - 5, abs=5)
    monkeypatch.setenv("EXPYRE_MAX_TIME", "nonsense")
    assert expyre.time_left() is None


def child_of(pid: int) -> int:
    """Return the python under the subshell of a job's script."""
    listing = subprocess.check_output(["ps", "-axo", "pid=,ppid=,comm="], text=True)
    table = [line.split() for line in listing.splitlines()]
    inside = {pid}
    for _ in range(4):
        inside |= {int(p) for p, parent, *_ in table if int(parent) in inside}
    return next(int(p) for p, _, command, *_ in table if int(p) in inside and "python" in command)


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_tampered_task_does_not_run(tmp_path: Path) -> None:
    staged = stage.stage(tmp_path, StageRequest(id="job", function=os.mkdir, args=("proof",)))
    task = staged.directory / "_expyre_task_in.pckl"
    task.write_bytes(task.read_bytes().replace(b"proof", b"prooF"))
    subprocess.run(["sh", "-c", "\n".join(stage.job_commands(staged.directory, sys.executable))], cwd=staged.directory)
    assert "_expyre_task_in.pckl was altered" in stage.error_text(staged.directory)
    assert not (staged.directory / "prooF").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_run_around_the_call_in_order(tmp_path: Path, shell: str) -> None:
    def work() -> Any:
        import os as there

        return there.environ["VALUE"], there.path.exists("prepared")

    staged, code = run(
        tmp_path,
        by_value(work),
        shell=shell,
        env_vars=['VALUE="$BASE/x"'],
        pre_run_commands=["BASE='it is'", "for i in 1 2; do", "touch prepared", "done", "cat <<END\ntext\nEND"],
        post_run_commands=["ls _expyre_job_succeeded || echo not yet > order", "false"],
    )
    assert code == 0
    assert stage.read_result(staged.directory, staged.key) == ("it is/x", True)
    assert (staged.directory / "order").read_text() == "not yet\n"


def test_a_failing_command_before_the_call_ends_the_job(tmp_path: Path) -> None:
    before = ["true", "grep 'it''s' /nowhere", "touch no"]
    staged, code = run(tmp_path, math.sqrt, 1.0, pre_run_commands=before, post_run_commands=["touch post"])
    assert code == 2
    text = stage.error_text(staged.directory)
    assert "pre_run_commands[1] failed, exit status 2" in text
    assert "grep 'it''s' /nowhere" in text
    assert (staged.directory / "post").exists()
    assert not (staged.directory / "no").exists()


@pytest.mark.parametrize("version", ["3.10.13", "3.12.1", "3.13.0"])
def test_other_interpreters_run_the_same_job(tmp_path: Path, version: str) -> None:
    python = Path(f"/root/.pyenv/versions/{version}/bin/python3")
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    staged, _ = run(tmp_path, math.hypot, 3.0, 4.0, python=str(python))
    assert stage.read_result(staged.directory, staged.key) == 5.0
