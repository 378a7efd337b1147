"""Connections that break, servers that die, and how much goes over the line."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from clusters.sshd import Sshd
from ssh_tools import KINDS, Line, line_to, opened

from expyre.errors import TransportError
from expyre.transports.remote import RemoteTransport
from expyre.transports.scripts import fetch_script

pytest_plugins = ["ssh_fixtures"]
both = pytest.mark.parametrize("kind", KINDS)


@contextmanager
def breaking(lab: Sshd, kind: str) -> Iterator[tuple[RemoteTransport, Line]]:
    """Give a way over a line."""
    with line_to(lab, "breaking") as line, opened(kind, "breaking") as transport:
        yield transport, line


def _cuts(low: int, high: int, count: int) -> list[int]:
    """Return at how many bytes connections break: the greeting, then anywhere up to the end."""
    return [random.Random(high).randrange(low, high) for _ in range(count)]


def _jobs(directory: Path, count: int = 12) -> list[tuple[Path, str]]:
    for number in range(count):
        job = directory / f"run_{number}"
        job.mkdir(parents=True)
        (job / "_expyre_job_succeeded").write_bytes(b"marker")
        (job / "result").write_bytes(os.urandom(20_000))
        (job / "log").write_text("text " * number)
    return [(directory / f"run_{number}", f"run_{number}") for number in range(count)]


def _same(one: Path, other: Path) -> bool:
    return subprocess.run(["diff", "-r", one, other], capture_output=True, check=False).returncode == 0


@both
def test_files_arrive_whole_however_often_the_line_breaks(lab: Sshd, kind: str, tmp_path: Path) -> None:
    jobs = _jobs(tmp_path / "here")
    with breaking(lab, kind) as (transport, line):
        for number, cut in enumerate([200, 2000, *_cuts(4000, 240_000, 3)]):
            line.breaks = [cut]
            transport.close()
            transport.send(jobs, str(tmp_path / f"there{number}"))
            assert _same(tmp_path / "here", tmp_path / f"there{number}")
            assert not line.breaks


@both
def test_results_come_whole_however_often_the_line_breaks(lab: Sshd, kind: str, tmp_path: Path) -> None:
    jobs = _jobs(tmp_path / "there")
    with breaking(lab, kind) as (transport, line):
        for number, cut in enumerate([200, 2000, *_cuts(4000, 240_000, 3)]):
            line.breaks = [cut]
            transport.close()
            transport.fetch(str(tmp_path / "there"), [name for _, name in jobs], tmp_path / f"back{number}")
            assert _same(tmp_path / "there", tmp_path / f"back{number}")
            assert not line.breaks


@both
def test_a_line_that_always_breaks_brings_whole_jobs_and_an_error(
    lab: Sshd, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", "1 0")
    jobs = _jobs(tmp_path / "there")
    delivered = 0
    with breaking(lab, kind) as (transport, line):
        for number, cut in enumerate(_cuts(60_000, 200_000, 3)):
            line.breaks = [cut] * 9
            transport.close()
            back = tmp_path / f"back{number}"
            with pytest.raises(TransportError) as caught:
                transport.fetch(str(tmp_path / "there"), [name for _, name in jobs], back)
            assert caught.value.transient
            whole = [path for path in back.iterdir() if _same(path, tmp_path / "there" / path.name)]
            assert sorted(os.listdir(back)) == sorted(path.name for path in whole)
            delivered += len(whole)
    assert delivered


@both
def test_a_script_whose_line_breaks_is_never_run_twice(lab: Sshd, kind: str, tmp_path: Path) -> None:
    errors = 0
    with breaking(lab, kind) as (transport, line):
        for number, cut in enumerate([500, *_cuts(2500, 140_000, 6)]):
            line.breaks = [cut]
            transport.close()
            log, script = tmp_path / f"log{number}", f"{'#' * 40_000}\necho ran >> {tmp_path}/log{number}; cat"
            try:
                assert transport.run(script, bytes(30_000)).stdout == bytes(30_000)
            except TransportError as error:
                errors += error.transient
            time.sleep(0.1)
            ran = log.read_text() if log.exists() else ""
            assert ran in ("", "ran\n")
    assert errors


@both
def test_a_connection_that_is_gone_between_calls_is_opened_again(lab: Sshd, kind: str) -> None:
    with opened(kind) as transport:
        assert transport.run("echo one").text == "one\n"
        lab.stop()
        lab.start()
        assert transport.run("echo two").text == "two\n"


@both
def test_a_line_that_breaks_during_log_in_is_no_refusal(lab: Sshd, kind: str) -> None:
    errors = []
    with breaking(lab, kind) as (transport, line):
        for cut in range(2200, 5000, 900):
            line.breaks = [cut]
            transport.close()
            for _ in range(3):  # the line may break when a script has begun
                try:
                    transport.run("true")
                except TransportError as error:
                    errors.append(error)
            assert transport.run("echo in").text == "in\n"
            assert not line.breaks
    assert all(error.transient for error in errors)


@both
def test_a_server_that_is_down_is_waited_for(
    lab: Sshd, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", "1000 0.1")
    (tmp_path / "file").write_text("x")
    with opened(kind) as transport:
        transport.run("true")
        lab.stop()
        timer = threading.Timer(1.0, lab.start)
        timer.start()
        transport.send([(tmp_path / "file", "file")], str(tmp_path / "there"))
        timer.join()
    assert (tmp_path / "there" / "file").exists()


@both
def test_a_server_that_dies_under_a_script_is_no_exit_status(lab: Sshd, kind: str, tmp_path: Path) -> None:
    with opened(kind) as transport:
        threading.Thread(target=_stop_when_exists, args=(lab, tmp_path / "begun")).start()
        with pytest.raises(TransportError, match="broke off") as caught:
            transport.run(f"touch {tmp_path}/begun; sleep 100")
        assert caught.value.transient
        lab.start()
        assert transport.run("echo again").text == "again\n"


@both
def test_a_server_that_no_longer_answers_is_given_up(lab: Sshd, kind: str, tmp_path: Path) -> None:
    lab.host("frozen", ServerAliveInterval=1, ServerAliveCountMax=2)
    with opened(kind, "frozen") as transport:
        transport.run("true")
        script = f"echo $PPID > {tmp_path}/parent; sleep 1000"
        done = threading.Thread(target=_freeze, args=(tmp_path / "parent",))
        done.start()
        with pytest.raises(TransportError, match="broke off"):
            transport.run(script)
        done.join()


def _freeze(path: Path) -> None:
    """Stop the process of the server that a script runs under, until it is killed."""
    while not (path.exists() and path.read_text().strip()):
        time.sleep(0.05)
    process = psutil.Process(int(path.read_text()))
    while not process.name().startswith("sshd"):
        process = process.parent() or process
    process.suspend()


def _stop_when_exists(lab: Sshd, path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    lab.stop()


@both
def test_attempts_become_rarer(lab: Sshd, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_RETRY", "3 0")
    with line_to(lab, "flaky") as line, opened(kind, "flaky") as transport:
        line.breaks = [10] * 10
        begin = time.monotonic()
        with pytest.raises(TransportError):
            transport.run("true")
        assert line.connections == 3
        assert time.monotonic() - begin > 0.5 + 1 - 0.2


@both
def test_equal_inputs_of_many_jobs_travel_once(lab: Sshd, kind: str, tmp_path: Path) -> None:
    potential = os.urandom(1_000_000)
    first = tmp_path / "here" / "run_0" / "potential"
    for number in range(100):
        job = tmp_path / "here" / f"run_{number}"
        job.mkdir(parents=True)
        if number % 2:
            os.link(first, job / "potential")
        else:
            (job / "potential").write_bytes(potential)
        (job / "own").write_text(str(number))
    with breaking(lab, kind) as (transport, line):
        transport.run("true")
        trips, before = transport.round_trips, line.sent
        transport.send([(tmp_path / "here" / f"run_{n}", f"run_{n}") for n in range(100)], str(tmp_path / "there"))
        assert line.sent - before < 1_200_000
        assert transport.round_trips - trips == 1
    assert _same(tmp_path / "here", tmp_path / "there")
    (tmp_path / "there" / "run_0" / "potential").write_bytes(b"changed")
    assert (tmp_path / "there" / "run_1" / "potential").read_bytes() == potential


def test_what_shrinks_is_sent_compressed(lab: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"the same again " * 100_000)
    with breaking(lab, "paramiko") as (transport, line):
        transport.send([(tmp_path / "file", "file")], str(tmp_path / "there"))
        transport.fetch(str(tmp_path / "there"), ["file"], tmp_path / "back")
        assert line.sent + line.received < 200_000
    assert (tmp_path / "back" / "file").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_host_without_gzip_is_sent_plain_files(lab: Sshd, tmp_path: Path) -> None:
    (lab.path / "tools").mkdir(exist_ok=True)
    for program in ("cat", "dd", "tar", "mkdir", "find"):
        (lab.path / "tools" / program).unlink(missing_ok=True)
        (lab.path / "tools" / program).symlink_to(shutil.which(program) or "")
    (tmp_path / "file").write_text("x")
    with opened("paramiko", "nobash") as transport:
        transport.send([(tmp_path / "file", "file")], str(tmp_path / "there"))
        transport.fetch(str(tmp_path / "there"), ["file"], tmp_path / "back")
    assert (tmp_path / "back" / "file").read_text() == "x"


def test_a_source_that_cannot_be_read_is_named(lab: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with opened("paramiko") as transport:
        transport.run("true")
        pack_source = tmp_path / "loop"
        pack_source.symlink_to(pack_source)
        with pytest.raises(TransportError, match="loop") as caught:
            transport.send([(pack_source, "file")], str(tmp_path / "there"))
    assert not caught.value.transient


@pytest.mark.parametrize("after", [1, 2])
def test_a_marker_that_appears_while_files_are_listed_stays_behind(tmp_path: Path, after: int) -> None:
    """What stands beside a marker must be complete, so a marker only counts when it was there before the rest."""
    job, tools = tmp_path / "there" / "job", tmp_path / "tools"
    job.mkdir(parents=True)
    tools.mkdir()
    (job / "_expyre_job_started").touch()
    find = shutil.which("find")
    counting = f'#!/bin/sh\necho x >> {tmp_path}/count\n"{find}" "$@"\n'
    ending = f"[ $(wc -l < {tmp_path}/count) = {after} ] && echo late > {job}/result && touch {job}/_expyre_job_done\n"
    (tools / "find").write_text(counting + ending)
    (tools / "find").chmod(0o755)
    script = fetch_script(str(tmp_path / "there"), ["job"], [])
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True)
    listed = subprocess.run(["tar", "-tzf", "-"], input=done.stdout, capture_output=True, check=True).stdout.decode()
    assert "_expyre_job_started" in listed
    assert "_expyre_job_done" not in listed


@pytest.mark.parametrize("name", ["tar", "find"])
def test_a_file_that_cannot_be_read_over_there_is_named(lab: Sshd, name: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("x")
    tools = lab.path / "tools"
    tools.mkdir(exist_ok=True)
    for program in ("cat", "dd", "find", "tar"):
        (tools / program).unlink(missing_ok=True)
        (tools / program).symlink_to(shutil.which(program) or "")
    (tools / name).unlink()
    said = f"{name}: ./b: Cannot open: Permission denied"
    (tools / name).write_text(f'#!/bin/sh\n{shutil.which(name)} "$@"; echo "{said}" >&2; exit 2\n')
    (tools / name).chmod(0o755)
    try:
        with opened("paramiko", "nobash") as transport, pytest.raises(TransportError, match="Permission denied"):
            transport.fetch(str(tmp_path / "there"), ["a", "not there"], tmp_path / "back")
        assert (tmp_path / "back" / "a").read_text() == "x"
    finally:
        (tools / name).unlink()
