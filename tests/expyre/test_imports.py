"""Importing reads modules and does nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"numpy", "ase", "torch", "matplotlib", "scipy", "pandas", "paramiko", "click"}

# Runs in a fresh interpreter: notes what the import does that is not the reading of modules.
PROBE = """
import json, os, sys
found = []
here = os.getcwd()
TOUCHES = ("sqlite3.connect", "subprocess.Popen", "os.mkdir", "os.system", "os.remove", "os.rename", "glob.glob")

def note(event, args):
    if event == "open":
        path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else "descriptor"
        if not path.endswith((".py", ".pyc", ".so")) and ".pyc." not in path:
            found.append(f"open {path}")
    elif event in ("os.listdir", "os.scandir") and os.path.abspath(os.fsdecode(args[0] or ".")) == here:
        found.append(f"{event} {args[0]}")
    elif event in TOUCHES or event.startswith("socket."):
        found.append(f"{event} {args}")

sys.addaudithook(note)
for name in sys.argv[1:]:
    __import__(name)
print(json.dumps({"found": found, "modules": sorted(sys.modules)}))
"""


def probe(cwd: Path, *modules: str, **environment: str) -> dict[str, Any]:
    """Return what the import of modules in a fresh interpreter did, and which modules there are then."""
    script = cwd / "elsewhere" / "probe.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(PROBE)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(cwd), **environment}
    command = [sys.executable, str(script), *modules]
    result = subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "modules",
    [("expyre",), ("expyre", "expyre.config", "expyre.resources", "expyre.subprocess", "expyre.util")],
    ids=["expyre", "its parts"],
)
def test_importing_expyre_reads_modules_only(modules: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / ".expyre").mkdir()
    (tmp_path / ".expyre" / "config.json").write_text("{ broken")
    result = probe(tmp_path, *modules)
    assert result["found"] == []
    assert HEAVY.isdisjoint(result["modules"])
    assert list((tmp_path / ".expyre").iterdir()) == [tmp_path / ".expyre" / "config.json"]


def test_the_jobs_of_expyre_need_neither_numpy_nor_ase(tmp_path: Path) -> None:
    result = probe(tmp_path, "expyre.func", "expyre.gather", "expyre.system")
    assert result["found"] == []
    assert {"numpy", "ase", "torch", "matplotlib"}.isdisjoint(result["modules"])


def test_a_wrong_root_does_not_break_the_import(tmp_path: Path) -> None:
    assert probe(tmp_path, "expyre", "expyre.config", EXPYRE_ROOT="/nowhere/at/all")["found"] == []


def test_configsets_are_light(tmp_path: Path) -> None:
    result = probe(tmp_path, "wfl.configset")
    assert {"torch", "matplotlib"}.isdisjoint(result["modules"])


def test_a_broken_configuration_is_reported_at_first_use(tmp_path: Path) -> None:
    (tmp_path / "_expyre").mkdir()
    (tmp_path / "_expyre" / "config.json").write_text("{ broken")
    code = (
        "import expyre, expyre.config, expyre.errors\n"
        "try:\n"
        "    expyre.config.systems\n"
        "except expyre.errors.ConfigError as error:\n"
        "    print(error)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    env.pop("EXPYRE_ROOT", None)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    )
    assert "config.json: line 1, column 3: not JSON" in result.stdout
