"""Slurm behind SSH: a login of its own to this machine whose commands know the cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusters.slurm import SlurmCluster
from clusters.sshd import Sshd, missing, private_sshd

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["SlurmOverSsh", "commands", "make_project", "missing", "slurm_login", "slurm_system"]

REPO = Path(__file__).resolve().parent.parent.parent
HEADER = (
    "#SBATCH --partition={partition}",
    "#SBATCH --nodes={num_nodes}",
    "#SBATCH --ntasks-per-node={num_cores_per_node}",
)


def commands() -> list[str]:
    """Return the lines that make ``python3`` the interpreter of the tests, with the packages of this repository."""
    return [
        f"export PATH={Path(sys.executable).parent}:$PATH",
        f"export PYTHONPATH={REPO}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]


def slurm_system(
    cluster: SlurmCluster, rundir: Path | str | None, host: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return the configuration of a system whose jobs run on a cluster; ``more`` are further keys."""
    node = {"num_cores": cluster.cpus, "max_time": "24h", "max_mem": "16000MB"}
    return {
        "host": host,
        "scheduler": "slurm",
        "header": list(HEADER),
        "commands": commands(),
        "rundir": None if rundir is None else str(rundir),
        "partitions": {
            "normal": node,
            "debug": {**node, "max_time": "30m"},
            "gpu": {**node, "num_gpus": 2},
        },
        **more,
    }


def make_project(root: Path, systems: Mapping[str, Mapping[str, Any]]) -> Project:
    """Write the configuration of a project in a directory, make it the default project and return it."""
    from expyre import config

    (root / ".expyre").mkdir(parents=True, exist_ok=True)
    (root / ".expyre" / "config.json").write_text(json.dumps({"systems": systems}, indent=2))
    config.init(root / ".expyre")
    return config.project()


@dataclass
class SlurmOverSsh:
    """A cluster and the login to it.

    Attributes
    ----------
    cluster
        The cluster.
    host
        What ssh calls the login.
    server
        Its server, which tests may stop and start.
    """

    cluster: SlurmCluster
    host: str
    server: Sshd

    @property
    def ssh_config(self) -> Path:
        """The file that tells ssh of the host."""
        return self.server.config

    @property
    def environment(self) -> dict[str, str]:
        """Variables that connections from this process need."""
        return {"EXPYRE_SSH_CONFIG": str(self.ssh_config)}

    def system(self, rundir: Path | str, transport: str = "paramiko", **more: Any) -> dict[str, Any]:
        """Return the configuration of a system that goes through the login."""
        return slurm_system(self.cluster, rundir, self.host, transport=transport, **more)


_HOST = "wfl-slurm"


@contextmanager
def slurm_login(cluster: SlurmCluster) -> Iterator[SlurmOverSsh]:
    """Give a login for whoever runs the tests, whose PATH and variables are its own."""
    settings = f"SetEnv SHLVL=5 SLURM_CONF={cluster.conf} PATH=/usr/bin:/bin:/usr/sbin:/sbin"
    with private_sshd({_HOST: settings}) as server:
        yield SlurmOverSsh(cluster, _HOST, server)
