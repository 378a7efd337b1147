"""What the machine has to give, and the variables that say otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from expyre.node import machine


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (machine.CORES_VARIABLE, machine.MEMORY_VARIABLE, machine.GPUS_VARIABLE, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_what_there_is() -> None:
    assert machine.cores() == len(os.sched_getaffinity(0))
    assert 1024 < machine.memory_kb() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024


@pytest.mark.parametrize(
    ("text", "kilobytes"), [("2048", 2048), ("8GB", 8 * 1024**2), ("1.5 g", 3 * 512 * 1024), (".5tb", 512 * 1024**2)]
)
def test_memory(text: str, kilobytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.MEMORY_VARIABLE, text)
    assert machine.memory_kb() == kilobytes


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.CORES_VARIABLE, " 12 ")
    assert machine.cores() == 12


@pytest.mark.parametrize(
    ("ours", "cuda", "ids"),
    [
        (None, "0,1", ["0", "1"]),
        (None, "GPU-8a, GPU-9b", ["GPU-8a", "GPU-9b"]),
        (None, "", []),
        (None, "-1", []),
        ("", "3", ["3"]),
        ("1", "2,3", ["2"]),
        ("0", "2,3", []),
        ("3", "", ["0", "1", "2"]),
        ("0,2", "", ["0", "2"]),
        ("none", "0", []),
    ],
)
def test_gpus(ours: str | None, cuda: str | None, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ((machine.GPUS_VARIABLE, ours), ("CUDA_VISIBLE_DEVICES", cuda)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert machine.gpus() == ids


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_wrong_cores(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.CORES_VARIABLE, text)
    with pytest.raises(ValueError, match="EXPYRE_LOCAL_CORES="):
        machine.cores()


@pytest.mark.parametrize("text", ["0", "much", "8GiB", "-5"])
def test_wrong_memory(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.MEMORY_VARIABLE, text)
    with pytest.raises(ValueError, match="EXPYRE_LOCAL_MEM="):
        machine.memory_kb()


def test_it_runs_by_itself(tmp_path: Path) -> None:
    """The file alone, in an interpreter that sees nothing of the package."""
    code = f"import runpy; print(runpy.run_path({machine.__file__!r})['cores']())"
    out = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert int(out.stdout) == machine.cores()
