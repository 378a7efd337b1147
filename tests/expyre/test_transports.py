"""The way to this machine: what every transport promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from expyre.errors import ConfigError, TransportError
from expyre.transports import LocalTransport, connect


def test_a_script_runs_in_the_home_with_its_input() -> None:
    done = LocalTransport().run("pwd; cat; echo wrong >&2; exit 3", b"\xff input")
    assert done.stdout == os.fsencode(Path.home()) + b"\n\xff input"
    assert (done.returncode, done.error_text) == (3, "wrong")


def test_a_script_may_be_of_any_length() -> None:
    script = "\n".join(f": line {i} {'x' * 80}" for i in range(20_000)) + "\ncat; echo end"
    assert LocalTransport().run(script, b"input ").text == "input end\n"


def test_a_script_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(TransportError, match=r"0\.3 s") as caught:
        LocalTransport().run(f"(sleep 1; touch {tmp_path}/late) & sleep 60", timeout=0.3)
    assert caught.value.transient
    assert time.monotonic() - begin < 40
    time.sleep(1)
    assert not (tmp_path / "late").exists()


def test_trees_go_there_and_come_back(tmp_path: Path) -> None:
    job = tmp_path / "stage" / "run_it's $(a) job"
    (job / "sub").mkdir(parents=True)
    (job / "sub" / "file +\n").write_bytes(b"\0data")
    (job / "_expyre_job_key").write_text("secret")
    os.chmod(job / "_expyre_job_key", 0o600)
    (job / "dangling").symlink_to("nowhere")
    remote = tmp_path / "remote dir"
    transport = LocalTransport()
    transport.send([(job, job.name), (job / "sub", "other")], str(remote))
    assert (remote / job.name / "sub" / "file +\n").read_bytes() == b"\0data"
    assert (remote / "other" / "file +\n").exists()
    assert (remote.stat().st_mode & 0o777, (remote / job.name).stat().st_mode & 0o777) == (0o700, 0o700)
    assert (remote / job.name / "_expyre_job_key").stat().st_mode & 0o777 == 0o600
    (remote / job.name / "_expyre_job_succeeded").write_text("result")
    (remote / job.name / "sub" / "file +\n").write_bytes(b"changed")
    (remote / job.name / "_expyre_job_key").write_text("forged")
    transport.fetch(str(remote), [job.name, "not there"], job.parent, exclude=["_expyre_job_key"])
    assert (job / "_expyre_job_succeeded").read_text() == "result"
    assert (job / "sub" / "file +\n").read_bytes() == b"changed"
    assert (job / "_expyre_job_key").read_text() == "secret"
    assert not [name for name in os.listdir(job) if name.startswith(".tmp")]


def test_relative_directories_are_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("x")
    for place in ("run_expyre/a", "~/b", "$HOME/c"):
        LocalTransport().send([(tmp_path / "file", "name")], place)
    assert all((tmp_path / place / "name").exists() for place in ("run_expyre/a", "b", "c"))
    assert LocalTransport().run("pwd").text.strip() == str(tmp_path)


def test_a_place_that_cannot_be_written_is_named_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TransportError, match="/proc/nowhere") as caught:
        LocalTransport().send([(tmp_path / "file", "name")], "/proc/nowhere")
    assert not caught.value.transient
    with pytest.raises(TransportError, match="missing"):
        LocalTransport().send([(tmp_path / "file", "name")], str(tmp_path / "file" / "missing"))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs to mount a small file system")
def test_a_full_disk_is_named_and_leaves_no_half_file(tmp_path: Path) -> None:
    small, big = tmp_path / "small", tmp_path / "big"
    small.mkdir()
    big.write_bytes(b"x" * 200_000)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        with pytest.raises(TransportError, match="No space left") as caught:
            LocalTransport().send([(big, "name")], str(small))
        assert str(small / "name") in str(caught.value)
        assert not caught.value.transient
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_way_to_a_host_is_chosen() -> None:
    assert isinstance(connect(None), LocalTransport)
    with pytest.raises(ConfigError, match="smoke signals"):
        connect("host", "smoke signals")
