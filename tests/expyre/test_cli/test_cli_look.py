"""Commands that only look, errors, and completion."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cli_support import XPR, make_id, on_terminal, plain
from click.testing import Result

from expyre import config
from expyre.cli.main import COMMANDS
from expyre.cli.stats import quantiles
from expyre.config import Project
from expyre.identity import identify
from expyre.jobsdb import Change, NewJob

Xpr = Callable[..., Result]
Add = Callable[..., str]


def energy(atoms: str, cutoff: float = 5.0) -> str:
    return f"{atoms} {cutoff}"


def test_jobs_are_named_in_short(xpr: Xpr, add: Add) -> None:
    job = add("relax", remote_id="77", system="cluster")
    add("md", remote_id="78", system="cluster")
    for word in (job, "relax", "rela", "abcd0000", "relax…abcd0000", f"{job[:15]}...", "77", "77@cluster"):
        assert json.loads(xpr("show", word, "--json").stdout)["id"] == job


def test_names_that_fit_several_jobs_or_none_say_so(xpr: Xpr, add: Add) -> None:
    first, second = add("relax"), add("relax")
    message = xpr("show", "relax", code=1).stderr
    assert message == (
        f"Error: 'relax' stands for 2 jobs; write more of the id:\n  {first} (created)\n  {second} (created)\n"
    )
    assert "did you mean: relax?" in xpr("show", "relx", code=1).stderr
    assert "(`xpr ls` lists them)" in xpr("why", "xyz\n", code=1).stderr
    both = xpr("rm", "-y", "nope1", "nope2", "relax", code=1).stderr
    assert "nope1" in both
    assert "nope2" in both
    assert len(xpr("ls", "-q").stdout.split()) == 2


def test_show_prints_hostile_text_harmlessly(xpr: Xpr, add: Add) -> None:
    name = "漢字 $(touch gone) 'quoted' \"\x1b[31m\nnew line"
    job = add(name, files={"a\nb": "x"}, remote_id="\x1b[0m")
    out = xpr("show", job).stdout
    assert "\x1b" not in out
    assert r"$(touch gone) 'quoted' \"\x1b[31m\nnew line".replace('\\"', '"') in out
    assert "a\\nb" in out
    assert json.loads(xpr("show", job, "--json").stdout)["name"] == name


def test_show_has_times_and_history(xpr: Xpr, add: Add) -> None:
    times = {"t_created": 1000.0, "t_submitted": 1001.0, "t_started": 1061.0, "t_ended": 8261.0, "t_fetched": 8262.5}
    job = add("relax", resources='{"max_time": 3600, "num_nodes": 1}', reason="TimedOut", end_detail="limit", **times)
    xpr("reset_status", "died", "-n", "relax")
    out = xpr("show", job).stdout
    assert "(+1m)" in out
    assert "(+2h)" in out
    assert "reason: TimedOut" in out
    assert "max_time: 3600" in out
    assert "died xpr reset_status" in out


def test_why_says_which_argument_made_it_another_job(xpr: Xpr, project: Project) -> None:
    old, new = identify(energy, ("Si",)), identify(energy, ("Si",), {"cutoff": 6.0})
    for number, identity in enumerate((old, new)):
        job = NewJob(make_id("relax", number), "relax", "/x", "relax", identity.key, "m.energy", identity.to_json())
        project.record.insert_jobs([job])
    out = xpr("why", "abcd0001").stdout
    assert f"nearest earlier call: {make_id('relax', 0)} (created)" in out
    assert "kwargs['cutoff']" in out
    assert "Next: run the script again to submit it" in out
    answer = json.loads(xpr("why", "abcd0001", "--json").stdout)
    assert any("cutoff" in line for line in answer["recomputed"])


def test_why_the_same_call_was_made_again(xpr: Xpr, add: Add) -> None:
    first = make_id("relax", 5)
    add("relax", id=first, status="processed")
    add("relax", id=f"{first[:-8]}wxyz0001")
    out = xpr("why", "wxyz0001").stdout
    assert f"the same call was made before: {first} (processed): its results were stored elsewhere" in out
    assert "made before" not in xpr("why", first).stdout


def test_remove_keeps_what_its_system_would_have_to_remove(xpr: Xpr, add: Add, project: Project) -> None:
    job = add("relax", files={}, status="died", system="gone", remote_id="1")
    assert "'gone' is not in the configuration" in xpr("rm", "-c", "-y", "relax", code=1).stderr
    assert Path(project.record.row(job).from_dir or "").is_dir()


@pytest.mark.parametrize(
    ("reason", "state", "step"),
    [
        ("TimedOut", "it reached its time limit", "xpr retry --time-factor 2 "),
        ("OutOfMemory", "it ran out of memory", "xpr retry --mem-factor 2 "),
        ("Lost", "neither the queue nor its directory knows it", "xpr retry "),
        (None, "it ended without a result", "xpr logs "),
    ],
)
def test_why_a_job_died(xpr: Xpr, add: Add, reason: str | None, state: str, step: str) -> None:
    job = add("relax", files={"_expyre_stderr": "a\nlast words\n"}, status="died", system="gone", remote_id="1",
              reason=reason, end_detail="the queue's words", exit_code=137)  # fmt: skip
    out = xpr("why", "relax").stdout
    assert f"{job} (died): {state}" in out
    assert "the queue says: the queue's words" in out
    assert "exit code of its script: 137" in out
    assert "End of stderr:\n  a\n  last words\n" in out
    assert f"{step}abcd0000" in out


def test_why_tells_of_earlier_tries(xpr: Xpr, add: Add, project: Project) -> None:
    job = add("relax", status="died", system="gone", remote_id="1", reason="TimedOut", tries=2)
    project.record.step([Change(job, note="tried again after TimedOut, with time=600 n=(1, 'cores')")])
    project.record.step([Change(job, note="xpr retry")])
    out = xpr("why", "relax").stdout
    assert "try 2: tried again after TimedOut, with time=600 n=(1, 'cores')" in out
    assert "try 3: xpr retry" in out


def test_why_a_job_waits_for_room(xpr: Xpr, add: Add) -> None:
    add("relax", system="local", submit_state="waiting")
    out = xpr("why", "relax").stdout
    assert "it waits until the queue has room for it" in out
    assert "the queue of local takes no more" in out


def test_why_a_job_waits_on_a_system_that_is_gone(xpr: Xpr, add: Add) -> None:
    add("relax", status="submitted", system="gone", remote_id="1", remote_status="queued")
    assert "system 'gone' is not in the configuration: the queue cannot be asked" in xpr("why", "relax").stdout
    assert "'gone' is not in the configuration" in xpr("sync", code=1).stderr


def test_stats(xpr: Xpr, add: Add) -> None:
    for hours in (1, 2, 3):
        start = 1000.0 + 60 * hours
        add("ok", status="processed", system="cluster", num_cores=16, t_submitted=1000.0, t_started=start,
            t_ended=start + 3600 * hours, t_fetched=start + 3600 * hours + 2)  # fmt: skip
    add("bad", status="died", system="cluster", num_cores=16, reason="TimedOut", t_started=0.0, t_ended=7200.0, tries=2)
    add("new")
    assert xpr("stats", "-S", "cluster").stdout == (
        "Jobs:\n"
        "system  died processed\n"
        "cluster    1         3\n"
        "Times:\n"
        "system  time     jobs 10% median 90% max\n"
        "cluster queue       3  1m     2m  3m  3m\n"
        "cluster run         4  1h     2h  3h  3h\n"
        "cluster transfer    3  2s     2s  2s  2s\n"
        "Core-hours:\n"
        "system  used  wasted resubmitted ended badly\n"
        "cluster 128.0   32.0           2 1 TimedOut \n"
    )
    found = json.loads(xpr("stats", "--json").stdout)
    assert found.keys() == {"cluster", "(not submitted)", "all"}
    assert found["all"]["wasted"] == 32.0
    assert found["cluster"]["times"]["run"] == {"10%": 3600, "median": 7200, "90%": 10800, "max": 10800, "jobs": 4}


def test_quantiles() -> None:
    assert quantiles([]) == []
    assert quantiles([5.0]) == [5.0] * 4
    assert quantiles(list(map(float, range(1, 101)))) == [10.0, 50.0, 90.0, 100.0]


def test_config_shows_files_systems_and_record(xpr: Xpr, project: Project) -> None:
    out = xpr("config").stdout
    assert f"  {project.root}/config.json\n" in out
    assert f"Record of jobs: {project.stage_dir}/jobs.db" in out
    assert "  local: Local on this machine, jobs run in the directory of their files\n" in out
    assert json.loads(xpr("config", "--json").stdout)["systems"]["local"]["host"] is None
    assert xpr("config", "-q").stdout == "local\n"


def test_a_broken_configuration_is_a_message(project: Project, monkeypatch: pytest.MonkeyPatch, xpr: Xpr) -> None:
    (project.stage_dir / "config.json").write_text('{"systems": {"a": {"host": null, "schedulr": "slurm"}}}')
    monkeypatch.setattr(config, "_current", None)
    message = xpr("ls", code=1).stderr
    assert message.startswith("Error: ")
    assert "schedulr" in message
    assert "Traceback" not in message


def test_no_configuration_at_all(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "EXPYRE_ROOT"} | {"HOME": str(tmp_path)}
    done = subprocess.run([*XPR, "ls"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No matching jobs in JobsDB at ")
    env["EXPYRE_ROOT"] = str(tmp_path / "gone")
    done = subprocess.run([*XPR, "ls"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_no_record_and_one_that_is_locked(
    xpr: Xpr, tmp_path: Path, add: Add, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.db").write_text("no record at all" * 100)
    assert "is damaged or is not a record" in xpr("--dbfile", str(tmp_path / "text.db"), "ls", code=1).stderr
    job = add("relax")
    monkeypatch.setattr(project.record._connections, "patience", 0.05)
    project.record.db.execute("PRAGMA busy_timeout = 50")
    holder = sqlite3.connect(project.record.db_filename, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    message = xpr("reset_status", "failed", "relax", code=1).stderr
    holder.rollback()
    holder.close()
    assert "locked" in message
    assert "xpr db_unlock" in message
    assert project.record.row(job).status == "created"


def test_unlocking_keeps_all_jobs(xpr: Xpr, add: Add) -> None:
    job = add("relax")
    assert "Unlocked " in xpr("db_unlock").stderr
    assert xpr("ls", "-q").stdout.split() == [job]


def test_unknown_commands_and_statuses_name_the_nearest(xpr: Xpr) -> None:
    assert "No such command 'cancle'. Did you mean: cancel" in xpr("cancle", code=2).stderr
    assert "'processd' is not one of" in xpr("reset_status", "processd", code=2).stderr
    assert "Directory 'gone' does not exist" in xpr("create_job", "-d", "gone", "-S", "local", code=2).stderr


def test_reset_status_with_a_filter(xpr: Xpr, add: Add, project: Project) -> None:
    one, two = add("one"), add("two", status="cleaned")
    assert xpr("reset_status", "created", "-s", "cleaned").stderr == "Status of 1 job set to created\n"
    assert [project.record.row(job).status for job in (one, two)] == ["created", "created"]


def test_create_job_makes_ids_and_names_of_directories(xpr: Xpr, project: Project, tmp_path: Path) -> None:
    job = make_id("a_b", 3)
    (tmp_path / f"run_{job}").mkdir()
    xpr("create_job", "--from_dir", str(tmp_path / f"run_{job}"), "--system", "cluster")
    row = project.record.row(job)
    assert (row.name, row.system, row.from_dir) == ("a_b", "cluster", str(tmp_path / f"run_{job}"))
    (tmp_path / "short").mkdir()
    assert "give one with --name" in xpr("create_job", "-d", "short", "-S", "cluster", code=1).stderr
    xpr("create_job", "-d", "short", "-S", "cluster", "-n", "short")
    xpr("--dbfile", "new.db", "create_job", "-d", "short", "-S", "cluster", "-n", "short")
    assert xpr("--dbfile", "new.db", "ls", "-q").stdout == "short\n"


def test_fail_job_of_a_job_without_directory(xpr: Xpr, add: Add) -> None:
    add("relax")
    assert "no directory" in xpr("fail_job", "-y", "relax", code=1).stderr


def test_logs_of_a_job_without_output(xpr: Xpr, add: Add) -> None:
    job = add("relax", files={})
    assert f"{job} (created) has left no output" in xpr("logs", "relax").stderr
    with_eq = add("pbs", files={}, status="failed")
    (project_dir := Path(config.project().record.row(with_eq).from_dir or "")).joinpath(
        f"job.{with_eq.replace('=', 'EQ')}.stdout"
    ).write_text("found\n")
    assert project_dir.is_dir()
    assert xpr("logs", "pbs", "--only", "job-stdout").stdout == "found\n"


def test_every_command_has_help_that_begins_as_the_list_of_commands(xpr: Xpr) -> None:
    listed = xpr("--help").stdout
    for name, entry in COMMANDS.items():
        assert entry.help in listed
        assert xpr(name, "--help").stdout.startswith(f"Usage: xpr {name} ")


def test_help_imports_neither_the_commands_nor_anything_heavy() -> None:
    code = (
        "import sys\nfrom expyre.cli.main import cli\n"
        "try:\n    cli(['--help'], prog_name='xpr')\nexcept SystemExit:\n    pass\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in "
        "('numpy', 'ase', 'sqlite3', 'paramiko', 'rich') or m.startswith('expyre.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "['expyre.cli.main']"


def test_a_terminal_that_cannot_show_a_name(add: Add) -> None:
    add("漢字", system="é")
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    for words in (["ls"], ["ls", "-q"], ["ls", "--json"], ["show", "abcd0000"]):
        done = subprocess.run([*XPR, *words], env=env, capture_output=True, check=True)
        assert rb"\u6f22" in done.stdout


def test_a_closed_pipe_is_no_error(add: Add) -> None:
    for number in range(300):
        add(f"relax{number}")
    command = f"{' '.join(XPR)} ls --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[\n", "")


@cache
def completion_code() -> str:
    return subprocess.run([*XPR, "completion", "bash"], capture_output=True, text=True, check=True).stdout


def complete(words: list[str]) -> list[str]:
    """Return what bash offers for the last of the words, from the code that `xpr completion` prints."""
    code = completion_code()
    quoted = " ".join(f"'{word}'" for word in ["xpr", *words])
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _xpr_completion {shutil.which('xpr') or XPR_SHIM}"
    script = f"{code}\n{ask}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


XPR_SHIM = str(Path(sys.executable).with_name("xpr"))


@pytest.mark.skipif(not Path("/bin/bash").exists() or not Path(XPR_SHIM).exists(), reason="needs bash and xpr")
def test_bash_completes_commands_ids_statuses_and_systems(add: Add) -> None:
    job = add("relax", system="cluster")
    add("md")
    assert complete(["re"]) == ["release", "retry", "reset_status"]
    assert complete(["show", "rel"]) == [job]
    assert complete(["ls", "-s", "created,suc"]) == ["created,succeeded"]
    assert complete(["ls", "-S", "cl"]) == ["cluster"]
    assert complete(["--dbfile", "/nowhere/jobs.db", "show", "rel"]) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_code(xpr: Xpr, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = xpr("completion", shell).stdout
    assert "_XPR_COMPLETE" in code
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert xpr("completion").stdout == code
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "'tcsh' is not one of bash, zsh, fish" in xpr("completion", code=1).stderr


def test_stats_on_a_narrow_terminal(add: Add) -> None:
    add("relax", system="a_system_with_a_name_much_longer_than_any_terminal_would_like_to_show_on_a_line",
        status="processed", t_started=time.time() - 60, t_ended=time.time())  # fmt: skip
    code, out = on_terminal(["stats"], 60)
    assert code == 0
    assert all(len(line) <= 60 for line in plain(out).splitlines())
