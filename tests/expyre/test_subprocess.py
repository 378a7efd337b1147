"""Shell commands here and through a stand-in for ssh that does with its arguments what ssh does."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expyre.errors import TransportError
from expyre.subprocess import FailedSubprocessWarning, subprocess_copy, subprocess_run
from expyre.util import remsh_cmd

ONCE = (1, 0)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPYRE_RETRY", raising=False)
    monkeypatch.delenv("EXPYRE_RSH", raising=False)


@pytest.fixture(scope="module")
def fake_ssh(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a program that joins its arguments with blanks and gives them to a shell, as ssh and sshd do."""
    program = tmp_path_factory.mktemp("bin") / "fake_ssh"
    program.write_text('#!/bin/sh\nshift\ncd /\nexec sh -c "$*"\n')
    program.chmod(0o755)
    return str(program)


def test_shell_operators_and_blanks(tmp_path: Path) -> None:
    (tmp_path / "file 2").write_text("two\n")
    (tmp_path / "file(3)").write_text("three\n")
    assert subprocess_run(None, ["cd", str(tmp_path), ";", "ls", "file 2"])[0] == "file 2\n"
    assert subprocess_run(None, ["cat", "file 2", "file(3)", "|", "wc", "-l"], in_dir=tmp_path)[0].strip() == "2"
    assert subprocess_run(None, ["echo", "it's", '"', ">", "out"], in_dir=tmp_path) == ("", "")
    assert (tmp_path / "out").read_text() == "it's \"\n"
    assert subprocess_run(None, ["ls", "file*", "&&", "echo", "$PWD", "{a,b}"], in_dir=tmp_path)[0].endswith(
        f"{tmp_path} a b\n"
    )


def test_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a dir").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "a dir"))
    monkeypatch.setenv("WHERE", str(tmp_path))
    assert subprocess_run(None, ["pwd"], in_dir="_PWD_")[0] == f"{tmp_path}\n"
    assert subprocess_run(None, ["pwd"], in_dir="a dir")[0] == f"{tmp_path}/a dir\n"
    assert subprocess_run(None, ["pwd"], in_dir="$WHERE")[0] == f"{tmp_path}\n"
    with pytest.raises(AssertionError, match="_PWD_"):
        subprocess_run("host", ["pwd"], in_dir="_PWD_")


def test_script_is_standard_input() -> None:
    assert subprocess_run(None, ["cat"], script="one\ntwo")[0] == "one\ntwo"
    assert subprocess_run(None, ["cat"])[0] == ""


@pytest.mark.parametrize(
    ("host", "args", "kwargs", "argv"),
    [
        (None, ["ls", "a b"], {}, ["bash", "-c", "cd $HOME && ls a\\ b"]),
        (None, ["ls"], {"in_dir": "_PWD_"}, ["bash", "-c", "ls"]),
        (None, ["ls"], {"in_dir": "d", "shell": "sh -x -c"}, ["sh", "-x", "-c", "cd d && ls"]),
        ("me@h", ["ls", "*"], {}, ["ssh", "me@h", "bash", "-c", "'cd $HOME && ls *'"]),
        ("h", ["ls"], {"remsh_cmd": "ssh -p 22"}, ["ssh", "-p", "22", "h", "bash", "-c", "'cd $HOME && ls'"]),
        ("h", ["ls"], {"remsh_cmd": ["s s", "-x"]}, ["s s", "-x", "h", "bash", "-c", "'cd $HOME && ls'"]),
    ],
)
def test_dry_run(
    host: str | None, args: list[str], kwargs: dict[str, Any], argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXPYRE_SSH_CONFIG", raising=False)
    assert subprocess_run(host, args, dry_run=True, **kwargs) == (argv, None)
    assert subprocess_run(host, args, script="é", dry_run=True, **kwargs) == (argv, "é".encode())


def test_remote_shell_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (remsh_cmd(None), remsh_cmd("rsh"), remsh_cmd(["a"])) == ("ssh", "rsh", ["a"])
    monkeypatch.setenv("EXPYRE_RSH", "gsissh -q")
    assert subprocess_run("h", ["ls"], dry_run=True)[0][:3] == ["gsissh", "-q", "h"]
    assert subprocess_copy("a", "b", to_host="h", dry_run=True)[0][2] == "rsync -e gsissh\\ -q -a a h:b"


def test_remote(fake_ssh: str, tmp_path: Path) -> None:
    run = {"remsh_cmd": fake_ssh, "retry": ONCE}
    assert subprocess_run("h", ["pwd", "&&", "echo", "$HOME"], in_dir=tmp_path, **run)[0].startswith(f"{tmp_path}\n")
    assert subprocess_run("h", ["echo", "it's", "a 'b'", ";", "cat"], script="x", **run)[0] == "it's a 'b'\nx"


WORD = st.text(st.sampled_from("abc'\" ()"), min_size=1, max_size=8).filter(lambda word: word.strip())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORD, min_size=1, max_size=3))
def test_words_arrive_as_they_are(fake_ssh: str, words: list[str]) -> None:
    for host in (None, "h"):
        stdout, _ = subprocess_run(host, ["printf", "%s\\\\n", *words], remsh_cmd=fake_ssh)
        assert stdout.splitlines() == words


def test_failure_warns_and_raises(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(FailedSubprocessWarning, match="try 1 of 1"), pytest.raises(RuntimeError) as error:
        subprocess_run(None, ["echo", "out", ";", "echo", "err", ">&2", ";", "exit", "3"], retry=ONCE)
    text = str(error.value)
    assert "exit status 3" in text
    assert "stdout: out" in text
    assert "stderr: err" in text
    assert "try 1 of 1" in capfd.readouterr().err


@pytest.mark.parametrize(("environment", "tries"), [("2 0", 2), ("0 -1", 1)])
def test_retries_from_the_environment(environment: str, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", environment)
    with pytest.warns(FailedSubprocessWarning) as warned, pytest.raises(RuntimeError):
        subprocess_run(None, ["false"])
    assert len(warned) == tries


@pytest.mark.parametrize("environment", ["3", "a b"])
def test_wrong_retries(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", environment)
    with pytest.raises(RuntimeError, match="EXPYRE_RETRY="):
        subprocess_run(None, ["true"])


def test_late_success_warns(tmp_path: Path) -> None:
    command = ["test", "-e", "mark", "||", "{", "touch", "mark;", "false;", "}"]
    with pytest.warns(FailedSubprocessWarning) as warned:
        subprocess_run(None, command, retry=(3, 0), in_dir=tmp_path)
    assert ["try 1 of 3" in str(warned[0].message), "succeeded at try 2" in str(warned[1].message)] == [True, True]


def test_time_limit_ends_the_whole_command() -> None:
    start = time.monotonic()
    with pytest.warns(FailedSubprocessWarning), pytest.raises(RuntimeError, match=r"took more than 0\.2 s"):
        subprocess_run(None, ["echo", "x", ";", "sleep", "60", ";", "true"], retry=ONCE, timeout=0.2)
    assert time.monotonic() - start < 40


def test_time_limit_of_a_host_is_a_fault_of_the_connection(fake_ssh: str) -> None:
    with pytest.warns(FailedSubprocessWarning), pytest.raises(TransportError, match="on h took more than"):
        subprocess_run("h", ["exec", "sleep", "60"], retry=ONCE, timeout=0.3, remsh_cmd=fake_ssh)
    with pytest.warns(FailedSubprocessWarning), pytest.raises(TransportError, match="exit status 255"):
        subprocess_run("h", ["exit", "255"], retry=ONCE, remsh_cmd=fake_ssh)


@pytest.mark.parametrize(
    ("host", "kwargs", "message"),
    [
        (None, {"shell": "no_such_shell -c"}, "cannot start the shell 'no_such_shell'"),
        ("h", {"remsh_cmd": "no_such_ssh"}, r"remote shell \(remsh_cmd, EXPYRE_RSH\) 'no_such_ssh'"),
    ],
)
def test_missing_program(host: str | None, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        subprocess_run(host, ["true"], **kwargs)


def test_output_that_is_not_utf8() -> None:
    assert subprocess_run(None, ["head", "-c", "1", "/dev/zero", "|", "tr", "\\\\000", "\\\\377"])[0] == "�"


def test_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    subprocess_run(None, ["echo", "{2,3}4"], verbose=True)
    out = capsys.readouterr().out
    assert "RUNNING COMMAND:" in out
    assert "24 34" in out
    subprocess_run(None, ["echo"], verbose=True, dry_run=True)
    assert "DRY-RUN COMMAND:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "kwargs", "command"),
    [
        (("a", "b"), {}, "rsync -e ssh -a a b"),
        ((["a b", Path("c")], "d"), {"to_host": "h"}, "rsync -e ssh -a a\\ b c h:d"),
        (("a*", Path("d")), {"from_host": "h", "delete": True}, "rsync -e ssh -a --delete h:a* d"),
        (("a", "d"), {"rcp_args": "-a -v", "rcp_cmd": "cp", "remsh_flags": ""}, "cp -a -v a d"),
    ],
)
def test_copy_command(args: tuple[Any, Any], kwargs: dict[str, Any], command: str) -> None:
    assert subprocess_copy(*args, dry_run=True, **kwargs) == (["bash", "-c", command], None)


def test_copy_relative_to_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    assert subprocess_copy("a/", "b", from_host=None, dry_run=True)[0][2] == "rsync -e ssh -a /home/u/a/ b"
    assert subprocess_copy("/a", "b", to_host=None, dry_run=True)[0][2] == "rsync -e ssh -a /a /home/u/b"


@pytest.mark.parametrize(("from_host", "to_host"), [(None, None), ("h", "h"), ("h", None), (None, "h")])
def test_copy_needs_a_local_end(from_host: str | None, to_host: str | None) -> None:
    with pytest.raises(RuntimeError, match="has to be '_LOCAL_'"):
        subprocess_copy("a", "b", from_host=from_host, to_host=to_host, dry_run=True)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_copy_really(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").write_text("x")
    os.mkdir(tmp_path / "to")
    subprocess_copy("a b", "to/")
    assert (tmp_path / "to" / "a b").read_text() == "x"


def test_copy_with_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").write_text("x")
    subprocess_copy(["a*"], "c", rcp_cmd="cp", remsh_flags="")
    assert (tmp_path / "c").read_text() == "x"
