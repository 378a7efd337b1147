"""What every way to a host promises, over each of them."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expyre.errors import TransportError
from expyre.transports import Transport

pytest_plugins = ["ssh_fixtures"]

SLOW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
_HOSTILE = [
    "$(touch /tmp/x)",
    "`id`",
    "'; exit 9; '",
    '"',
    "\\",
    "!x",
    "%s",
    "-rf",
    "~",
    "*",
    "a\nb",
    " ",
    "é",
    "\udcff",
]
texts = st.lists(st.sampled_from(_HOSTILE) | st.text(st.characters(exclude_characters="\0", codec="utf-8"))).map(
    "".join
)
names = texts.map(lambda text: text.replace("/", "|")).filter(
    lambda text: text not in ("", ".", "..") and len(os.fsencode(text)) < 200
)


@pytest.fixture
def far(tmp_path: Path) -> str:
    """A directory on the host that is not there yet, with an ugly name."""
    return str(tmp_path / "far it's $(here)\n!")


def test_a_script_runs_in_the_home_with_its_input(transport: Transport) -> None:
    done = transport.run("pwd; cat; echo wrong >&2; exit 3", b"\xff input")
    assert done.stdout == os.fsencode(Path.home()) + b"\n\xff input"
    assert (done.returncode, done.stderr) == (3, b"wrong\n")


def test_each_call_that_crosses_the_wire_is_counted(transport: Transport, far: str, tmp_path: Path) -> None:
    before = transport.round_trips
    transport.run("true")
    (tmp_path / "file").touch()
    transport.send([(tmp_path / "file", "x")], far)
    transport.fetch(far, ["x"], tmp_path / "back")
    assert transport.round_trips - before == (0 if transport.host is None else 3)


@pytest.mark.parametrize("size", [10_000, 3_000_000])
def test_a_script_may_be_of_any_length(transport: Transport, size: int) -> None:
    script = "\n".join(f": line {i} é {'x' * 1000}" for i in range(size // 1000)) + "\ncat; echo end"
    assert transport.run(script, b"input ").text == "input end\n"


@pytest.mark.parametrize(
    ("script", "status"), [("exit 255", 255), ("kill -9 $BASHPID", 137), ("exec sh -c 'exit 7'", 7), ("exec true", 0)]
)
def test_the_exit_status_is_that_of_the_script(transport: Transport, script: str, status: int) -> None:
    assert transport.run(script).returncode % 256 in (status, -9 % 256)


def test_a_script_that_is_not_well_formed_fails_by_itself(transport: Transport) -> None:
    done = transport.run("if true; then echo ' \"")
    assert done.returncode != 0
    assert "unexpected" in done.error_text


def test_input_that_nobody_reads_is_no_trouble(transport: Transport) -> None:
    assert transport.run("echo done", bytes(5_000_000)).text == "done\n"


def test_much_goes_both_ways_at_once(transport: Transport) -> None:
    data = os.urandom(3_000_000)
    done = transport.run("tee /dev/stderr", data)
    assert done.stdout == data
    assert done.stderr == data


@SLOW
@given(data=st.binary(max_size=3000), status=st.integers(0, 255))
def test_any_bytes_pass(transport: Transport, data: bytes, status: int) -> None:
    done = transport.run(f"tee /dev/stderr; exit {status}", data)
    assert (done.stdout, done.stderr, done.returncode) == (data, data, status)


@SLOW
@given(text=texts, value=texts)
def test_quoted_words_arrive_as_they_are(transport: Transport, text: str, value: str) -> None:
    script = f"export HOSTILE={shlex.quote(value)}\nprintf '%s\\0' {shlex.quote(text)}; sh -c 'printf %s \"$HOSTILE\"'"
    assert transport.run(script).text == f"{text}\0{value}"


def test_a_script_that_takes_too_long_is_killed_with_its_children(transport: Transport, tmp_path: Path) -> None:
    begin, pid = time.monotonic(), tmp_path / "pid"
    for seconds in (1, 10, 60):  # the machine may stand still before the script begins
        with pytest.raises(TransportError, match=f"{seconds} s") as caught:
            transport.run(f"sleep 300 & echo $! > {pid}; sleep 300", timeout=seconds)
        assert caught.value.transient
        if pid.exists() and pid.read_text():
            break
    while _lives(int(pid.read_text())):
        assert time.monotonic() - begin < 200
        time.sleep(0.02)
    assert transport.run("echo still there", timeout=100).text == "still there\n"


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    job = tmp_path / "stage" / "run_it's $(a) job"
    (job / "sub" / "empty").mkdir(parents=True)
    (job / "sub" / "file +\n").write_bytes(b"\0data")
    (job / "big").write_bytes(os.urandom(300_000))
    (job / "_expyre_job_key").write_text("secret")
    (job / "_expyre_job_key").chmod(0o600)
    (job / "tool").write_text("#!/bin/sh\n")
    (job / "tool").chmod(0o755)
    (job / "dangling").symlink_to("nowhere")
    return job


def test_trees_go_there_and_come_back(transport: Transport, tree: Path, far: str) -> None:
    transport.send([(tree, tree.name), (tree / "sub", "other"), (tree / "big", "some/where/big")], far)
    remote = Path(far)
    assert (remote / tree.name / "sub" / "file +\n").read_bytes() == b"\0data"
    assert (remote / "other" / "empty").is_dir()
    assert (remote / "some/where/big").read_bytes() == (tree / "big").read_bytes()
    assert (remote.stat().st_mode & 0o777, (remote / tree.name).stat().st_mode & 0o777) == (0o700, 0o700)
    assert (remote / tree.name / "_expyre_job_key").stat().st_mode & 0o777 == 0o600
    assert os.access(remote / tree.name / "tool", os.X_OK)
    (remote / tree.name / "_expyre_job_succeeded").write_text("result")
    (remote / tree.name / "sub" / "file +\n").write_bytes(b"changed")
    (remote / tree.name / "sub" / "_expyre_job_key").write_text("forged")
    (remote / tree.name / "_expyre_job_key").write_text("forged")
    (remote / tree.name / "big").unlink()
    transport.fetch(far, [tree.name, "not there"], tree.parent, exclude=["_expyre_job_key"])
    assert (tree / "_expyre_job_succeeded").read_text() == "result"
    assert (tree / "sub" / "file +\n").read_bytes() == b"changed"
    assert (tree / "_expyre_job_key").read_text() == "secret"
    assert not (tree / "sub" / "_expyre_job_key").exists()
    assert (tree / "big").stat().st_size == 300_000
    assert sorted(os.listdir(tree.parent)) == [tree.name]
    assert not [name for name in os.listdir(tree) if name.startswith(".tmp")]


def test_what_is_there_is_merged_with_and_replaced(transport: Transport, tree: Path, far: str) -> None:
    transport.send([(tree, "job")], far)
    (Path(far) / "job" / "theirs").write_text("kept")
    (tree / "big").write_bytes(b"new")
    (tree / "big").chmod(0o400)
    for _ in range(2):
        transport.send([(tree, "job")], far)
    assert (Path(far) / "job" / "theirs").read_text() == "kept"
    assert (Path(far) / "job" / "big").read_bytes() == b"new"


def test_equal_files_become_files_of_their_own(transport: Transport, tmp_path: Path, far: str) -> None:
    content = os.urandom(10_000)
    for name in ("a", "b", "it's c"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "input").write_bytes(content)
    (tmp_path / "b" / "deep" / "input").chmod(0o755)
    (tmp_path / "a" / "_expyre_shared_x").write_bytes(content)
    os.link(tmp_path / "a" / "_expyre_shared_x", tmp_path / "b" / "_expyre_shared_x")
    sources = [(tmp_path / name, name) for name in ("a", "b", "it's c")]
    transport.send([*sources, (tmp_path / "a" / "deep" / "input", "new place/input")], far)
    files = [Path(far) / name / "deep" / "input" for name in ("a", "b", "it's c")]
    assert all(file.read_bytes() == content for file in (*files, Path(far) / "new place/input"))
    assert len({file.stat().st_ino for file in files}) == 3
    assert os.access(files[1], os.X_OK)
    assert len({round(file.stat().st_mtime) for file in files}) <= 2
    assert (Path(far) / "b" / "_expyre_shared_x").read_bytes() == content


@SLOW
@given(
    files=st.lists(names, min_size=1, max_size=8, unique=True),
    job=names,
    data=st.binary(max_size=50),
    exclude=st.lists(names, max_size=2),
)
def test_any_name_goes_there_and_comes_back(
    transport: Transport, files: list[str], job: str, data: bytes, exclude: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        here, there, back = (Path(directory, name) for name in ("here", "there", "back"))
        (here / job).mkdir(parents=True)
        for file in files:
            (here / job / file).write_bytes(data + os.fsencode(file))
        transport.send([(here / job, job)], f"{there}/{job}")
        exclude = [name for name in exclude if name != job]
        transport.fetch(f"{there}/{job}", [job], back, exclude=exclude)
        expected = {file: data + os.fsencode(file) for file in files if file not in exclude}
        assert {name: (back / job / name).read_bytes() for name in os.listdir(back / job)} == expected


def test_only_what_was_asked_for_comes(transport: Transport, tmp_path: Path, far: str) -> None:
    for name in ("a", "ab", "-c", "[a]*"):
        (Path(far) / name).mkdir(parents=True)
        (Path(far) / name / "file").write_text(name)
        (Path(far) / name / "[x]*").write_text("literally")
        (Path(far) / name / "xx").write_text("no pattern")
    transport.fetch(far, ["a", "-c", "[a]*", "no such"], tmp_path / "back", exclude=["[x]*"])
    assert sorted(os.listdir(tmp_path / "back")) == ["-c", "[a]*", "a"]
    assert sorted(os.listdir(tmp_path / "back" / "-c")) == ["file", "xx"]


def test_nothing_to_fetch_is_no_trouble(transport: Transport, tmp_path: Path, far: str) -> None:
    transport.fetch(far, ["a"], tmp_path / "back")
    transport.fetch(str(tmp_path), ["no such"], tmp_path / "back")
    transport.fetch(str(tmp_path), [], tmp_path / "back")
    assert not list((tmp_path / "back").glob("*"))


def test_a_place_that_cannot_be_written_is_named_and_not_tried_again(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    before = transport.round_trips
    with pytest.raises(TransportError, match="/proc/nowhere") as caught:
        transport.send([(tmp_path / "file", "name")], "/proc/nowhere")
    assert not caught.value.transient
    assert transport.round_trips - before <= 1
    (tmp_path / "back").write_text("in the way")
    with pytest.raises(TransportError, match="back"):
        transport.fetch(str(tmp_path), ["file"], tmp_path / "back")


def test_directories_are_below_the_home(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with tempfile.TemporaryDirectory(prefix=".expyre it's ", dir=Path.home()) as directory:
        name = Path(directory).name
        for place in (f"{name}/a", f"~/{name}/b", f"$HOME/{name}/c"):
            transport.send([(tmp_path / "file", "file")], place)
            transport.fetch(place, ["file"], tmp_path / place[-1])
        assert sorted(os.listdir(directory)) == ["a", "b", "c"]
    assert all((tmp_path / name / "file").exists() for name in "abc")


def test_a_closed_way_opens_again(transport: Transport) -> None:
    transport.close()
    transport.close()
    assert transport.run("echo again").text == "again\n"
