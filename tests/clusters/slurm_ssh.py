"""Slurm behind SSH: a login of its own to this machine whose commands know the cluster."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusters.places import Place, free_ports
from clusters.slurm import SlurmCluster, until

if TYPE_CHECKING:
    from expyre.config import Project

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
    ssh_config
        The file that says so.
    environment
        Variables that connections from this process need.
    """

    cluster: SlurmCluster
    host: str
    ssh_config: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment |= {"EXPYRE_SSH_CONFIG": str(self.ssh_config)}

    def system(self, rundir: Path | str, transport: str = "paramiko", **more: Any) -> dict[str, Any]:
        """Return the configuration of a system that goes through the login."""
        return slurm_system(self.cluster, rundir, self.host, transport=transport, **more)


_SSHD = "/usr/sbin/sshd"
_HOST = "wfl-slurm"


def missing() -> str:
    """Say what is missing for a login; nothing if there can be one."""
    programs = [name for name in (_SSHD, "ssh", "ssh-keygen") if shutil.which(name) is None]
    return f"needs {', '.join(programs)}" if programs else ""


@contextmanager
def slurm_login(cluster: SlurmCluster) -> Iterator[SlurmOverSsh]:
    """Give a login for whoever runs the tests, whose PATH and variables are its own."""
    place = Place("login", ["bash", "-c", '[ -s "$0/pid" ] && kill "$(cat "$0/pid")"'])
    try:
        with free_ports(1) as port:
            _start_sshd(place.path, port, cluster)
        yield SlurmOverSsh(cluster, _HOST, place.path / "ssh_config")
    finally:
        place.close()


def _start_sshd(path: Path, port: int, cluster: SlurmCluster) -> None:
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path / name)], check=True)
    kind, key = (path / "host_key.pub").read_text().split()[:2]
    (path / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (path / "sshd_config").write_text(_SERVER.format(path=path, port=port, user=getpass.getuser(), conf=cluster.conf))
    (path / "ssh_config").write_text(_CLIENT.format(host=_HOST, path=path, port=port, user=getpass.getuser()))
    Path("/run/sshd").mkdir(exist_ok=True) if getpass.getuser() == "root" else None
    done = subprocess.run([_SSHD, "-f", path / "sshd_config", "-E", path / "log"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    until(lambda: _listens(port), "the start of sshd")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {path}/host_key
PidFile {path}/pid
AuthorizedKeysFile {path}/user_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
AllowUsers {user}
UseDNS no
StrictModes no
PrintMotd no
PrintLastLog no
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org
MaxSessions 100
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv SLURM_CONF={conf} PATH=/usr/bin:/bin:/usr/sbin:/sbin
"""

_CLIENT = """\
Host {host}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {path}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {path}/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""
