"""Results on disk: only their owner gets at them, and only what was written is read."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from expyre.errors import RequestError
from expyre.executor.cache.results import MISSING, Results


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("results/??/*") if path.is_file())


def test_only_the_owner_can_read_what_is_kept(tmp_path: Path) -> None:
    os.umask(os.umask(0))
    Results(tmp_path / "kept").store("key", 1)
    for path in (tmp_path / "kept").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_is_unpickled_that_was_not_written_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    other = Results(tmp_path / "other")
    other.store("key", Bomb())
    results = Results(tmp_path / "kept")
    results.store("key", "good")
    [mine], [forged] = files(tmp_path / "kept"), files(tmp_path / "other")
    mine.write_bytes(forged.read_bytes())
    assert results.load("key") is MISSING
    assert not (tmp_path / "exploded").exists()
    assert "altered" in caplog.text


@pytest.mark.parametrize("value", ["short", b"x" * 100_000, np.ones(50_000)], ids=["short", "bytes", "array"])
def test_no_damaged_file_is_a_result(tmp_path: Path, value: object) -> None:
    logging.disable(logging.WARNING)
    try:
        results = Results(tmp_path)
        results.store("key", value)
        [path] = files(tmp_path)
        whole = path.read_bytes()
        step = max(1, len(whole) // 60)
        for place in range(0, len(whole), step):
            path.write_bytes(whole[:place])
            assert results.load("key") is MISSING
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert results.load("key") is MISSING
        path.write_bytes(whole + b"\0")
        assert results.load("key") is MISSING
        path.write_bytes(whole)
        assert np.array_equal(results.load("key"), value)
    finally:
        logging.disable(logging.NOTSET)


def test_files_of_two_keys_cannot_be_swapped(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.store("one", 1)
    [one] = files(tmp_path)
    results.store("two", 2)
    [two] = [path for path in files(tmp_path) if path != one]
    two.write_bytes(one.read_bytes())
    assert (results.load("one"), results.load("two")) == (1, MISSING)


def test_links_and_files_that_others_may_write_are_refused(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.store("key", 1)
    [path] = files(tmp_path)
    path.chmod(0o620)
    assert results.load("key") is MISSING
    path.chmod(0o600)
    assert results.load("key") == 1
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert results.load("key") is MISSING


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_others_are_refused(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.store("key", 1)
    [path] = files(tmp_path)
    os.chown(path, 12345, -1)
    assert results.load("key") is MISSING
    os.chown(tmp_path / "results", 12345, -1)
    with pytest.raises(RequestError, match="yours"):
        Results(tmp_path)
