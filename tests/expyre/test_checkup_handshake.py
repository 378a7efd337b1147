from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkup_hosts import Host, bare_host  # noqa: F401

from expyre import ExPyRe
from expyre.checkup import forget, handshake
from expyre.checkup.handshake import FILE
from expyre.checkup.handshake import _known as known
from expyre.errors import RequestError, TransportError
from expyre.system import System
from expyre.transports import Completed, LocalTransport


class Counting(LocalTransport):
    """Counts calls, and breaks off those that it is told to."""

    calls = 0
    broken = False

    def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        self.calls += 1
        if self.broken:
            raise TransportError("the line is dead")
        return super().run(script, stdin, timeout)


@pytest.fixture
def slurm_host(bare_host: Host) -> Host:  # noqa: F811
    """A host that has all that a handshake asks for."""
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        bare_host.add(name, "echo slurm 23.02")
    bare_host.python()
    return bare_host


def system(**settings: Any) -> System:
    node = {"num_cores": 8, "max_time": "1h", "max_mem": None}
    made = System(None, "slurm", partitions={"p": node}, **{"commands": ["true"], **settings})
    made._transport = Counting()
    return made


def calls(made: System) -> int:
    return made.transport.calls  # type: ignore[attr-defined,no-any-return]


def new_process() -> None:
    known.clear()


def test_one_round_trip_a_day(slurm_host: Host, tmp_path: Path) -> None:
    made = system()
    for _ in range(3):
        handshake("hpc", made, tmp_path)
    assert calls(made) == 1
    new_process()
    handshake("hpc", made, tmp_path)
    assert calls(made) == 1
    assert (tmp_path / FILE).stat().st_size < 1000


def test_what_was_found_gets_old(slurm_host: Host, tmp_path: Path) -> None:
    made = system()
    handshake("hpc", made, tmp_path)
    new_process()
    entries = json.loads((tmp_path / FILE).read_text())
    for entry in entries.values():
        entry["time"] = time.time() - 25 * 3600
    (tmp_path / FILE).write_text(json.dumps(entries))
    handshake("hpc", made, tmp_path)
    assert calls(made) == 2
    assert len(json.loads((tmp_path / FILE).read_text())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"commands": ["true", "true"]},
        {"rundir": "other"},
        {"script_exec": "/bin/sh"},
        {"pre_submit_cmds": ["true"]},
        {"scheduler_options": None, "rundir_extra": "x", "rundir": "run"},
    ],
)
def test_other_settings_are_looked_at_anew(slurm_host: Host, tmp_path: Path, change: dict[str, Any]) -> None:
    handshake("hpc", system(), tmp_path)
    other = system(**change)
    handshake("hpc", other, tmp_path)
    assert calls(other) == 1


def test_another_python_is_looked_at_anew(slurm_host: Host, tmp_path: Path) -> None:
    slurm_host.python("python3.99")
    made = system()
    for command in ("python3", "python3.99", "python3"):
        handshake("hpc", made, tmp_path, command)
    assert calls(made) == 2


def test_forget(slurm_host: Host, tmp_path: Path) -> None:
    made = system()
    handshake("hpc", made, tmp_path)
    forget(tmp_path)
    forget(tmp_path)
    handshake("hpc", made, tmp_path)
    assert calls(made) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"x": 3}', '{"x": {"time": null}}', '{"x": {"time": "soon"}}', "\xff"]
)
def test_a_damaged_file_costs_a_round_trip(slurm_host: Host, tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    made = system()
    handshake("hpc", made, tmp_path)
    new_process()
    handshake("hpc", made, tmp_path)
    assert calls(made) == 1


def test_everything_certain_is_said_at_once(bare_host: Host, tmp_path: Path) -> None:  # noqa: F811
    made = system(rundir="/proc/nowhere")
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            handshake("hpc", made, tmp_path)
    text = str(caught.value)
    for words in ("sbatch", "/proc/nowhere", "python3 is not found", "systems.hpc.rundir", "`xpr doctor hpc`"):
        assert words in text
    assert calls(made) == 2, "a failure is not remembered"
    assert not (tmp_path / FILE).exists()


def test_commands_of_the_job_may_bring_python(slurm_host: Host, tmp_path: Path) -> None:
    (slurm_host.bin / "python3").unlink()
    with pytest.raises(RequestError, match="python3 is not found"):
        handshake("hpc", system(), tmp_path)
    handshake("hpc", system(), tmp_path, has_pre_commands=True)


def test_an_old_python_is_refused(slurm_host: Host, tmp_path: Path) -> None:
    fake = "import sys; sys.version_info = (3, 6, 8); exec(sys.argv.pop(1))"
    slurm_host.add("python3", f'shift; exec {sys.executable} -c "{fake}" "$@"')
    with pytest.raises(RequestError, match=r"is Python 3\.6\.8, jobs need 3\.9"):
        handshake("hpc", system(), tmp_path)


def test_what_is_not_certain_is_let_through(slurm_host: Host, tmp_path: Path) -> None:
    slurm_host.add("squeue", "echo cannot contact the controller >&2; exit 1")
    handshake("hpc", system(commands=["module load nothing", "exit 0"]), tmp_path)


def test_it_can_be_switched_off(bare_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("EXPYRE_CHECKUP", "off")
    made = system()
    handshake("hpc", made, tmp_path)
    assert calls(made) == 0


def test_the_queue_of_this_machine_needs_none(tmp_path: Path) -> None:
    made = System(None, "local", partitions={})
    made._transport = Counting()
    handshake("local", made, tmp_path)
    assert calls(made) == 0
    assert list(tmp_path.iterdir()) == []


def test_trouble_with_the_connection_passes_through(slurm_host: Host, tmp_path: Path) -> None:
    made = system()
    made.transport.broken = True  # type: ignore[attr-defined]
    with pytest.raises(TransportError, match="the line is dead"):
        handshake("hpc", made, tmp_path)
    made.transport.broken = False  # type: ignore[attr-defined]
    handshake("hpc", made, tmp_path)


def test_a_stage_root_that_cannot_be_written_is_refused(slurm_host: Host) -> None:
    with pytest.raises(RequestError, match="record"):
        handshake("hpc", system(rundir="run"), Path("/proc/nowhere"))


def test_a_script_is_refused_before_anything_is_sent(slurm_over_ssh: Callable[..., Any], tmp_path: Path) -> None:
    new_process()
    project = slurm_over_ssh("paramiko", commands=["true"])
    project.systems["slurm"].remote_rundir = "/proc/nowhere"
    job = ExPyRe("refused", function=os.getcwd)
    for _ in range(2):
        with pytest.raises(RequestError, match="/proc/nowhere"):
            job.start({"num_cores": 1, "max_time": "5m"}, "slurm", partial_node=True)
    assert project.record.row(job.id).status == "created"
    project.systems["slurm"].remote_rundir = str(tmp_path / "mended")
    job.start({"num_cores": 1, "max_time": "5m"}, "slurm", partial_node=True)
    assert job.get_results(timeout=240, check_interval=1, quiet=True)[0] == str(
        tmp_path / "mended" / job.stage_dir.name
    )


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_over_ssh(slurm_over_ssh: Callable[..., Any], transport: str) -> None:
    new_process()
    project = slurm_over_ssh(transport)
    made = project.systems["slurm"]
    before = made.transport.round_trips
    for _ in range(2):
        handshake("slurm", made, project.stage_root)
    assert made.transport.round_trips - before == 1
    assert os.path.exists(project.stage_root / FILE)
