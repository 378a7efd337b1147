"""What users tell the remote tests through variables, and the script that brings Slurm up by hand."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import remote_systems
from clusters.places import free_ports
from clusters.slurm import SCRIPT, SlurmCluster


def test_the_dummy_configuration_is_valid(expyre_dummy_config: Path) -> None:
    from expyre import config

    assert config.project().root == expyre_dummy_config / ".expyre"
    assert config.systems is not None
    assert set(config.systems["_sys_default"].partitions or ()) == {"node16", "node36"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with systems."""
    (tmp_path / ".expyre").mkdir()
    systems = {"big": {}, "_comment": {}, "removed": None, "small": {}}
    (tmp_path / ".expyre" / "config.json").write_text(json.dumps({"systems": systems}))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("EXPYRE_PYTEST_SYSTEMS", raising=False)
    return tmp_path


def test_systems_are_selected_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remote_systems.selected_names() == ["big", "small", "local"]
    monkeypatch.setenv("EXPYRE_PYTEST_SYSTEMS", "^(b|_c)")
    assert remote_systems.selected_names() == ["big"]
    (home / ".expyre" / "config.json").unlink()
    assert remote_systems.selected_names() == []


_SIZES = {"big": [{"num_nodes": 1}, {"num_nodes": 1000}]}


@pytest.fixture(params=["text", "file"])
def sizes(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sizes.json").write_text(json.dumps(_SIZES))
    value = json.dumps(_SIZES) if request.param == "text" else str(tmp_path / "sizes.json")
    monkeypatch.setenv("EXPYRE_PYTEST_QUEUED_JOB_RESOURCES", value)
    monkeypatch.setenv("EXPYRE_PYTEST_MAX_NUM_NODES", "5")


@pytest.mark.usefixtures("sizes")
def test_sizes_of_jobs_are_the_users(
    queued_job_resources: Callable[[str], tuple[Any, Any]], max_num_nodes: int
) -> None:
    assert queued_job_resources("big") == ({"num_nodes": 1}, {"num_nodes": 1000})
    assert queued_job_resources("other")[1] is None
    assert max_num_nodes == 5


def test_remote_info_is_completed(
    remoteinfo_env: Callable[[dict[str, Any]], None], repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"resources": {"max_time": "1h"}, "exact_fit": False, "env_vars": ["A=1"]}
    monkeypatch.setenv("WFL_PYTEST_EXPYRE_INFO", json.dumps(extra))
    info = {"resources": {"max_time": "5m", "num_nodes": 1}, "exact_fit": True}
    remoteinfo_env(info)
    assert info["resources"] == {"max_time": "1h", "num_nodes": 1}
    assert info["exact_fit"] is False
    assert info["env_vars"] == ["A=1", f"PYTHONPATH={repo_root}:$PYTHONPATH"]


def test_slurm_starts_and_stops_by_hand_any_number_of_times(tmp_path_factory: pytest.TempPathFactory) -> None:
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("s")

    def slurm(command: str, port: int = 0) -> None:
        env = os.environ | {"SLURM_PORT": str(port), "SLURM_NODES": "1"}
        subprocess.run([SCRIPT, command, directory], env=env, check=True, timeout=120)

    try:
        with free_ports(5) as port:
            slurm("start", port)
            slurm("start", port)
        subprocess.run(["squeue"], env=os.environ | {"SLURM_CONF": str(directory / "slurm.conf")}, check=True)
    finally:
        slurm("stop")
    slurm("stop")
    assert not [path for path in Path("/proc").glob("[0-9]*/cwd") if _leads_to(path, directory)]


def _leads_to(link: Path, directory: Path) -> bool:
    try:
        return os.readlink(link).startswith(str(directory))
    except OSError:
        return False
