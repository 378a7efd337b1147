"""The way to this machine, and which way is chosen."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from expyre.errors import ConfigError, TransportError
from expyre.transports import LocalTransport, OpenSSHTransport, ParamikoTransport, connect


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
    for host, kind, words in [
        ("host", "smoke signals", "smoke signals"),
        (None, "openssh", "this machine"),
        ("host", "local", "host"),
        ("-oProxyCommand=x", None, "not the name"),
    ]:
        with pytest.raises(ConfigError, match=words):
            connect(host, kind)
    with pytest.raises(ConfigError, match="empty"):
        connect("host", remsh_cmd=" ")
    assert isinstance(connect("host"), ParamikoTransport)
    assert isinstance(connect("host", "openssh"), OpenSSHTransport)
    assert isinstance(connect("host", remsh_cmd="rsh -x"), OpenSSHTransport)
