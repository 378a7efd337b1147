"""The content of copies is read once, unless they have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expyre.stage import copy_glob
from expyre.transports import digests


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], list[Path]]:
    """Three copies of a large file, and the list of those files that have been read since."""
    (tmp_path / "potential").write_bytes(b"p" * 100_000)
    found = [tmp_path / name / "potential" for name in "abc"]
    for path in found:
        copy_glob(tmp_path, path.parent, "potential")
    was_read: list[Path] = []
    read = digests._read
    monkeypatch.setattr(digests, "_read", lambda path: (was_read.append(path), read(path))[1])
    return found, was_read


def digest(path: Path) -> bytes:
    return digests.digest(path, path.stat())


def test_one_of_many_copies_is_read(copies: tuple[list[Path], list[Path]]) -> None:
    paths, was_read = copies
    assert len({digest(path) for path in paths}) == 1
    assert len(was_read) == 1


def test_a_copy_that_was_changed_is_read(copies: tuple[list[Path], list[Path]]) -> None:
    paths, was_read = copies
    paths[1].write_bytes(b"q" * 100_000)
    assert len({digest(path) for path in paths}) == 2
    assert paths[1] in was_read


def test_copies_made_before_and_after_a_change_differ(copies: tuple[list[Path], list[Path]]) -> None:
    paths, _ = copies
    source = paths[0].parent.parent / "potential"
    source.write_bytes(b"q" * 100_000)
    later = source.stat().st_mtime + 1
    os.utime(source, (later, later))
    copy_glob(source.parent, source.parent / "d", "potential")
    assert digest(source.parent / "d" / "potential") != digest(paths[0])
