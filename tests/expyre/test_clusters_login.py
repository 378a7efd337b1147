"""A login to the Slurm of the tests, projects on it, and the home directory in which the remote tests run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clusters import slurm_ssh
from clusters.slurm import SlurmCluster
from clusters.slurm_ssh import SlurmOverSsh

from expyre.func import ExPyRe

if TYPE_CHECKING:
    from expyre.config import Project


@pytest.mark.parametrize("transport", ["paramiko", "openssh", "local"])
def test_a_project_runs_calls(slurm_over_ssh: Callable[..., Project], transport: str, change_test_dir: Path) -> None:
    project = slurm_over_ssh(transport)
    assert project.root == change_test_dir / ".expyre"
    job = ExPyRe("job", function=os.getenv, args=["SLURM_JOB_PARTITION"])
    job.start({"max_time": "5m", "num_nodes": 1, "partitions": "gpu"}, "slurm")
    assert job.get_results(timeout=200, check_interval=1, quiet=True)[0] == "gpu"
    assert list((change_test_dir / "rundir").glob("*/run_job_*"))


def test_the_login_has_a_path_of_its_own(slurm_login: SlurmOverSsh) -> None:
    command = [
        "ssh",
        "-F",
        str(slurm_login.ssh_config),
        slurm_login.host,
        "/bin/sh -c 'echo $SLURM_CONF; sinfo -h -o %P'",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(slurm_login.cluster.conf), "normal*", "debug", "gpu", "spare"]


def test_a_server_that_was_away_is_there_again(
    slurm_login: SlurmOverSsh, slurm_over_ssh: Callable[..., Project], change_test_dir: Path
) -> None:
    slurm_over_ssh("paramiko")
    job = ExPyRe("away", function=math.sqrt, args=[4.0])
    job.start({"max_time": "5m", "num_nodes": 1}, "slurm")
    slurm_login.server.stop()
    slurm_login.server.start()
    assert job.get_results(timeout=200, check_interval=1, quiet=True)[0] == 2.0


def test_remote_tests_run_in_a_home_of_their_own(repo_root: Path) -> None:
    if reason := SlurmCluster.missing() or slurm_ssh.missing():
        pytest.skip(reason)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--runremote",
        "--basetemp",
        "@HOME@/pytest",
    ]
    words += ["tests/expyre/test_remote_systems.py", "-k", "gives_its_value or waiting or test_clean"]
    script = repo_root / "tests" / "clusters" / "remote_home.py"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "EXPYRE", "WFL"))}
    env["EXPYRE_PYTEST_SYSTEMS"] = "paramiko|local"
    done = subprocess.run(
        [sys.executable, str(script), *words], cwd=repo_root, env=env, capture_output=True, text=True, check=False
    )
    # nothing is known to wait on the local system; test_clean is without --clean
    assert "3 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "2 xfailed" in done.stdout
