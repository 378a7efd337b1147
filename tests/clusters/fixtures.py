"""Fixtures of the queue systems: started when the first test asks for one, stopped when the tests are over.

Every process of ``pytest -n`` has its own, so that a test may stop a daemon or set a node down.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusters import slurm_ssh
from clusters.reports import note_repairs
from clusters.slurm import SlurmCluster, running_slurm
from clusters.slurm_ssh import SlurmOverSsh, make_project, slurm_system

if TYPE_CHECKING:
    from expyre.config import Project


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A Slurm without accounting."""
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with running_slurm() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_with_accounts() -> Iterator[SlurmCluster]:
    """A Slurm with accounting, whatever the last test did to it."""
    if reason := SlurmCluster.missing(accounting=True):
        pytest.skip(reason)
    with running_slurm(accounting=True) as cluster:
        yield cluster


@contextmanager
def whole(cluster: SlurmCluster, request: pytest.FixtureRequest) -> Iterator[SlurmCluster]:
    """Give a cluster that is whole and has no jobs before the block and after it."""
    known = len(cluster.restarts)
    try:
        cluster.repair()
        yield cluster
        cluster.repair()
    finally:
        note_repairs(request.node, cluster.restarts[known:])


@pytest.fixture
def slurm_accounting(slurm_with_accounts: SlurmCluster, request: pytest.FixtureRequest) -> Iterator[SlurmCluster]:
    """A Slurm with accounting, in which jobs that use more memory than asked for are killed; whole and without jobs."""
    with whole(slurm_with_accounts, request) as cluster:
        yield cluster


@pytest.fixture
def slurm_env(
    slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[SlurmCluster]:
    """The Slurm without accounting for commands of this process, whole and without jobs before and after."""
    for name, value in slurm.env().items():
        monkeypatch.setenv(name, value)
    with whole(slurm, request) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_login(slurm: SlurmCluster) -> Iterator[SlurmOverSsh]:
    """An SSH login to the Slurm without accounting, with variables and a PATH of its own."""
    if reason := slurm_ssh.missing():
        pytest.skip(reason)
    with slurm_ssh.slurm_login(slurm) as login:
        yield login


@pytest.fixture
def slurm_over_ssh(
    slurm_env: SlurmCluster, slurm_login: SlurmOverSsh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Project]]:
    """A function that makes a project of one system ``slurm`` the default project.

    Its parameter ``transport`` is ``paramiko`` or ``openssh``, or ``local`` for commands of this machine; further ones
    are keys of the system. The project is in ``tmp_path``, jobs run in ``tmp_path/rundir``; the cluster is whole and
    empty before the test and after it.
    """
    from expyre import config

    slurm_login.server.repair()
    monkeypatch.setattr(config, "_current", None)
    for name, value in slurm_login.environment.items():
        monkeypatch.setenv(name, value)
    projects = []

    def project(transport: str = "paramiko", **more: object) -> Project:
        if transport == "local":
            system = slurm_system(slurm_env, tmp_path / "rundir", **more)
        else:
            system = slurm_login.system(tmp_path / "rundir", transport, **more)
        projects.append(make_project(tmp_path, {"slurm": system}))
        return projects[-1]

    yield project
    for each in projects:
        each.close()
    kill_scripts(tmp_path)


def kill_scripts(directory: Path) -> None:
    """Kill what a test that failed has left and that would go on submitting jobs."""
    root = f"EXPYRE_ROOT={directory / '.expyre'}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if root in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
