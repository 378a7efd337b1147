from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from checkup_hosts import Host, bare_host  # noqa: F401
from clusters.sshd import missing, private_sshd
from hypothesis import given
from hypothesis import strategies as st

from expyre.checkup import pbs, sge, slurm
from expyre.checkup.answers import split
from expyre.checkup.facts import Facts, collect, interpreter_words
from expyre.checkup.facts import _free as free
from expyre.checkup.facts import _skew as skew
from expyre.checkup.script import Question
from expyre.errors import TransportError
from expyre.transports import Completed, LocalTransport, connect

ALL_QUEUES = (slurm.LONG, pbs.LONG, sge.LONG)


def look(place: str | Path = "run_expyre", **settings: object) -> Facts:
    return collect(connect(None), replace(Question(str(place), python="python3"), **settings))  # type: ignore[arg-type]


@contextlib.contextmanager
def small_file_system(path: Path, options: str) -> Iterator[Path]:
    """A file system of its own; only root can have one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_what_is_found_on_this_machine(tmp_path: Path) -> None:
    facts = look(tmp_path / "not" / "there yet", python=sys.executable)
    assert facts.who.user
    assert facts.who.home
    assert facts.who.num_cores >= 1
    assert facts.who.system.startswith("Linux")
    assert {"bash", "tar", "gzip"} <= set(facts.tools)
    assert facts.space.writable
    assert not facts.space.exists
    assert facts.space.path == str(tmp_path.resolve())
    assert facts.space.free_kb
    assert facts.space.free_kb > 0
    assert list(tmp_path.iterdir()) == []
    assert facts.python.version == sys.version_info[:3]
    assert facts.python.packages["cloudpickle"] != "?"
    assert abs(facts.skew) < 2
    assert facts.ready_tools is None


def test_it_is_one_call(tmp_path: Path) -> None:
    calls = []

    class Counting(LocalTransport):
        def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
            calls.append(script)
            return super().run(script, stdin, timeout)

    collect(Counting(), Question(str(tmp_path), queues=ALL_QUEUES, quota=True, search=True))
    assert len(calls) == 1


def test_a_host_with_nothing(bare_host: Host) -> None:  # noqa: F811
    facts = look(queues=ALL_QUEUES)
    assert facts.queues == {}
    assert "sbatch" not in facts.tools
    assert not facts.python.executable
    assert facts.python.missing
    assert "python3" in facts.python.said


def test_noise_does_not_matter(bare_host: Host) -> None:  # noqa: F811
    bare_host.python()
    noise = ("echo; echo 'Welcome = to the cluster'", "echo loading >&2", "printf 'no newline'")
    facts = look(commands=noise, pre_submit_cmds=("echo noise = a", "export PATH=$PATH:/x"))
    assert facts.python.version == sys.version_info[:3]
    assert facts.python.said == "loading"
    assert facts.ready_tools == facts.tools
    assert facts.prepared


def test_noise_of_the_shell_itself(bare_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    bare_host.python()
    (tmp_path / "profile").write_text("echo '### MOTD ###'; echo a=b; echo bad news >&2\n")
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "profile"))
    facts = look()
    assert facts.python.version == sys.version_info[:3]
    assert facts.who.user
    assert "a" not in facts.tools


_NOISE = "echo 'Welcome = to the cluster'; echo 'checkup-0 begin who'; printf 'no newline'; echo bad >&2"


@pytest.mark.parametrize("kind", ["paramiko", "openssh"])
def test_noise_of_a_login(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if reason := missing():
        pytest.skip(reason)
    command = f'ForceCommand {_NOISE}; eval "$SSH_ORIGINAL_COMMAND"'
    with private_sshd({"quiet": "", "noisy": command}) as server:
        monkeypatch.setenv("EXPYRE_SSH_CONFIG", str(server.config))
        transport = connect("noisy", kind)
        try:
            facts = collect(transport, Question("run_expyre", python=sys.executable, commands=("echo hi",)))
        finally:
            transport.close()
    assert facts.python.version == sys.version_info[:3]
    assert facts.space.writable
    assert facts.who.user


def test_commands_bring_python(bare_host: Host, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "env").mkdir()
    bare_host.python()
    (bare_host.bin / "python3").rename(tmp_path / "env" / "python3")
    assert not look().python.executable
    facts = look(commands=(f"export PATH={tmp_path}/env:$PATH", "greet() { echo hi; }", "greet"))
    assert facts.python.version == sys.version_info[:3]


def test_commands_that_end_the_shell(bare_host: Host) -> None:  # noqa: F811
    bare_host.python()
    python = look(commands=("exit 3",)).python
    assert (python.began, python.ready, python.missing, python.executable) == (True, False, False, "")


def test_a_shell_that_is_not_there(bare_host: Host) -> None:  # noqa: F811
    python = look(script_exec="/nowhere/zsh -l").python
    assert (python.began, python.missing) == (False, False)
    assert "zsh" in python.said


def test_commands_before_submission_bring_the_queue(bare_host: Host, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "slurm").mkdir()
    bare_host.add("sbatch", "echo slurm 99")
    (bare_host.bin / "sbatch").rename(tmp_path / "slurm" / "sbatch")
    facts = look(pre_submit_cmds=(f"export PATH={tmp_path}/slurm:$PATH",))
    assert "sbatch" not in facts.tools
    assert facts.ready_tools is not None
    assert facts.ready_tools["sbatch"] == f"{tmp_path}/slurm/sbatch"
    assert not look(pre_submit_cmds=("false",)).prepared


def test_a_slow_command_does_not_hold_up_the_rest(bare_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    bare_host.python()
    bare_host.add("sbatch", "echo slurm 99")
    bare_host.add("squeue", "sleep 600")
    quick = slurm.LONG.replace("squeue 15", "squeue 1")
    facts = look(queues=(quick,))
    assert facts.queues["slurm"].trouble == "squeue gave no answer in time"
    assert facts.python.version == sys.version_info[:3]


def test_without_the_command_timeout(bare_host: Host) -> None:  # noqa: F811
    bare_host.python()
    (bare_host.bin / "timeout").unlink()
    assert look().python.version == sys.version_info[:3]


@pytest.mark.parametrize("name", ["with a blank", "quote'it", "$HOME;x", "-n", "ä"])
def test_hostile_names_of_run_directories(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    space = look(place).space
    assert space.exists
    assert space.writable
    assert list(place.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    space = look(tmp_path / "file").space
    assert not space.writable
    assert "is not a directory" in space.trouble


def test_a_directory_that_cannot_be_written() -> None:
    space = look("/proc/nowhere").space
    assert not space.writable
    assert space.trouble


def test_a_full_disk(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "size=512k") as place:
        space = look(place / "run").space
        assert not space.writable
        assert space.trouble == "No space left on device"
        assert space.free_kb is not None
        assert space.free_kb < 1024
        assert list(place.iterdir()) == []


def test_no_inodes_left(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "size=64m,nr_inodes=4") as place:
        for number in range(3):
            (place / str(number)).write_text("")
        space = look(place).space
        assert not space.writable
        assert space.free_inodes == 0


def test_other_pythons_are_found(bare_host: Host) -> None:  # noqa: F811
    where = Path(os.environ["HOME"]) / "miniconda3" / "bin"
    where.mkdir(parents=True)
    bare_host.python()
    (bare_host.bin / "python3").rename(where / "python3")
    facts = look(search=True)
    assert facts.others[0].path == f"{where}/python3"
    assert facts.others[0].version == sys.version_info[:3]
    assert facts.others[0].cloudpickle


def test_a_host_that_runs_no_scripts() -> None:
    class Refusing(LocalTransport):
        def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
            return Completed(1, b"This account is currently not available.\n", b"")

    with pytest.raises(TransportError, match="not available"):
        collect(Refusing(), Question("run"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python3", "python3"),
        ("srun -n 1 python3 -u", "python3 -u"),
        ("mpirun -np 4 /opt/bin/python3.11", "/opt/bin/python3.11"),
        ("conda run -n a python3", "conda run -n a python3"),
        ("srun prog", "python3"),
        ("it's broken", "it's broken"),
    ],
)
def test_launchers_are_left_out(command: str, words: str) -> None:
    assert interpreter_words(command) == words


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("/dev/vda 82043328 1000 80091688 2% /", 80091688),
        ("server:/a b 100 90 10 90% /mnt/a b", 10),
        ("none 0 0 0 - /sys", None),
        ("", None),
        ("df: no such thing", None),
    ],
)
def test_free_space(line: str, left: int | None) -> None:
    assert free(line) == left


def test_clocks() -> None:
    now = time.time()
    assert skew(str(int(now)), now, now + 0.1) == 0
    assert skew(str(int(now) + 60), now, now + 1) == pytest.approx(59, abs=1.1)
    assert skew(str(int(now) - 60), now, now + 1) == pytest.approx(-59, abs=1.1)
    assert skew("", now, now) == 0


@given(
    noise=st.text(),
    text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")),
)
def test_parts_are_found_in_noise(noise: str, text: str) -> None:
    mark = "checkup-0123456789abcdef"
    framed = f"{noise}\n{mark} begin a\n{text}\n{mark} error a\noops\n{mark} end a 3\n{noise}"
    answer = split(framed, mark)["a"]
    assert answer.text.splitlines() == text.splitlines()
    assert (answer.error, answer.returncode) == ("oops", 3)
