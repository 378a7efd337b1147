"""What tests of the Executor have in common: kinds of executors, scripts in own processes, what these leave behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from expyre import Executor

MARK = "EXPYRE_TEST_MARK"

# The same tests over CPython's own and over both kinds of ours: CPython's says what is right.
KINDS: dict[str, Callable[..., AnyExecutor]] = {
    "cpython": ProcessPoolExecutor,
    "block": partial(Executor, block_allocation=True, oversubscribe=True),
    "per_call": partial(Executor, oversubscribe=True),
}
OURS = ("block", "per_call")

HEAD_OF_SCRIPTS = """
import os, sys, time
from pathlib import Path
from expyre import Executor
"""


class Script:
    """A script in a process of its own; a mark in its environment tells what it has started."""

    def __init__(self, text: str, directory: Path, **popen: object) -> None:
        self.mark = uuid.uuid4().hex
        self.path = directory / f"script_{self.mark[:6]}.py"
        self.path.write_text(text)
        environ = {**os.environ, MARK: self.mark}
        self.process = subprocess.Popen(
            [sys.executable, str(self.path)], cwd=directory, env=environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **popen,
        )  # type: ignore[call-overload]  # fmt: skip

    def finish(self, timeout: float = 60.0) -> tuple[int, str, str]:
        """Wait for its end; return status, output and errors."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def others(self) -> list[int]:
        """Return the processes with the mark, without the script itself."""
        return [pid for pid in marked(self.mark) if pid != self.process.pid]

    def wait_for_file(self, name: str, timeout: float = 60.0) -> str:
        """Return the content of a file, a word with a newline, once it is there."""
        path = self.path.parent / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"), timeout, f"file {name}")
        return path.read_text().strip()


@contextlib.contextmanager
def script(text: str, directory: Path, **popen: object) -> Iterator[Script]:
    """Start a script; kill whatever it leaves."""
    found = Script(text, directory, **popen)
    try:
        yield found
    finally:
        for pid in marked(found.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        for stream in (found.process.stdout, found.process.stderr):
            if stream is not None:
                stream.close()
        found.process.wait()


def run(text: str, directory: Path, timeout: float = 60.0) -> str:
    """Run a script and return what it has printed; it has to end well and to leave nothing."""
    with script(text, directory) as running:
        status, out, err = running.finish(timeout)
        assert status == 0, err
        assert err == ""
        nothing_left(running)
    return out


def nothing_left(running: Script) -> None:
    wait_until(lambda: not running.others(), 15.0, lambda: f"an end of {[*map(command_of, running.others())]}")


def command_of(pid: int) -> object:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).cmdline()
    return pid


def marked(mark: str) -> list[int]:
    """Return all processes that have a mark in their environment, except those that have ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def wait_until(condition: Callable[[], object], timeout: float, what: object = "") -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout} s for {what() if callable(what) else what}")
        time.sleep(0.01)
