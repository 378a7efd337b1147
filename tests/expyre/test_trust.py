"""Who may read and write what, what is believed of what comes from elsewhere, and what others can see."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import os
import pickle
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters.slurm_ssh import make_project
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_tools import fresh_queue
from slurm_tools import outcomes_of

import expyre
from expyre import config, stage
from expyre.errors import AuthenticationError, ConfigError, RequestError, StageError
from expyre.func import Call, create_jobs, start_jobs
from expyre.node import runner
from expyre.stage.sharing import Sharing, Triple
from expyre.subprocess import subprocess_run
from expyre.system import RunDir, System
from expyre.transports import Completed, LocalTransport
from expyre.transports.unpack import Unpacker

ONE_CORE = {"max_time": "5m", "num_cores": 1}
NODE = {"num_cores": 4, "max_time": "1h", "max_mem": "4GB"}
REPO = Path(__file__).parents[2]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """A function that makes a project whose jobs run in a run directory on this machine."""
    monkeypatch.setattr(config, "_current", None)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with contextlib.ExitStack() as stack:
        (queue,) = [stack.enter_context(contextlib.contextmanager(fresh_queue)(tmp_path / "queue"))]
        system = {
            "host": None,
            "scheduler": "local",
            "rundir": str(tmp_path / "far" / "runs"),
            "partitions": {"local": NODE},
            "scheduler_options": {"dir": str(queue.spool.path)},
        }

        def project() -> Any:
            made = make_project(tmp_path, {"here": system})
            stack.callback(made.close)
            return made

        yield project


# -- permissions -------------------------------------------------------------------------------------------------------


def make_look() -> Any:
    """Return a function, which travels by value, that says what umask it finds and uses it."""

    def look(number: int, much: bytes) -> int:
        import os

        umask = os.umask(0)
        os.umask(umask)
        os.mkdir("made")
        return umask

    return look


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(*places: Path) -> dict[str, str]:
    """Return the directories that others can enter, and the files that they can reach through others."""
    found: dict[str, str] = {}
    for place in places:
        for path, directories, files in os.walk(place):
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if not mode & 0o077:
                directories.clear()
                continue
            if path != str(place):
                found[path] = oct(mode)
            modes = {f"{path}/{file}": stat.S_IMODE(os.lstat(f"{path}/{file}").st_mode) for file in files}
            found.update({file: oct(mode) for file, mode in modes.items() if mode & 0o077})
    return found


def run_looks(mask: int, resources: dict[str, Any], system: str, *env_vars: str, **options: Any) -> list[Any]:
    """Run jobs that have something in common under a umask of this process and of the host; they find it."""
    with umask(mask):
        look, much = make_look(), b"x" * 9000
        jobs = create_jobs([Call(f"look{i}", look, (i, much), env_vars=env_vars) for i in range(2)])
        start_jobs(jobs, resources, system, **options)
        outcomes = outcomes_of(jobs, check_interval=0.3)
    assert [outcome.result() for outcome in outcomes] == [mask, mask]
    return jobs


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_nobody_else_gets_at_jobs_on_this_machine(local: Callable[[], Any], tmp_path: Path, mask: int) -> None:
    with umask(0o022):
        project = local()
    jobs = run_looks(mask, ONE_CORE, "here")
    found = open_to_others(tmp_path / "far", tmp_path / ".expyre", tmp_path / "queue")
    assert found.keys() == {str(tmp_path / ".expyre" / "config.json")}, found
    there = Path(project.systems["here"].job_dir(jobs[0].stage_dir))
    assert stat.S_IMODE((tmp_path / "far").stat().st_mode) == 0o700
    assert stat.S_IMODE((there / "made").stat().st_mode) == 0o777 & ~mask
    for directory in (there, jobs[0].stage_dir):
        assert stat.S_IMODE((directory / "_expyre_job_key").stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        shared = [stat.S_IMODE(path.stat().st_mode) for path in directory.glob("_expyre_shared_*")]
        assert shared
        assert not any(mode & 0o022 for mode in shared)


def cmdlines() -> set[bytes]:
    """Return the command lines of all processes but this one."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.parent.name != str(os.getpid()):
                found.add(path.read_bytes())
    return found


@contextlib.contextmanager
def watching() -> Iterator[set[bytes]]:
    """Give the command lines that anybody could see meanwhile."""
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            seen.update(cmdlines())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("place", ["~/runs", "$HOME/runs", "${HOME}/runs", "runs"])
def test_the_queue_of_another_host_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    for name, value in {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "rsh").write_text(_RSH)
    (tmp_path / "rsh").chmod(0o700)
    (tmp_path / "cache").mkdir(mode=0o755)
    for queue in fresh_queue(tmp_path / "queue"):
        options = {"dir": str(queue.spool.path), "python": sys.executable}
        rsh = [str(tmp_path / "rsh")]
        system = System("far", "local", rundir=place, remsh_cmd=rsh, partitions={"p": NODE}, scheduler_options=options)
        system.initialize_remote_rundir()
        (tmp_path / "runs" / "run_x").mkdir()
        id = system.scheduler.submit("x", system.job_dir(Path("run_x")), "p", ["pwd -P"], 60, [], {"num_cores": 1})
        queue.wait(id)
        assert (tmp_path / "runs" / "run_x" / "job.x.stdout").read_text() == f"{tmp_path}/runs/run_x\n"
        assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700
        assert open_to_others(tmp_path / "queue") == {}
        (code,) = (tmp_path / "cache" / "expyre").iterdir()
        assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (code, *code.glob("**/*.py")))


# Stands for ssh to a host on which people have no umask.
_RSH = """#!/bin/sh
shift
umask 000
exec sh -c "$*"
"""


@pytest.mark.parametrize("transport", ["paramiko", "openssh", "rsh"])
def test_nobody_else_gets_at_jobs_on_a_cluster_or_sees_secrets(
    slurm_over_ssh: Callable[..., Any], tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = f"secret-{os.urandom(8).hex()}"
    monkeypatch.setenv("XPR_SECRET", secret)
    (tmp_path / "rsh").write_text(_RSH)
    (tmp_path / "rsh").chmod(0o700)
    more = {"remsh_cmd": str(tmp_path / "rsh")} if transport == "rsh" else {}
    with watching() as seen:
        project = slurm_over_ssh("local", host="far", **more) if more else slurm_over_ssh(transport)
        mask = int(project.systems["slurm"].transport.run("umask").text, 8)
        resources = {**ONE_CORE, "partitions": "normal"}
        jobs = run_looks(mask, resources, "slurm", "XPR_SECRET", partial_node=True)
    assert any(b"_expyre_script_core.py" in words for words in seen)
    assert (mask == 0) == (transport == "rsh")
    secrets = [secret, *(project.record.row(job.id).hmac_key.hex() for job in jobs)]
    assert not [words for words in seen for word in secrets if word.encode() in words]
    assert stat.S_IMODE((tmp_path / "rundir").stat().st_mode) == 0o700
    (batches,) = (tmp_path / "rundir").glob("*/_expyre_submit")
    for path in (batches.parent, batches, *batches.parent.glob("run_*"), *batches.rglob("*")):
        assert path.is_symlink() or not path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o700, path


# -- signatures --------------------------------------------------------------------------------------------------------


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def staged(root: Path, name: str) -> stage.Staged:
    return stage.stage(root, stage.StageRequest(name, pow, (2, 3)))


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_job_runs_nothing_but_its_own_task(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("root")
    one, other = staged(root, "one"), staged(root, "other")
    bomb = pickle.dumps(Bomb(root / "executed"))
    task = one.directory / "_expyre_task_in.pckl"
    honest = task.read_bytes()
    cut = data.draw(st.integers(0, len(honest) - 1))
    forged = {
        "unsigned": bomb,
        "signed by another job": runner.sign(bomb, other.key),
        "of another job": (other.directory / task.name).read_bytes(),
        "truncated": honest[:cut],
        "altered": honest[:cut] + bytes([honest[cut] ^ data.draw(st.integers(1, 255))]) + honest[cut + 1 :],
        "spliced": bomb + honest[-runner.TRAILER.size :],
    }
    task.write_bytes(forged[data.draw(st.sampled_from(sorted(forged)))])
    done = subprocess.run([sys.executable, "-S", "_expyre_script_core.py"], cwd=one.directory, timeout=60, check=False)
    assert done.returncode == 1
    assert "NotAuthentic" in (one.directory / "_tmp_expyre_job_error").read_text()
    with pytest.raises(AuthenticationError):
        stage.read_task(one.directory, one.key)
    assert not (root / "executed").exists()


@pytest.mark.parametrize("name", ["_expyre_job_succeeded", "_expyre_job_exception"])
def test_a_result_of_another_job_is_not_taken_for_ones_own(tmp_path: Path, name: str) -> None:
    one, other = staged(tmp_path, "one"), staged(tmp_path, "other")
    exception = runner.exception_bytes(ValueError("no"))
    payload = pickle.dumps(8) if name.endswith("succeeded") else exception
    read = stage.read_result if name.endswith("succeeded") else stage.read_exception
    (one.directory / name).write_bytes(runner.sign(payload, other.key))
    with pytest.raises(AuthenticationError):
        read(one.directory, one.key)
    (one.directory / name).write_bytes(runner.sign(payload, one.key))
    assert read(one.directory, one.key) is not None


def test_what_jobs_have_in_common_is_checked_before_it_is_unpickled(tmp_path: Path) -> None:
    big = os.urandom(9000)
    calls = [Triple(bytes.__contains__, (big, i), {}) for i in range(2)]
    sharing = Sharing(calls)
    jobs = [stage.stage(tmp_path, stage.StageRequest(f"j{i}", *call), sharing) for i, call in enumerate(calls)]
    (shared,) = jobs[0].directory.glob("_expyre_shared_*")
    shared.unlink()
    shared.write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    done = subprocess.run([sys.executable, "_expyre_script_core.py"], cwd=jobs[0].directory, timeout=60, check=False)
    assert done.returncode == 1
    with pytest.raises(AuthenticationError, match="altered"):
        stage.read_task(jobs[0].directory, jobs[0].key)
    assert not (tmp_path / "executed").exists()


# -- hosts that are not to be trusted ----------------------------------------------------------------------------------


def make_lie() -> Any:
    """Return a function that puts words into the mouth of whoever started it."""

    def lie(victim: str) -> str:
        import os

        for name in ("_expyre_output_files", "_expyre_pre_run_commands", "_expyre_post_run_commands"):
            with open(name, "w") as file:
                file.write({"_expyre_output_files": f"{victim}\n../x\nevil.py\n"}.get(name, '["touch xprcanary"]'))
        with open("_expyre_env_vars", "w") as file:
            file.write('["A=$(touch xprcanary)"]')
        with open("evil.py", "w") as file:
            file.write("print('evil')")
        with open("out", "w") as file:
            file.write("out")
        os.symlink(victim, "link")
        return "done"

    return lie


def test_a_host_does_not_say_what_is_copied_or_run(local: Callable[[], Any], tmp_path: Path) -> None:
    project = local()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (job,) = create_jobs([Call("lie", make_lie(), (str(victim),), output_files=["out"], pre_run_commands=["true"])])
    job.start(ONE_CORE, "here")
    (outcome,) = outcomes_of([job], check_interval=0.3)
    assert job.finish(outcome, quiet=True)[0] == "done"
    assert os.listdir() == ["out"]
    there = Path(project.systems["here"].job_dir(job.stage_dir))
    assert "evil.py" in (there / "_expyre_output_files").read_text()
    lines = stage.job_commands(job.stage_dir)
    assert "true" in lines
    assert not [line for line in lines if "xprcanary" in line]


def _links(place: Path, victim: Path) -> None:
    place.mkdir()
    for name in ("_expyre_job_succeeded", "_expyre_task_in.pckl"):
        (place / name).symlink_to(victim)
    (place / "directory").symlink_to(victim.parent)


def test_links_are_not_followed_when_jobs_are_cleaned_or_removed(tmp_path: Path) -> None:
    victims, runs = tmp_path / "victims", tmp_path / "runs"
    victims.mkdir()
    runs.mkdir()
    victim = victims / "authorized_keys"
    victim.write_text("mine")
    victim.chmod(0o400)
    rundir = RunDir(LocalTransport(), str(runs))
    for name in ("run_a", "run_b"):
        _links(runs / name, victim)
    (runs / "run_c").symlink_to(victims)
    stage.clean(runs / "run_a")
    rundir.clean(["run_b", "run_c"], list(stage.LARGE_FILES))
    for name in ("run_a", "run_b"):
        assert (runs / name / "_expyre_job_succeeded").read_text() == "CLEANED\n"
    rundir.remove(["run_a", "run_b", "run_c"])
    assert os.listdir(runs) == []
    assert os.listdir(victims) == [victim.name]
    assert victim.read_text() == "mine"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o400
    for name in ("victims", "..", "run_x/../../victims", "/run_x", ""):
        with pytest.raises(StageError, match="no job's directory"):
            rundir.remove([name])


def _stream(*members: tuple[str, bytes, str]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info, io.BytesIO())
    file.seek(0)
    return file


def test_links_do_not_lead_outside_step_by_step(tmp_path: Path) -> None:
    here = tmp_path / "here"
    for members in (
        [("job/deep", tarfile.SYMTYPE, "."), ("job/sub", tarfile.DIRTYPE, "")],
        [("job/deep/deep/deep/out", tarfile.SYMTYPE, "../../../victim"), ("job/sub/in", tarfile.SYMTYPE, "../x")],
    ):
        Unpacker(here, ["job"], (), "somewhere").take(_stream(*members))
    assert (here / "job" / "deep").is_symlink()
    assert (here / "job" / "sub" / "in").is_symlink()
    assert not (here / "job" / "out").is_symlink()


class _Liar(LocalTransport):
    """A host that answers what it likes when it is asked for names."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        return Completed(0, self.answer, b"")


@pytest.mark.parametrize("name", [b"../keep", b"./../keep", b"/keep", b"a/../../keep", b"..", b"run_x/.."])
def test_a_host_does_not_say_which_directories_are_emptied(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_text("mine")
    (tmp_path / "stage").mkdir()
    system = System(None, "local", rundir=str(tmp_path / "far"), partitions={"local": NODE})
    system._transport = _Liar(name + b"\0")
    with pytest.raises(StageError, match="refusing"):
        system.get_remotes(tmp_path / "stage", delete=True)
    assert (tmp_path / "keep" / "file").read_text() == "mine"


NAMES = ("run_a b", "run_$(touch xprcanary)", "run_`id`;&|<>", 'run_it\'s "q"', "run_new\nline", "run_~!#%\\{a,b}")


def test_names_are_brought_back_one_by_one_or_by_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    far = tmp_path / "far $(touch xprcanary)"
    for name in NAMES:
        (far / name).mkdir(parents=True)
        (far / name / "file $(touch xprcanary)\n").write_text(name)
    system = System(None, "local", rundir=str(far), partitions={"local": NODE})
    for number, globs in enumerate([None, "run_*", list(NAMES), "run_[a-z$`in~]*"]):
        here = tmp_path / f"here{number}"
        (here / NAMES[1]).mkdir(parents=True)
        (here / NAMES[1] / "old").touch()
        (here / "other").touch()
        system.get_remotes(here, globs, delete=True)
        assert sorted(os.listdir(here)) == sorted(["other", *NAMES])
        for name in NAMES:
            assert [path.read_text() for path in (here / name).iterdir()] == [name]
    system.get_remotes(tmp_path / "none", "$(touch xprcanary) run_*;touch xprcanary", delete=True)
    assert not list(tmp_path.rglob("xprcanary"))
    assert not (Path.home() / "xprcanary").exists()


# -- this machine ------------------------------------------------------------------------------------------------------


def test_names_of_hosts_are_no_options() -> None:
    with pytest.raises(RequestError, match="not the name of a host"):
        subprocess_run("-oProxyCommand=touch xprcanary", ["true"], retry=(1, 0))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_settings_that_somebody_has_planted_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = tmp_path / "public"
    (public / "mine").mkdir(parents=True)
    make_project(public, {})
    monkeypatch.chdir(public / "mine")
    os.chown(public / ".expyre", 12345, 12345)
    config.init("@")
    public.chmod(0o1777)
    with pytest.raises(ConfigError, match="somebody else"):
        config.init("@")
    config.init(public / ".expyre")


def test_settings_that_everybody_can_change_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_project(tmp_path, {})
    (tmp_path / ".expyre" / "config.json").chmod(0o644)
    (tmp_path / ".expyre").chmod(0o755)
    with caplog.at_level(logging.WARNING):
        config.init(tmp_path / ".expyre")
        assert caplog.messages == []
        (tmp_path / ".expyre" / "config.json").chmod(0o666)
        config.init(tmp_path / ".expyre")
    assert "chmod o-w" in caplog.text


_SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "popen2", "spawnlp", "spawnvp", "create_subprocess_shell"}


def _shell_calls(path: Path) -> Iterator[str]:
    """Yield the places where a text becomes a command without an explicit shell."""
    text = path.read_text("utf-8")
    if not any(word in text for word in ("shell=", *_SHELLS)):
        return
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        shell = any(word.arg == "shell" and not _is_false(word.value) for word in node.keywords)
        starts = owner in ("subprocess", "sp") or name in ("Popen", "check_output", "check_call")
        if (shell and starts) or (name in _SHELLS and owner in ("os", "subprocess", "commands", "asyncio", "")):
            yield f"{path}:{node.lineno}"


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_no_text_becomes_a_command_unseen() -> None:
    package = Path(expyre.__file__).parent
    found = [place for path in package.rglob("*.py") for place in _shell_calls(path)]
    found += [place for path in (REPO / "wfl").rglob("*.py") for place in _shell_calls(path)]
    assert found == []


def test_the_search_for_such_calls_finds_them(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text("os.system('x')\nsubprocess.run('x', shell=True)\nPopen('x', shell=s)\nrun(['x'])\nos.popen('x')\n")
    assert [place.rpartition(":")[2] for place in _shell_calls(file)] == ["1", "2", "3", "5"]
