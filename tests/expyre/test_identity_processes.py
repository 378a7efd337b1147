"""Keys are the same in every process, on every version of Python, from whatever place a script is run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def _interpreters() -> dict[str, str]:
    """Return interpreters by version, each tried out: a name on the search path may be a mere stub."""
    found: dict[str, str] = {}
    installed = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python3"))
    for version in VERSIONS:
        candidates = [path for path in map(str, installed) if f"/{version}." in path] + [f"python{version}"]
        for candidate in filter(None, map(shutil.which, candidates)):
            done = subprocess.run([candidate, "-c", "import sqlite3"], capture_output=True, check=False)
            if done.returncode == 0:
                found[version] = candidate
                break
    return found


def _run(python: str, *words: str, seed: str = "0", cwd: Path | None = None) -> dict[str, str]:
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("EXPYRE_CODE_HASH", None)
    done = subprocess.run([python, *words], capture_output=True, text=True, env=env, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout)
    return result


def _has_science() -> bool:
    return all(importlib.util.find_spec(name) for name in ("numpy", "ase"))


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    words = ["science"] if _has_science() else []
    return _run(sys.executable, str(HERE / "identity_process.py"), *words)


@pytest.mark.parametrize("seed", ["1", "2", "random"])
def test_the_hash_seed_does_not_matter(reference: dict[str, str], seed: str) -> None:
    words = ["science"] if _has_science() and seed == "random" else []
    found = _run(sys.executable, str(HERE / "identity_process.py"), *words, seed=seed)
    assert found == {name: key for name, key in reference.items() if words or not name.startswith("science")}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_of_python_does_not_matter(reference: dict[str, str], version: str) -> None:
    python = _interpreters().get(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    plain = {name: key for name, key in reference.items() if not name.startswith("science")}
    assert _run(python, str(HERE / "identity_process.py"), seed="3") == plain


def test_the_place_of_a_script_does_not_matter(reference: dict[str, str], tmp_path: Path) -> None:
    text = (HERE / "identity_process.py").read_text().replace("str(pathlib.Path(__file__).parents[2])", repr(str(ROOT)))
    (tmp_path / "moved.py").write_text(text)
    plain = {name: key for name, key in reference.items() if not name.startswith("science")}
    assert _run(sys.executable, "moved.py", cwd=tmp_path) == plain


def test_importing_needs_neither_numpy_nor_ase() -> None:
    code = "import sys, expyre.identity; print(any(name in sys.modules for name in ('numpy', 'ase')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


# These must never change without a new version of the key ("k1").
GOLDEN: dict[str, str] = {
    "plain 0": "8ce86a6ae65d3692e7305e2c58ac62eebd97d3d943e093f577da25c36988246b",
    "plain 1": "e632b7095b0bf32c260fa4c539e9fd7b852d0de454e9be26f24d0d6f91d069d3",
    "plain 2": "cc7130013527ac2a34de7f05846a80a6abc29cbd03fad13003867866f8c066d4",
    "plain 4": "e79741878dab5e3217fed21cdb0a0e5d55f88e804010784d09d76594b26984cd",
    "plain 5": "586bae06ef42a1345d4cbfed655a2cf83fe61b70679d89235f309b4134ed4d16",
    "plain 6": "cc456bd05fe76b51e4fdefc2d6abd88943c4a5fab066b754967abe30b5fd753c",
    "plain 10": "e34d1fb77f49bbb61fc021a215de81cfc20d1bc08b902d51638e62ddd44e50eb",
    "plain 11": "a82d46dff1f9ea05815b5dc56380a652c761398feaf0830f92d355b8a58c22ec",
    "plain 12": "1d3cd5664426c83a59ec7391e9c41a6206cbcbff06adf81156003f8a2a800951",
    "plain 15": "85000c4021e2169c48834b5bf7c991abfe1757cf1b3649bd931a5253b8b404e3",
    "plain 16": "84f5bfdc7fe2c5cce250f855e64890cc76142bf491d11b7fcce444de05b63610",
    "plain 18": "49db293acdd6bfea014610abaaaf88527b83f514ca62eefdf05d3d349dee0bb9",
    "plain 23": "7cacacadecf996c157816a35ddde95c4ed7c59f0f2e02f13c6a21ea5abc41f39",
    "plain 24": "088b55b9520bce3001ef490044e9549af6be98ca614551c04f46969a954d66bc",
    "plain 25": "060d16454c2dbff6035fbfcd7509197aad4d9740679407f0b842d19dafd7c9f9",
    "plain 26": "b0426a13cbcec585fb1a15c2d51eee8305f1163443c53fc41ca1554e20aa760b",
    "plain 27": "1fc5e57b65e9ef11c8d140aa09c90d6fefa03a0cfb74454fe0bb44917ba8a418",
    "plain 28": "22c73fd6a5c61841f686298bd36424ff373355f228d0a539fae94fe1aa4d01bb",
    "plain 29": "e4d725ec2b88301538754f103efee0d21ff40d7b95f8a953704528a8a76e0c7e",
    "science 0": "0b13f401f2c6023dfee4b05e557d77bca005a9e38eafae7c122cebb9f9da5d95",
    "science 2": "838d7625a65aecbbd8dcce67377606ba223ef987318a071fc658b42ba1659017",
    "science 4": "b02b414c5bd6f8c47dad6eccb4d053db4887664650aa61758f7543d829e882b6",
    "science 5": "95014e5ff1173e7fb36c875db8511281306fc2f5a9edeb643e23131899d12cf0",
    "science 6": "0d80cf80c770982da09b6de51a0b562cce259ae713fb299fd78b56e7fc386bd9",
    "science 10": "cb1f1ac15353d332fc863b45d6437828b999b8bbba2a91fe3bf3f3567ad82163",
    "call golden": "k1:Yv7KRfpiR8VT5PXVLArPDw0vFX_mu589xSIauUAOkhg=",
}


def test_golden_digests(reference: dict[str, str]) -> None:
    expected = {name: key for name, key in GOLDEN.items() if name in reference}
    assert len(expected) >= 20
    assert {name: reference[name] for name in expected} == expected
