"""Every code block of the README and the documentation runs, and reference pages are complete."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import run_page
from clusters import slurm_ssh
from clusters.slurm import SlurmCluster
from clusters.sshd import private_sshd

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
BIN = Path(sys.executable).parent


def environment(work: Path) -> dict[str, str]:
    """Return the variables of a reader whose home directory is empty."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EXPYRE_", "WFL_", "PYTEST_"))}
    path = os.pathsep.join([str(BIN), env["PATH"]])
    return env | {
        "HOME": str(work), "EXPYRE_LOCAL_DIR": str(work.parent / "queue"), "PATH": path, "OMP_NUM_THREADS": "1"
    }  # fmt: skip


def run(page: Path, work: Path, env: dict[str, str]) -> str:
    """Run the blocks of a page; return what was written."""
    command = [sys.executable, str(ROOT / "tests" / "run_page.py"), str(page)]
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, f"{page}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    work = tmp_path / "project"
    work.mkdir()
    env = environment(work)
    with contextlib.ExitStack() as stack:
        reason = ""
        if run_page.needs(page.read_text(encoding="utf-8")):
            reason = SlurmCluster.missing() or slurm_ssh.missing()
            if not reason:
                env |= stack.enter_context(cluster_hpc(request.getfixturevalue("slurm"), tmp_path, env["PATH"]))
        run(page, work, env)
    if reason:
        pytest.skip(f"all blocks ran but those for a cluster: {reason}")


@contextlib.contextmanager
def cluster_hpc(cluster: SlurmCluster, directory: Path, path: str) -> Iterator[dict[str, str]]:
    """Give the variables of a reader who can say ``ssh hpc``, which logs in to a cluster, to a home directory there."""
    home, programs = directory / "home_on_hpc", directory / "programs"
    home.mkdir()
    programs.mkdir()
    there = f'SetEnv SHLVL=5 SLURM_CONF={cluster.conf} PATH={BIN}:/usr/bin:/bin:/usr/sbin:/sbin "HOME={home}"'
    cluster.repair()
    with private_sshd({"hpc": there}) as server:
        ssh = programs / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {server.config} "$@"\n')
        ssh.chmod(0o755)
        yield {"PAGE_HAS": "slurm", "PATH": f"{programs}:{path}"}
    cluster.repair()


# -- reference pages say all there is ------------------------------------------------------------------------------


def names_in_code(pattern: str, *roots: str) -> set[str]:
    """Return what a regular expression finds in the packages."""
    files = [file for root in roots for file in (ROOT / root).rglob("*.py")]
    return {name for file in files for name in re.findall(pattern, file.read_text(encoding="utf-8"))}


# set by one part of the code for another, for tests of crashes, or no variables at all
NOT_FOR_USERS = {"EXPYRE_LOCAL_STACK", "EXPYRE_KILL_AT", "EXPYRE_LOCAL_", "EXPYRE_REMOTE_JOB_FAILED", "EXPYRE_WORKER"}


def test_all_variables_are_described() -> None:
    known = names_in_code(r"\b(?:EXPYRE|WFL)_[A-Z_]+\b", "expyre", "wfl") - NOT_FOR_USERS
    text = (DOCS / "environment.md").read_text(encoding="utf-8")
    assert sorted(name for name in known if f"`{name}" not in text) == []


def test_all_settings_are_described() -> None:
    from expyre.config import check

    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    keys = [*check._TOP, *check._SYSTEM, *check._PARTITION]
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_all_options_of_schedulers_are_described() -> None:
    used = names_in_code(r"options\.get\(\"(\w+)\"", "expyre/schedulers")
    text = (DOCS / "queues.md").read_text(encoding="utf-8") + (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert used
    assert sorted(name for name in used if f"`{name}`" not in text) == []


def test_all_header_keys_are_described() -> None:
    from expyre.schedulers import Slurm, Submission

    keys = Slurm(None).header_values(Submission("id", "/tmp/id", "normal", ()))
    text = (DOCS / "queues.md").read_text(encoding="utf-8")
    assert sorted(key for key in keys if f"`{{{key}}}`" not in text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"systems": {"x": {"host": null, "scheduler": "slurm"}}}', "partitions"),
        ('{"a.py::f": {"sys_name": "x", "job_name": "y"}}', "resources"),
        ('{"a": }', "Expecting value"),
    ],
    ids=["configuration", "routes", "json"],
)
def test_wrong_json_of_a_page_is_found(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run_page.check_json(text, "page")


def test_blocks_that_need_what_is_not_there_are_left_out(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- needs: slurm -->\n```bash\nfalse\n```\n```bash\ntrue\n```\n")
    monkeypatch.delenv("PAGE_HAS", raising=False)
    assert run_page.run(str(page)) == 1
    assert f"1 {run_page.LEFT_OUT} slurm" in capsys.readouterr().out
    monkeypatch.setenv("PAGE_HAS", "slurm")
    with pytest.raises(subprocess.CalledProcessError):
        run_page.run(str(page))
