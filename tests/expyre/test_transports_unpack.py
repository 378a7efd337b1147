"""Streams of files from hosts that are not to be trusted."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from expyre.errors import TransportError
from expyre.transports.unpack import Unpacker

Member = tuple[str, bytes | str]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def archive(*members: tarfile.TarInfo, make: Callable[[], bytes] = lambda: b"data") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info in members:
            data = make()
            info.size = len(data) if info.type == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., Unpacker]:
    """A function that unpacks a stream of what was asked for as ``job`` and ``other``."""
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "here" / "job").mkdir(parents=True)

    def unpacked(data: bytes, exclude: tuple[str, ...] = ()) -> Unpacker:
        unpacker = Unpacker(tmp_path / "here", ["job", "other", "a/b"], exclude, "somewhere")
        unpacker.take(io.BytesIO(data))
        return unpacker

    return unpacked


@pytest.mark.parametrize(
    "name",
    ["../victim", "job/../../victim", "/etc/x", "victim", "jobs/x", "..", "job/..", "a/c", "./job/../other/../x"],
)
def test_nothing_goes_where_it_was_not_asked_for(take: Callable[..., Unpacker], tmp_path: Path, name: str) -> None:
    with pytest.raises(TransportError, match="not asked for") as caught:
        take(archive(member(name)))
    assert not caught.value.transient
    assert (tmp_path / "victim").read_text() == "untouched"
    assert sorted(path.name for path in (tmp_path / "here").rglob("*")) == ["job"]


@pytest.mark.parametrize("aim", ["/etc/passwd", "../victim", "../../victim", "sub/../../../victim", "..", "sub/.."])
def test_links_that_lead_outside_are_left_out(take: Callable[..., Unpacker], tmp_path: Path, aim: str) -> None:
    take(archive(member("job/link", tarfile.SYMTYPE, aim), member("job/file")))
    assert os.listdir(tmp_path / "here" / "job") == ["file"]


def test_links_inside_are_taken(take: Callable[..., Unpacker], tmp_path: Path) -> None:
    take(archive(member("job/sub/link", tarfile.SYMTYPE, "../file"), member("job/file")))
    assert (tmp_path / "here" / "job" / "sub" / "link").read_bytes() == b"data"


def test_nothing_is_written_through_a_link(take: Callable[..., Unpacker], tmp_path: Path) -> None:
    here = tmp_path / "here" / "job"
    take(archive(member("job/sub", tarfile.SYMTYPE, "."), member("job/file")))
    assert (here / "sub").is_symlink()
    (here / "out").symlink_to(tmp_path)
    with pytest.raises(TransportError, match="leads out"):
        take(archive(member("job/out/victim")))
    assert (tmp_path / "victim").read_text() == "untouched"
    with pytest.raises(TransportError):
        take(archive(member("job/x", tarfile.SYMTYPE, "file"), member("job/x/y")))
    take(archive(member("job/file", tarfile.SYMTYPE, "other"), member("job/file")))
    assert not (here / "other").exists()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_left_out(take: Callable[..., Unpacker], tmp_path: Path, kind: bytes) -> None:
    take(archive(member("job/device", kind), member("job/file")))
    assert os.listdir(tmp_path / "here" / "job") == ["file"]


def test_nobody_else_is_given_rights(take: Callable[..., Unpacker], tmp_path: Path) -> None:
    take(archive(member("job/tool", mode=0o6777), member("other", tarfile.DIRTYPE, mode=0o7777)))
    assert (tmp_path / "here" / "job" / "tool").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "here" / "other").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("aim", ["../victim", "/etc/passwd", "job/not there"])
def test_hard_links_lead_only_to_what_has_come(take: Callable[..., Unpacker], tmp_path: Path, aim: str) -> None:
    take(archive(member("job/link", tarfile.LNKTYPE, aim), member("job/file")))
    assert os.listdir(tmp_path / "here" / "job") == ["file"]


def test_hard_links_become_files_of_their_own(take: Callable[..., Unpacker], tmp_path: Path) -> None:
    members = [
        member("job/file"),
        member("other", tarfile.DIRTYPE),
        member("other/file", tarfile.LNKTYPE, "./job/file"),
    ]
    take(archive(*members))
    for name in ("job", "other"):
        assert (tmp_path / "here" / name / "file").read_bytes() == b"data"
        assert (tmp_path / "here" / name / "file").stat().st_nlink == 1


def test_what_is_excluded_is_not_taken_whatever_the_host_sends(take: Callable[..., Unpacker], tmp_path: Path) -> None:
    take(archive(member("job/key"), member("job/sub/key"), member("job/key.txt")), ("key",))
    assert [path.name for path in (tmp_path / "here").rglob("*") if path.is_file()] == ["key.txt"]


def _jobs() -> bytes:
    jobs = ("job", "other")
    markers = [member(f"{name}/_expyre_job_done") for name in jobs]
    files = [member(f"{name}/{file}") for name in jobs for file in ("x", "y")]
    return archive(*markers, *files, make=lambda: os.urandom(3000))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_stream_that_breaks_off_leaves_whole_jobs(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack(_jobs())
    seen = set()
    for cut in range(0, len(whole), 611):
        here = tmp_path / f"here{cut}"
        unpacker = Unpacker(here, ["job", "other"], (), "somewhere")
        with pytest.raises(TransportError, match="gone"):
            unpacker.take(_Breaking(whole[:cut]))
        found = {name: sorted(os.listdir(here / name)) for name in os.listdir(here)} if here.exists() else {}
        assert set(found) == unpacker.delivered
        assert all(files == ["_expyre_job_done", "x", "y"] for files in found.values())
        seen |= {frozenset(found)}
    assert frozenset() in seen
    assert frozenset({"job"}) in seen


class _Breaking:
    def __init__(self, data: bytes) -> None:
        self._data = [data[start : start + 500] for start in range(0, len(data), 500)]

    def read(self, size: int = -1) -> bytes:
        if not self._data:
            raise TransportError("gone")
        return self._data.pop(0)


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: data[:40] + b"x" * 50 + data[90:]])
def test_a_garbled_stream_is_worth_another_try(take: Callable[..., Unpacker], spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(TransportError, match="garbled") as caught:
        take(spoil(gzip.compress(_jobs())))
    assert caught.value.transient


@pytest.mark.parametrize("data", [b"", gzip.compress(b"")], ids=["empty", "packed"])
def test_an_empty_stream_brings_nothing(take: Callable[..., Unpacker], data: bytes) -> None:
    assert take(data).delivered == set()


def test_what_killed_scripts_left_is_removed_in_the_end(take: Callable[..., Unpacker], tmp_path: Path) -> None:
    for name in (".expyre_fetch_old", ".expyre_fetch_new", "other old"):
        (tmp_path / "here" / name).mkdir()
    for name in (".expyre_fetch_old", "other old"):
        os.utime(tmp_path / "here" / name, (0, 0))
    take(archive(member("job/file")))
    assert sorted(os.listdir(tmp_path / "here")) == [".expyre_fetch_new", "job", "other old"]


def test_markers_go_into_place_last(
    take: Callable[..., Unpacker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda one, other: (placed.append(os.path.basename(other)), replace(one, other)))
    take(_jobs())
    assert placed == ["x", "y", "_expyre_job_done"] * 2
