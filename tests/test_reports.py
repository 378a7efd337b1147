"""A run of tests that fails ends, and tells what it knows, whatever becomes of it."""

import os
import subprocess
import sys

import pytest

TESTS = """
import time
import pytest
from clusters.reports import note_repairs

@pytest.mark.parametrize("number", range(60))
def test(number, request):
    note_repairs(request.node, ["it was broken"] if number == 0 else [])
    time.sleep(0.2)
    assert number != 1, "one is wrong"
"""


@pytest.fixture
def run(repo_root, tmp_path):
    """A function that starts pytest on some tests in two processes."""
    (tmp_path / "test_these.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def start(*options):
        words = [
            "-m",
            "pytest",
            "-q",
            "-p",
            "clusters.reports",
            "-p",
            "no:cacheprovider",
            "-n",
            "2",
            "--dist",
            "worksteal",
        ]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        env["PYTHONPATH"] = str(repo_root / "tests")
        command = [sys.executable, *words, *options]
        return subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    return start


def test_a_run_that_takes_too_long_ends_and_tells(run):
    process = run("--session-timeout=2")
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 2
    assert "session-timeout: 2.0 sec exceeded" in output
    assert output.count("E       AssertionError: one is wrong\n") == 1
    assert "test_these.py::test[0]: it was broken\n" in output


def test_failures_are_written_at_once(run):
    process = run("--failures-at-once")
    try:
        for line in process.stdout:
            if "AssertionError: one is wrong" in line:
                break
        assert process.poll() is None, "it still runs"
    finally:
        process.kill()
        process.communicate()
