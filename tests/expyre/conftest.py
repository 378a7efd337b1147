"""Fixtures of the tests of expyre."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def expyre_dummy_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the configuration in tests/assets/expyre_dummy_config.json; returns its directory."""
    from expyre import config

    (tmp_path / ".expyre").mkdir()
    asset = Path(__file__).resolve().parent.parent / "assets" / "expyre_dummy_config.json"
    shutil.copy(asset, tmp_path / ".expyre" / "config.json")
    monkeypatch.setattr(config, "_current", None)
    config.init(tmp_path / ".expyre")
    return tmp_path


@pytest.fixture
def own_claims(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no executor outside of the test hold cores or GPUs; processes that it starts see those of the test."""
    directory = str(tmp_path_factory.mktemp("claims"))
    monkeypatch.setattr(tempfile, "tempdir", directory)
    monkeypatch.setenv("TMPDIR", directory)
