"""Outputs as engines use them: checkpoints, resuming, two writers, crashes, full disks."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms

from expyre.owners import owner_token
from wfl.configset import CallRecord, ConfigSet, OutputSpec
from wfl.configset.errors import OutputBusyError

LOC = "_ConfigSet_loc"

pytestmark = pytest.mark.usefixtures("change_test_dir")


def at(number: int) -> Atoms:
    return Atoms("Si", positions=[[number, 0, 0]], info={"n": number})


def numbers(configs: Any) -> list[int]:
    return [atoms.info["n"] for atoms in configs]


def call(**parts: str) -> CallRecord:
    return CallRecord("op", {"function": "1", **parts}, {"file:in.xyz": {"size": 3}})


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def run(
    files: Any, n_items: int, stop: int | None = None, record: CallRecord | None = None, **kwargs: Any
) -> OutputSpec:
    """Do what an engine does, up to an item; item 3 has no result, item 5 two."""
    out = OutputSpec(files, **kwargs)
    done = out.begin(record or call())
    for item in range(done, n_items):
        if item == stop:
            out.abort()
            return out
        results = None if item == 3 else [at(item), at(item)] if item == 5 else at(item)
        out.put(results, None if isinstance(files, str) else (item % len(files), item))
        out.checkpoint(item + 1, f"digest {item + 1}")
    out.close()
    return out


FILES = ["a.xyz", "a.xyz.gz", "a.xyz.xz", "a.xyz.bz2", ["a.xyz", "b.xyz"], ["a.xyz.gz", "b.xyz", "c.xyz"]]


@pytest.mark.parametrize("files", FILES, ids=str)
@pytest.mark.parametrize("interval", [0.0, 1000.0])
def test_an_interrupted_run_goes_on(files: Any, interval: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfl.configset.writing.CHECKPOINT_INTERVAL", interval)
    run(files, 8, stop=6)
    assert not OutputSpec(files).all_written()
    assert not any(name.endswith(".lock") for name in names())
    out = OutputSpec(files)
    assert out.begin(call()) == 6
    assert out.resumed_digest(6) == "digest 6"
    assert out.resumed_digest(7) is None
    out.abort()
    out = run(files, 8)
    expected = run([f"whole.{name}" for name in files] if isinstance(files, list) else f"whole.{files}", 8)
    assert [atoms.info for atoms in out.to_ConfigSet()] == [atoms.info for atoms in expected.to_ConfigSet()]
    assert not any(name.startswith("tmp.") for name in names())


def test_results_after_the_last_checkpoint_are_dropped() -> None:
    out = OutputSpec("a.xyz")
    out.begin(call())
    out.put(at(0), None)
    out.checkpoint(1, "one")
    out.put(at(1), None)
    out.put(at(2), None)
    out.abort()
    out = OutputSpec("a.xyz")
    assert out.begin(call()) == 1
    out.put(at(7), None)
    out.close()
    assert [(atoms.info[LOC], atoms.info["n"]) for atoms in out.to_ConfigSet()] == [(" / 0", 0), (" / 1", 7)]


def test_another_call_does_not_go_on() -> None:
    run("a.xyz", 8, stop=6)
    out = run("a.xyz", 2, record=call(code="2"))
    assert numbers(out.to_ConfigSet()) == [0, 1]
    run("b.xyz", 8, stop=6)
    script = OutputSpec("b.xyz")
    script.store(at(9))
    script.close()
    assert numbers(script.to_ConfigSet()) == [9]
    assert names() == [".a.xyz.wfl.json", "a.xyz", "b.xyz"]


def test_restart() -> None:
    run("a.xyz", 8, stop=6)
    out = OutputSpec("a.xyz")
    assert out.begin(call()) == 6
    out.restart()
    out.put(at(100), None)
    out.checkpoint(1, "new")
    out.abort()
    out = OutputSpec("a.xyz")
    assert (out.begin(call()), out.resumed_digest(1)) == (1, "new")
    out.close()
    assert numbers(out.to_ConfigSet()) == [100]


@pytest.mark.parametrize("damage", ["journal cut", "journal garbage", "data cut", "data zeros", "no data", "no head"])
def test_damage_costs_work_but_never_truth(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfl.configset.writing.CHECKPOINT_INTERVAL", 0.0)
    run("a.xyz", 8, stop=6)
    journal, data = Path("tmp.a.xyz.journal"), Path("tmp.a.xyz")
    whole = data.read_bytes()
    if damage == "journal cut":
        journal.write_bytes(journal.read_bytes()[:-10])
    elif damage == "journal garbage":
        journal.write_bytes(journal.read_bytes() + b"\x00\x00{]\n")
    elif damage == "data cut":
        data.write_bytes(whole[:-30])
    elif damage == "data zeros":
        data.write_bytes(whole[:-100] + bytes(100))
    elif damage == "no data":
        data.unlink()
    else:
        journal.write_bytes(b"x" + journal.read_bytes())
    out = run("a.xyz", 8)
    assert numbers(out.to_ConfigSet()) == [0, 1, 2, 4, 5, 5, 6, 7]


def test_formats_that_cannot_be_cut_start_anew() -> None:
    for name in ("a.traj", "a.db"):
        run(name, 8, stop=6)
        assert OutputSpec(name).begin(call()) == 0
        assert numbers(run(name, 8).to_ConfigSet()) == [0, 1, 2, 4, 5, 5, 6, 7]


def test_nothing_for_anybody() -> None:
    """A run without results is not repeated; one without inputs leaves nothing."""
    for files in ("a.xyz", ["b.xyz", "c.xyz.gz"], "d.traj", "e.db"):
        out = OutputSpec(files)
        out.begin(call())
        out.put(None, (0,))
        out.checkpoint(1, "x")
        out.close()
        assert out.all_written()
        assert list(out.to_ConfigSet()) == list(out.result()) == []
        assert len(out.to_ConfigSet()) == 0
    unused = OutputSpec("f.xyz")
    unused.close()
    assert not Path("f.xyz").exists()
    assert str(unused.result()) == "ConfigSet with no content"


def test_memory_engine() -> None:
    out = OutputSpec()
    assert out.begin(call()) == 0
    out.put(at(1), (1,))
    out.put(None, (0,))
    out.checkpoint(2, "x")
    assert out.finished(call()) == []
    out.close()
    assert numbers(out.result()) == [1]


def test_what_differs_from_the_call_that_made_a_file() -> None:
    out = run("a.xyz", 2, record=call(kwarg="5"))
    assert out.finished(call(kwarg="5")) == []
    lines = out.finished(CallRecord("op2", {"function": "2", "new": "3"}, {"file:in.xyz": {"size": 4}}))
    assert lines == [
        "operation changed: op -> op2",
        "function changed: 1 -> 2",
        "kwarg removed: 5",
        "file in.xyz changed",
        "new added: 3",
    ]
    assert OutputSpec("fake.xyz").finished(call()) == []
    time.sleep(0.01)
    Path("a.xyz").write_text("changed by the user")
    assert OutputSpec("a.xyz").finished(call(function="other")) == []


# -- two writers


def test_two_writers_in_one_process() -> None:
    first, second = OutputSpec("a.xyz"), OutputSpec(["b.xyz", "a.xyz"])
    first.store(at(1))
    with pytest.raises(OutputBusyError, match=rf"process {os.getpid()} on host .*this process"):
        second.store(at(2), " / 0 / 0")
    with pytest.raises(RuntimeError):
        second.begin(call())
    first.close()
    with pytest.raises(FileExistsError):
        second.store(at(2), " / 0 / 0")
    assert names() == ["a.xyz"]


def test_an_output_that_is_gone_holds_nothing() -> None:
    first = OutputSpec("a.xyz")
    first.store(at(1))
    del first
    gc.collect()
    second = OutputSpec("a.xyz")
    second.store(at(2))
    second.close()
    assert numbers(second.to_ConfigSet()) == [2]


def test_the_constructor_touches_nothing() -> None:
    first = OutputSpec("a.xyz")
    first.store(at(1))
    OutputSpec("a.xyz")
    first.store(at(2))
    first.close()
    assert numbers(first.to_ConfigSet()) == [1, 2]


WRITER = """
import sys, time
from ase import Atoms
from wfl.configset import CallRecord, OutputSpec
out = OutputSpec("a.xyz")
print("begin", out.begin(CallRecord("op", {"function": "1"}, {"file:in.xyz": {"size": 3}})), flush=True)
for item in range(10**6):
    out.put(Atoms("Si", info={"n": item}), None)
    out.checkpoint(item + 1, f"digest {item + 1}")
    if item == 300:
        time.sleep(0.3)
    if item == 301:
        print("ready", flush=True)
    if item > 400:
        time.sleep(1)
"""


def started_writer() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begin 0\n"
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_live_process_keeps_its_output_and_a_killed_one_leaves_its_work() -> None:
    with started_writer() as process:
        with pytest.raises(OutputBusyError, match=f"process {process.pid} on host"):
            OutputSpec("a.xyz").store(at(1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not Path("a.xyz").exists()
    out = OutputSpec("a.xyz")
    done = out.begin(call())
    assert done >= 302
    assert out.resumed_digest(done) == f"digest {done}"
    out.close()
    assert numbers(out.to_ConfigSet()) == list(range(done))


def leave_lock(name: str, owner: str) -> None:
    host, _, pid, _ = owner.split(":")
    Path(f"tmp.{name}.lock").write_text(json.dumps({"owner": owner, "host": host, "pid": pid, "token": "x"}))


def test_who_is_believed_alive() -> None:
    mine = owner_token()
    host, boot, pid, _ = mine.split(":")
    leave_lock("a.xyz", f"{host}:{boot}:{pid}:1")  # the number of the process was used again
    Path("tmp.a.xyz").write_text("left over")
    OutputSpec("a.xyz").write([at(1)])
    assert numbers(ConfigSet("a.xyz")) == [1]
    leave_lock("b.xyz", mine)  # of an object that is gone
    OutputSpec("b.xyz").write([at(1)])
    leave_lock("c.xyz", "elsewhere:0:1:2")
    with pytest.raises(OutputBusyError, match=r"process 1 on host elsewhere.*remove /.*/tmp\.c\.xyz\.lock"):
        OutputSpec("c.xyz").store(at(1))
    os.utime("tmp.c.xyz.lock", (1, 1))
    OutputSpec("c.xyz").write([at(1)])
    Path("tmp.d.xyz.lock").write_text("garb")
    OutputSpec("d.xyz").write([at(1)])
    assert names() == ["a.xyz", "b.xyz", "c.xyz", "d.xyz"]


def test_a_forked_process_does_not_disturb() -> None:
    out = OutputSpec("a.xyz", flush=False)
    out.store(at(1))
    pid = os.fork()
    if pid == 0:
        try:
            del out
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    out.store(at(2))
    assert Path("tmp.a.xyz.lock").exists()
    out.close()
    assert numbers(out.to_ConfigSet()) == [1, 2]


# -- crashes while closing, and full disks

CRASH = """
import os, sys
from ase import Atoms
from wfl.configset import CallRecord, OutputSpec
real = os.replace
def replace(source, target):
    if str(target).endswith("/b.xyz"):
        os.kill(os.getpid(), 9)
    real(source, target)
os.replace = replace
out = OutputSpec(["a.xyz", "b.xyz"])
out.begin(CallRecord("op", {"function": "1"}, {"file:in.xyz": {"size": 3}}))
for item in range(6):
    out.put(Atoms("Si", info={"n": item}), (item % 2, item))
    out.checkpoint(item + 1, f"digest {item + 1}")
out.close()
"""


def test_a_crash_between_two_renames_is_healed() -> None:
    process = subprocess.run([sys.executable, "-c", CRASH], check=False)
    assert process.returncode == -signal.SIGKILL
    assert Path("a.xyz").exists()
    assert not Path("b.xyz").exists()
    out = OutputSpec(["a.xyz", "b.xyz"])
    assert not out.all_written()
    assert out.begin(call()) == 6
    out.close()
    assert numbers(out.to_ConfigSet()) == [0, 2, 4, 1, 3, 5]


FULL = """
import resource, signal, sys
from ase import Atoms
from wfl.configset import CallRecord, OutputSpec
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
out = OutputSpec("a.xyz", flush=sys.argv[1] == "flush")
out.begin(CallRecord("op", {"function": "1"}, {"file:in.xyz": {"size": 3}}))
try:
    for item in range(1000):
        out.put(Atoms("Si", info={"n": item}), None)
        out.checkpoint(item + 1, f"digest {item + 1}")
    out.close()
except OSError as error:
    print(error)
    out.abort()
"""


@pytest.mark.parametrize("flush", ["flush", "no"])
def test_a_full_disk(flush: str) -> None:
    run_it = subprocess.run([sys.executable, "-c", FULL, flush], capture_output=True, text=True, check=True)
    assert "/tmp.a.xyz: a.xyz was not made" in run_it.stdout
    assert run_it.stderr == ""
    assert not Path("a.xyz").exists()
    out = OutputSpec("a.xyz")
    done = out.begin(call())
    out.close()
    assert numbers(out.to_ConfigSet()) == list(range(done))
    assert done > 0


def test_checkpoints_in_quick_succession_share_a_line_of_the_journal() -> None:
    out = OutputSpec("a.xyz")
    out.begin(call())
    out.put(at(0), None)
    start = time.monotonic()
    for item in range(5000):
        out.checkpoint(item, "digest")
    lines = len(Path("tmp.a.xyz.journal").read_text().splitlines())
    assert lines <= 3 + (time.monotonic() - start) / 0.2
    out.close()


def test_results_are_there_during_the_run() -> None:
    out = OutputSpec("a.xyz")
    out.begin(call())
    out.put(ConfigSet([at(1), at(2)]), None)
    assert numbers(ConfigSet("tmp.a.xyz")) == [1, 2]
    out.close()
