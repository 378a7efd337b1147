"""Options, markers and fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["clusters.reports", "clusters.fixtures", "remote_systems"]

# numerical libraries of the workers would compete for the cores; they read this once, when they are loaded
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

_MARKS = {
    "slow": "takes long",
    "remote": "runs on the systems of $HOME/.expyre/config.json",
    "perf": "compares times",
    "mpi": "uses mpirun",
}
# fixtures that bring up a queue system or a server, and how long (s) one test of it may take unless its mark says so
_BEDS = {"slurm", "slurm_accounting", "slurm_env", "slurm_login", "slurm_over_ssh", "sge", "sge_env", "server", "lab"}
_BED_TIMEOUT = 150
_OPTIONS = {"slow": "--runslow", "remote": "--runremote", "perf": "--runperf"}


def pytest_addoption(parser: pytest.Parser) -> None:
    for mark, option in _OPTIONS.items():
        parser.addoption(option, action="store_true", default=False, help=f"run tests marked {mark}: {_MARKS[mark]}")
    parser.addoption("--clean", action="store_true", default=False, help="let test_clean really wipe jobs")
    parser.addoption("--with-mpi", action="store_true", default=False, help="run tests that run under mpirun")


def pytest_configure(config: pytest.Config) -> None:
    for mark, text in _MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not _BEDS.isdisjoint(getattr(item, "fixturenames", ())) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_BED_TIMEOUT))
        for mark, option in _OPTIONS.items():
            if mark in item.keywords and not config.getoption(option):
                item.add_marker(pytest.mark.skip(reason=f"need {option} option to run"))
        if "mpi" in item.keywords and not config.getoption("--with-mpi"):
            item.add_marker(pytest.mark.skip(reason="need --with-mpi option to run"))


@pytest.fixture
def repo_root() -> Path:
    """Directory of the packages."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def change_test_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the test in its own directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
