"""Run a command in a new home directory whose ``.expyre/config.json`` has real systems: a Slurm, also over SSH.

    remote_home.py pytest --runremote --basetemp @HOME@/pytest

is what users do to run the remote tests on their own systems. ``@HOME@`` in words stands for the directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clusters import slurm_ssh
from clusters.slurm import SlurmCluster, running_slurm
from clusters.slurm_ssh import SlurmOverSsh, slurm_login, slurm_system

# what is meant for the partition of this name in the configuration begins late
_LATE = {
    "late": {
        "num_cores": 8,
        "max_time": "1h",
        "max_mem": "16000MB",
        "partition": "normal",
        "header": ["#SBATCH --begin=now+1hour"],
    }
}
_SIZES = [{"max_time": "5m", "num_nodes": 1}, {"max_time": "5m", "num_nodes": 1, "partitions": "late"}]


def main(words: list[str]) -> int:
    """Run a command; return its exit status."""
    with tempfile.TemporaryDirectory(prefix="wfl-home-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        if reason := SlurmCluster.missing() or slurm_ssh.missing():
            print(f"without Slurm: {reason}", file=sys.stderr)
            return run(words, home, {}, {})
        with running_slurm() as cluster, slurm_login(cluster) as login:
            return run(words, home, systems(home, cluster, login), cluster.env() | login.environment)


def systems(home: Path, cluster: SlurmCluster, login: SlurmOverSsh) -> dict[str, Any]:
    """Return the systems of the configuration."""
    found = {
        "slurm": slurm_system(cluster, home / "run_here"),
        "slurm_paramiko": login.system(home / "run_paramiko"),
        "slurm_openssh": login.system(home / "run_openssh", "openssh"),
        "_not_for_tests": slurm_system(cluster, None, "no.such.host.invalid"),
    }
    for system in found.values():
        system["partitions"] |= _LATE
    return found


def run(words: list[str], home: Path, systems: dict[str, Any], variables: dict[str, str]) -> int:
    """Write the configuration and run the command."""
    (home / ".expyre").mkdir()
    (home / ".expyre" / "config.json").write_text(json.dumps({"systems": systems}, indent=2))
    variables |= {
        "HOME": str(home),
        "EXPYRE_PYTEST_QUEUED_JOB_RESOURCES": json.dumps(dict.fromkeys(systems, _SIZES)),
        "WFL_PYTEST_EXPYRE_INFO": json.dumps({"resources": {"max_time": "10m"}, "check_interval": 2}),
        "EXPYRE_LOCAL_IDLE": "5",
        "EXPYRE_PYTEST_WAIT": "200",
    }
    words = [word.replace("@HOME@", str(home)) for word in words]
    return subprocess.run(words, env=os.environ | variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
