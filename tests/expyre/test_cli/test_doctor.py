from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_support import on_terminal, plain
from click.testing import Result
from clusters.slurm_ssh import SlurmOverSsh

from expyre import config
from expyre.config import Project
from expyre.errors import TransportError

Xpr = Callable[..., Result]
LOCAL = {"host": None, "scheduler": "local", "partitions": {"p": {"num_cores": 2, "max_time": "1h", "max_mem": None}}}


@pytest.fixture
def configure(project: Project) -> Callable[[dict[str, Any]], None]:
    """Give the project other systems."""

    def configure(systems: dict[str, Any]) -> None:
        assert project.root is not None
        (project.root / "config.json").write_text(json.dumps({"systems": systems}))
        config.init(project.root)

    return configure


def lines(text: str) -> list[list[str]]:
    """Return the findings of a report, as words."""
    return [line.split() for line in text.splitlines() if line.split()[:1] and line.split()[0] in LEVELS]


LEVELS = ("ok", "warning", "failure")


def test_this_machine(xpr: Xpr) -> None:
    result = xpr("doctor")
    assert result.stdout.startswith("local: Local on this machine\n")
    found = lines(result.stdout)
    assert {words[0] for words in found} <= {"ok", "warning"}
    assert [words[1] for words in found][:3] == ["connection", "stage", "python"]


def test_it_leaves_no_traces(project: Project, xpr: Xpr) -> None:
    assert project.root is not None
    before = sorted(project.root.rglob("*"))
    xpr("doctor")
    assert sorted(project.root.rglob("*")) == before


def test_systems_by_name(configure: Callable[[dict[str, Any]], None], xpr: Xpr) -> None:
    configure({"a": LOCAL, "_template": LOCAL, "b": LOCAL})
    assert [one["name"] for one in json.loads(xpr("doctor", "--json").stdout)] == ["a", "b", "local"]
    assert [one["name"] for one in json.loads(xpr("doctor", "b", "_template", "--json").stdout)] == ["b", "_template"]
    assert "did you mean 'a'" in xpr("doctor", "aa", code=1).stderr


def test_failures_are_said_with_a_way_out(
    configure: Callable[[dict[str, Any]], None], xpr: Xpr, tmp_path: Path
) -> None:
    configure({"bad": {**LOCAL, "rundir": "/proc/nowhere", "commands": ["exit 4"]}})
    result = xpr("doctor", "bad", code=1)
    found = {words[1]: words[0] for words in lines(result.stdout)}
    assert found["run"] == found["commands"] == "failure"
    assert f"-> {tmp_path}/.expyre/config.json: systems.bad.rundir: " in result.stdout
    reported = json.loads(xpr("doctor", "bad", "--json", code=1).stdout)[0]["findings"]
    assert [one["what"] for one in reported if one["level"] == "failure"] == ["run directory", "commands"]


def test_settings_are_found_in_the_file_that_has_them(
    project: Project, xpr: Xpr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "project"
    for directory, systems in ((tmp_path, {"bad": LOCAL}), (inner, {"bad": {"rundir": "/proc/nowhere"}})):
        (directory / ".expyre").mkdir(parents=True, exist_ok=True)
        (directory / ".expyre" / "config.json").write_text(json.dumps({"systems": systems}))
    monkeypatch.chdir(inner)
    monkeypatch.delenv("EXPYRE_ROOT")
    monkeypatch.setattr(config, "_current", None)
    assert f"-> {inner}/.expyre/config.json: systems.bad.rundir: " in xpr("doctor", "bad", code=1).stdout


def test_a_dead_host_does_not_hold_up_the_others(
    configure: Callable[[dict[str, Any]], None], xpr: Xpr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", "1 0")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        remsh = f"ssh -p {taken.getsockname()[1]} -o BatchMode=yes"
        configure({"dead": {**LOCAL, "host": "127.0.0.1", "remsh_cmd": remsh}, "good": LOCAL})
        result = xpr("doctor", "dead", "good", code=1)
    assert "failure  connection  " in result.stdout
    assert result.stdout.count("ok       python") == 1
    assert "Traceback" not in result.output


def test_what_breaks_is_a_finding(xpr: Xpr, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("expyre.checkup.examine", broken)
    result = xpr("doctor", code=1)
    assert "ZeroDivisionError: oops" in result.stdout
    assert "EXPYRE_TRACEBACK=1" in result.stdout


def test_a_host_that_never_answers(xpr: Xpr, monkeypatch: pytest.MonkeyPatch) -> None:
    def hanging(*_: object, **__: object) -> None:
        time.sleep(30)

    monkeypatch.setattr("expyre.checkup.examine", hanging)
    monkeypatch.setattr("expyre.cli.doctor._PATIENCE", 0.2)
    assert "no answer in 0 s" in xpr("doctor", code=1).stdout


def test_a_small_job(project: Project, xpr: Xpr) -> None:
    found = {words[1]: words[0] for words in lines(xpr("doctor", "--submit", "--timeout", "4m").stdout)}
    assert found["staged"] == found["submitted"] == found["result"] == "ok"
    assert "No matching jobs" in xpr("ls").stdout
    assert list(project.stage_root.glob("run_*")) == []


def test_a_small_job_that_does_not_come_back(
    configure: Callable[[dict[str, Any]], None], project: Project, xpr: Xpr
) -> None:
    configure(
        {"slow": {**LOCAL, "commands": ['[ -z "$EXPYRE_JOB_STARTED" ] || sleep 100'], "script_exec": "/bin/bash"}}
    )
    result = xpr("doctor", "slow", "--submit", "--timeout", "1s", "--python", sys.executable, code=1)
    assert "no result in 1s" in result.stdout
    assert "No matching jobs" in xpr("ls").stdout


def test_no_job_where_none_can_run(configure: Callable[[dict[str, Any]], None], xpr: Xpr) -> None:
    configure({"bad": {**LOCAL, "rundir": "/proc/nowhere"}})
    assert "staged" not in xpr("doctor", "bad", "--submit", code=1).stdout


def test_on_a_terminal(project: Project) -> None:
    code, text = on_terminal(["doctor", "local"], 60)
    assert code == 0
    assert "\x1b[32mok\x1b[0m" in text
    assert max(len(line) for line in plain(text).splitlines() if "/" not in line) <= 60


def test_over_ssh(slurm_over_ssh: Callable[..., Project], xpr: Xpr, monkeypatch: pytest.MonkeyPatch) -> None:
    project = slurm_over_ssh("paramiko")
    monkeypatch.setenv("EXPYRE_ROOT", str(project.root))
    made = project.systems["slurm"]
    before = made.transport.round_trips  # type: ignore[attr-defined]
    found = {" ".join(words[1:3]): words[0] for words in lines(xpr("doctor", "slurm").stdout)}
    assert found["partition debug"] == found["partition gpu"] == "ok"
    assert made.transport.round_trips == before + 1  # type: ignore[attr-defined]


def test_an_unknown_host_key(
    slurm_login: SlurmOverSsh, configure: Callable[[dict[str, Any]], None], xpr: Xpr, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    text = slurm_login.ssh_config.read_text().replace(str(slurm_login.ssh_config.parent / "known_hosts"), "/dev/null")
    (tmp_path / "ssh_config").write_text(text)
    monkeypatch.setenv("EXPYRE_SSH_CONFIG", str(tmp_path / "ssh_config"))
    configure({"new": {**LOCAL, "host": slurm_login.host, "transport": "paramiko"}})
    assert ["failure", "host", "key"] in [words[:3] for words in lines(xpr("doctor", "new", code=1).stdout)]


def test_errors_of_the_connection_are_no_tracebacks(xpr: Xpr, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TransportError("the line is dead")

    monkeypatch.setattr("expyre.checkup.examine", broken)
    assert "failure  connection  the line is dead" in xpr("doctor", code=1).stdout
