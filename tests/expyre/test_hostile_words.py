"""Whatever jobs, files, directories, variables and outputs are called or hold: it arrives, and nothing runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from clusters.pbs_standin import StandIn
from clusters.sge import GridEngine, sge, sge_env  # noqa: F401
from clusters.slurm_ssh import commands, make_project
from hostile_tools import (
    FRAGMENTS,
    QUICK,
    canaries,
    check,
    file_name,
    launch,
    texts,
    without_surrogates,
    words_of,
)
from hypothesis import given
from hypothesis import strategies as st
from queue_tools import fresh_queue

from expyre import ExPyRe, config
from expyre.cli.main import cli
from expyre.errors import RequestError

ONE_CORE = {"max_time": "5m", "num_cores": 1}
NODE = {"num_cores": 4, "max_time": "1h", "max_mem": "4GB"}
PLACE = "a $(touch xprcanary) `id` 'b' \"c\" ; & | > ~ * ? [d] {e} ! # % \\ é"
# the first draw is always the simplest, and all fragments are in the other words anyway
drawn = st.lists(texts, min_size=2, max_size=2).filter(lambda words: set(words) != {FRAGMENTS[0]})
places = texts.map(lambda text: file_name(without_surrogates(text), 40)).map(without_surrogates)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with an ugly name; nothing of the test stays in the environment or the configuration."""
    monkeypatch.setattr(config, "_current", None)
    for name in ("XPR_BARE", *(f"XPR_BARE_{i}" for i in range(20))):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "work in 'here' $(touch xprcanary)"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return tmp_path


@contextmanager
def project(root: Path, system: dict[str, Any]) -> Iterator[Any]:
    """Give a project with one system ``there``; nothing was executed in its time."""
    made = make_project(root, {"there": system})
    try:
        yield made
        assert not list(canaries(root))
    finally:
        made.close()


def python_with_blanks(root: Path) -> str:
    """Return a command for an interpreter in a directory whose name needs quotes."""
    import shlex
    import sys

    directory = root / "py thon's"
    directory.mkdir(exist_ok=True)
    link = directory / "python 3"
    if not link.exists():
        link.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        link.chmod(0o755)
    return shlex.quote(str(link))


@pytest.mark.parametrize(
    ("transport", "array"), [("local", True), ("paramiko", True), ("openssh", True), ("openssh", False)]
)
@QUICK
@given(drawn=drawn, place=places)
def test_words_go_to_slurm_and_back(
    slurm_over_ssh: Callable[..., Any], home: Path, transport: str, array: bool, drawn: list[str], place: str
) -> None:
    there = home / f"{PLACE}{place}"
    made = slurm_over_ssh(transport, array=array)
    system = json.loads((made.root / "config.json").read_text())["systems"]["slurm"]
    made.close()
    with project(home / f"at {PLACE[:20]}", {**system, "rundir": str(there)}):
        words = words_of(drawn)
        resources = {**ONE_CORE, "partitions": "normal"}
        jobs = launch(
            words, "there", resources, "".join(FRAGMENTS), partial_node=True, python_cmd=python_with_blanks(home)
        )
        check(words, jobs)


@pytest.mark.parametrize("array", [True, False])
@QUICK
@given(drawn=drawn, place=places)
def test_words_go_to_grid_engine_and_back(
    sge_env: GridEngine,  # noqa: F811
    home: Path,
    array: bool,
    drawn: list[str],
    place: str,
) -> None:
    system = {
        "host": None,
        "scheduler": "sge",
        "array": array,
        "commands": commands(),
        "rundir": str(home / f"{PLACE}{place}"),
        "partitions": {"all.q": NODE},
        "scheduler_options": {"env": sge_env.env, "memory_resource": None},
    }
    with project(home / f"at {PLACE[:20]}", system):
        words = words_of(drawn)
        check(words, launch(words, "there", ONE_CORE, "".join(FRAGMENTS), partial_node=True))


@pytest.mark.parametrize(("dialect", "array"), [("openpbs", True), ("torque", False)])
@QUICK
@given(drawn=drawn, place=places)
def test_words_go_to_pbs_and_back(
    home: Path, tmp_path_factory: pytest.TempPathFactory, dialect: str, array: bool, drawn: list[str], place: str
) -> None:
    pbs = StandIn(tmp_path_factory.mktemp("pbs") / "pbs", dialect=dialect)
    system = {
        "host": None,
        "scheduler": "pbs",
        "array": array,
        "commands": commands(),
        "rundir": str(home / f"{PLACE}{place}"),
        "partitions": {"workq": NODE},
        "scheduler_options": {"env": {"PATH": pbs.path}},
    }
    try:
        with project(home / f"at {PLACE[:20]}", system):
            words = words_of(drawn)
            check(words, launch(words, "there", ONE_CORE, "".join(FRAGMENTS), partial_node=True))
    finally:
        pbs.stop()


# Stands for ssh to another host.
_RSH = '#!/bin/sh\nshift\nexec sh -c "$*"\n'


@pytest.mark.parametrize("where", ["staged", "run directory", "another host"])
@QUICK
@given(drawn=drawn, place=places)
def test_words_go_to_the_local_queue_and_back(
    home: Path, tmp_path_factory: pytest.TempPathFactory, where: str, drawn: list[str], place: str
) -> None:
    for queue in fresh_queue(tmp_path_factory.mktemp("queue")):
        system = {
            "host": None,
            "scheduler": "local",
            "rundir": None if where == "staged" else str(home / f"{PLACE}{place}"),
            "partitions": {"local": NODE},
            "scheduler_options": {"dir": str(queue.spool.path)},
        }
        if where == "another host":
            (home / "rsh").write_text(_RSH)
            (home / "rsh").chmod(0o700)
            system.update(host="far", remsh_cmd=[str(home / "rsh")], commands=commands())
        with project(home / f"at {place}", system):
            words = words_of(drawn)
            jobs = launch(words, "there", ONE_CORE, "".join(FRAGMENTS))
            check(words, jobs)
            _are_looked_at_and_removed(jobs)


def xpr(*words: str) -> str:
    """Run a command that is to work; return what it prints."""
    done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def _are_looked_at_and_removed(jobs: list[ExPyRe]) -> None:
    ids = [job.id for job in jobs]
    for id in ids:
        shown = xpr("ls", "--", id) + xpr("show", "--", id) + xpr("why", "--", id)
        assert all(line.isprintable() for line in shown.split("\n"))
        assert json.loads(xpr("show", "--json", "--", id))["id"] == id
        assert json.loads(xpr("logs", "--json", "--", id)).keys() == {"stdout", "stderr", "job stdout", "job stderr"}
        for command in ("cancel", "hold", "release"):
            xpr(command, "-y", "--", id)
    jobs[0].clean()
    assert (jobs[0].stage_dir / "_expyre_job_succeeded").read_text() == "CLEANED\n"
    jobs[1].clean(wipe=True)
    assert not jobs[1].stage_dir.exists()
    xpr("rm", "-c", "-y", "--", *ids)
    root = jobs[0].stage_dir.parent
    assert not [path for path in root.iterdir() if path.name.startswith("run_")]


@pytest.mark.parametrize(
    "words",
    [
        {"env_vars": ["A=x\0y"]},
        {"env_vars": ["A\n=x"]},
        {"env_vars": ["A;touch xprcanary"]},
        {"pre_run_commands": ["echo \0"]},
        {"post_run_commands": ["\0"]},
        {"output_files": ["a\0b"]},
        {"output_files": [""]},
        {"output_files": ["a/../../b"]},
        {"output_files": ["/etc/passwd"]},
        {"input_files": ["a\0b"]},
        {"input_files": ["../a"]},
        {"name": "x" * 300},
        {"name": "a\0b"},
        {"name": "a\udcffb"},
        {"name": "../x"},
        {"name": ""},
    ],
    ids=repr,
)
def test_words_that_cannot_be_used_are_refused(home: Path, words: dict[str, Any]) -> None:
    made = make_project(home, {})
    with pytest.raises(RequestError):
        ExPyRe(**{"name": "job", "function": len, "args": [[]], **words})
    assert not [path for path in made.stage_root.iterdir() if path.name.startswith(("run_", ".tmp"))]
    made.close()


@pytest.mark.parametrize("everything", [".", "./", "./.", ".//"])
def test_everything_is_without_what_makes_a_job(home: Path, everything: str) -> None:
    (home / "in").mkdir()
    for name in ("_expyre_job_key", "_expyre_task_in.pckl", "mine"):
        (home / "in" / name).touch()
    ExPyRe._copy(home / "in", home / "out", everything)
    assert os.listdir(home / "out") == ["mine"]
