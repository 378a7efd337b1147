"""Hosts to look at: a shell with just the commands that a test wants, and stand-ins for those of queue systems."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

BASICS = (
    "sh", "bash", "id", "hostname", "uname", "date", "dirname", "mkdir", "dd", "rm", "stat", "df", "tail", "head",
    "timeout", "grep", "sed", "nproc", "cat", "env", "sleep", "tar", "gzip", "printf", "nohup",
)  # fmt: skip

OPENPBS_QUEUES = """Queue: workq
    queue_type = Execution
    total_jobs = 3
    state_count = Transit:0 Queued:1 Held:0 Waiting:0 Running:2 Exiting:0 Begun
\t:0
    resources_max.walltime = 48:00:00
    resources_assigned.ncpus = 2
    enabled = True
    started = True

Queue: gpuq
    queue_type = Execution
    resources_max.walltime = 12:00:00
    enabled = True
    started = True

Queue: old
    queue_type = Execution
    enabled = False
    started = True

Queue: router
    queue_type = Route
    route_destinations = workq
    enabled = True
    started = True

"""
OPENPBS_NODES = """n1
     Mom = n1.cluster
     ntype = PBS
     state = free
     pcpus = 32
     resources_available.arch = linux
     resources_available.host = n1
     resources_available.mem = 131072000kb
     resources_available.ncpus = 32
     resources_available.vnode = n1
     resources_assigned.accelerator_memory = 0kb

n2
     Mom = n2.cluster
     state = job-busy
     jobs = 12.vm/0, 12.vm/1
     resources_available.mem = 131072000kb
     resources_available.ncpus = 32

n3
     Mom = n3.cluster
     state = state-unknown,down
     resources_available.mem = 131072000kb
     resources_available.ncpus = 64

g1
     Mom = g1.cluster
     state = free
     queue = gpuq
     resources_available.mem = 262144000kb
     resources_available.ncpus = 16
     resources_available.ngpus = 4

"""
TORQUE_NODES = """n1
     state = free
     power_state = Running
     np = 12
     ntype = cluster
     status = rectime=1500000000,jobs=,state=free,physmem=24641536kb,availmem=3kb,uname=Linux n1
     mom_service_port = 15002
     gpus = 1

"""
PBS_SERVER = """#
# Set server attributes.
#
set server default_queue = workq
set server max_array_size = 10000
"""


class Host:
    """A machine's commands, in one directory.

    Parameters
    ----------
    bin
        The directory.
    """

    def __init__(self, bin: Path) -> None:
        self.bin = bin
        bin.mkdir()
        for name in BASICS:
            found = shutil.which(name)
            if found is not None:
                (bin / name).symlink_to(found)

    def add(self, name: str, text: str, shell: str = "/bin/sh") -> None:
        """Put a command there, in place of the one that is."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shell}\n{text}\n")
        path.chmod(0o755)

    def says(self, name: str, text: str) -> None:
        """Put a command there that prints a text."""
        self.add(name, f"cat <<'END'\n{text}\nEND")

    def python(self, name: str = "python3") -> None:
        """Put the Python of the tests there."""
        self.add(name, f'exec {sys.executable} "$@"')

    def openpbs(self) -> None:
        """Make it a host of OpenPBS."""
        self.says("qsub", "pbs_version = 23.06.06")
        self.add("qdel", "exit 1")
        usage = '-help) echo "qstat: invalid option -- h" >&2; exit 2;;'
        queues = f"-Q) cat <<'END'\n{OPENPBS_QUEUES}END\n;;"
        self.add("qstat", f'case "$1" in\n{usage}\n{queues}\nesac')
        self.says("pbsnodes", OPENPBS_NODES)
        self.says("qmgr", PBS_SERVER)

    def torque(self) -> None:
        """Make it a host of Torque."""
        self.openpbs()
        self.says("qsub", "Version: 6.1.2\nCommit: 661e092")
        self.says("pbsnodes", TORQUE_NODES)


@pytest.fixture
def bare_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with hardly any commands and an empty home directory, which this machine is for the test."""
    host = Host(tmp_path / "bin")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("PATH", str(host.bin))
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("SLURM", "SGE", "PBS"))]:
        monkeypatch.delenv(name)
    return host
