"""Fixtures of the queue systems: started when the first test asks for one, stopped when the tests are over.

Every process of ``pytest -n`` has its own, so that a test may stop a daemon or set a node down.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clusters.slurm import SlurmCluster, running_slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """A Slurm without accounting."""
    if reason := SlurmCluster.missing():
        pytest.skip(reason)
    with running_slurm() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_accounting() -> Iterator[SlurmCluster]:
    """A Slurm with accounting, in which jobs that use more memory than asked for are killed."""
    if reason := SlurmCluster.missing(accounting=True):
        pytest.skip(reason)
    with running_slurm(accounting=True) as cluster:
        yield cluster


@pytest.fixture
def slurm_env(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The Slurm without accounting for commands of this process, whole and without jobs before and after."""
    for name, value in slurm.env().items():
        monkeypatch.setenv(name, value)
    slurm.repair()
    yield slurm
    slurm.repair()
