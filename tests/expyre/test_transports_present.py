"""Large files that are here already are not fetched again."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from expyre.transports.present import present
from expyre.transports.scripts import fetch_script

LARGE = 70_000
NAMES = ["run a", "run'b", "[c]*"]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The same jobs here and there, each with a large and a small input; times there are in whole seconds."""
    here, there = tmp_path / "here", tmp_path / "there"
    for name in NAMES:
        (here / name / "sub").mkdir(parents=True)
        for path in ("potential $x[1].xml", "sub/in put"):
            (here / name / path).write_bytes(b"p" * LARGE)
            os.utime(here / name / path, (1_700_000_000.5, 1_700_000_000.5))
        (here / name / "small").write_text("s")
    shutil.copytree(here, there)
    for path in there.rglob("*"):
        os.utime(path, (int(path.stat().st_mtime),) * 2)
    return here, there


def fetched(here: Path, there: Path, path: str | None = None) -> set[str]:
    script = fetch_script(str(there), NAMES, [], present(here, NAMES))
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        return {member.name.removeprefix("./") for member in tar if member.isfile()}


def test_large_inputs_that_have_not_changed_stay_there(places: tuple[Path, Path]) -> None:
    assert fetched(*places) == {f"{name}/small" for name in NAMES}


def test_what_has_changed_comes(places: tuple[Path, Path]) -> None:
    here, there = places
    changed = there / "run a" / "potential $x[1].xml"
    changed.write_bytes(b"q" * LARGE)
    assert f"{changed.parent.name}/{changed.name}" in fetched(here, there)
    longer = there / "run'b" / "sub" / "in put"
    longer.write_bytes(b"p" * (LARGE + 1))
    os.utime(longer, (1_700_000_000,) * 2)
    assert "run'b/sub/in put" in fetched(here, there)


def test_a_change_in_the_second_in_which_the_input_was_made_comes(places: tuple[Path, Path]) -> None:
    here, there = places
    os.utime(there / "run a" / "sub" / "in put", (1_700_000_000.25,) * 2)
    assert "run a/sub/in put" in fetched(here, there)


def test_the_same_file_elsewhere_comes(places: tuple[Path, Path]) -> None:
    here, there = places
    for place in ("sub/potential $x[1].xml", "in put"):
        shutil.copy2(there / "run a" / "sub" / "in put", there / "run a" / place)
    assert {"run a/sub/potential $x[1].xml", "run a/in put"} <= fetched(here, there)


def test_what_one_job_lacks_here_comes_for_it_alone(places: tuple[Path, Path]) -> None:
    here, there = places
    (here / "[c]*" / "sub" / "in put").unlink()
    assert fetched(here, there) == {"[c]*/sub/in put", *(f"{name}/small" for name in NAMES)}


def test_all_comes_where_find_cannot_compare_times(places: tuple[Path, Path], tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    refusing = f'#!/bin/sh\ncase "$*" in *newermt*) exit 1;; esac\nexec "{shutil.which("find")}" "$@"\n'
    (tools / "find").write_text(refusing)
    (tools / "find").chmod(0o755)
    assert len(fetched(*places, path=f"{tools}:{os.environ['PATH']}")) == 3 * len(NAMES)
