from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import make_id, on_terminal, plain
from click.testing import Result

from expyre import config
from expyre.cli.listing import table
from expyre.cli.output import Screen
from expyre.cli.text import width
from expyre.config import Project
from expyre.jobsdb import JobRow

Xpr = Callable[..., Result]
Add = Callable[..., str]

T0 = 1_700_000_000


@pytest.fixture
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def rows() -> list[JobRow]:
    return [
        JobRow(make_id("relax", 0), "relax", "/p/.expyre/run_a", "created", creation_time=T0),
        JobRow(make_id("md_chunk_12", 1), "md_chunk_12", "/p/.expyre/run_b", "succeeded", "cluster", "1234567", "done",
               T0, T0 + 3600),
    ]  # fmt: skip


@pytest.mark.usefixtures("_utc")
def test_the_table_in_full() -> None:
    assert "\n".join(table(rows(), Screen())) == (
        "  id                       stat (time)                    remote_id@sys   remote stat\n"
        "0       relax_QQQQQQQQQ...                  created(None)       None@None        None\n"
        "1 md_chunk_12_QQQQQQQQQ... succeeded(2023-11-14 23:13:20) 1234567@cluster        done"
    )


@pytest.mark.usefixtures("_utc")
def test_the_long_table_has_names_whole_ids_times_of_creation_and_directories() -> None:
    head, first, _ = table(rows(), Screen(), long=True)
    assert head.split() == ["name", "id", "created", "stat", "(time)", "remote_id@sys", "remote", "stat", "from", "dir"]
    assert first.split() == ["0", "relax", make_id("relax"), "2023-11-14", "22:13:20", "created(None)", "None@None",
                             "None", "/p/.expyre/run_a"]  # fmt: skip


def test_a_narrow_terminal_gets_names_the_ends_of_ids_and_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: T0 + 3 * 3600)
    assert "\n".join(table(rows(), Screen(80))) == (
        "  id                   stat (time)   remote_id@sys   remote stat\n"
        "0       relax…abcd0000 created(None)       None@None        None\n"
        "1 md_chunk_12…abcd0001 succeeded(2h) 1234567@cluster        done"
    )


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(columns: int, long: bool) -> None:
    names = ["a" * 90, "漢字" * 30, "new\nline", "$(rm -rf /)", "it's \"quoted\"", "\x1b[31mred", "é\u0301\u202e"]
    hostile = [JobRow(make_id(n), n, f"/x/{n}", "started", "sy s", "1" * 40, "running", T0, T0) for n in names]
    lines = table(hostile, Screen(columns), long=long)
    assert len(lines) == len(names) + 1
    assert all(width(line) <= columns and line.isprintable() for line in lines)


def test_ids_keep_their_end_as_long_as_there_is_room() -> None:
    lines = table([JobRow(make_id("a" * 90), "a" * 90, "/x", "started", "s", "1", "running", T0, T0)], Screen(60))
    assert "a…abcd0000 " in lines[1]


def test_an_empty_record(xpr: Xpr, project: Project) -> None:
    assert xpr("ls").stdout == f"No matching jobs in JobsDB at {project.record.db_filename}\n"
    assert xpr("ls", "--json").stdout == "[]\n"
    assert xpr("ls", "-q").stdout == ""


def test_output_that_is_no_terminal_is_whole(xpr: Xpr, add: Add) -> None:
    job = add("relax" * 30)
    out = xpr("ls").stdout.splitlines()
    assert out[0] == "Jobs:"
    assert f"{job[: 5 * 30 + 10]}..." in out[2]


@pytest.mark.usefixtures("_utc")
def test_a_terminal_of_80_columns(add: Add) -> None:
    add("relax_of_quite_a_long_chain_chunk_7", status="started", system="cluster", remote_id="1234567",
        remote_status="running", status_time=int(time.time()) - 7200)  # fmt: skip
    code, out = on_terminal(["ls"], 80)
    assert code == 0
    lines = plain(out).splitlines()
    assert all(width(line) <= 80 for line in lines)
    _, job, *others = lines[2].split()
    assert job == "relax_of_quite_a_long_chain_c…abcd0000"
    assert others == ["started(2h)", "1234567@cluster", "running"]
    assert "\x1b[" in out


def test_json_has_what_the_record_knows_and_no_secrets(xpr: Xpr, add: Add) -> None:
    add("relax", hmac_key=b"secret", token="word", resources='{"max_time": "1h"}', num_cores=4)
    (job,) = json.loads(xpr("ls", "--json").stdout)
    assert job["name"] == "relax"
    assert job["resources"] == {"max_time": "1h"}
    assert job["num_cores"] == 4
    assert not {"hmac_key", "token"} & job.keys()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-s", "*"], "abcde"),
        (["-s", "created"], "ab"),
        (["-s", "created,failed"], "abd"),
        (["-s", "created", "-s", "failed"], "abd"),
        (["-s", "ongoing"], "abc"),
        (["-n", "relax.*"], "ab"),
        (["-n", r"md\,2,neb"], "de"),
        (["-n", "m[d,e],neb"], "ce"),
        (["-n", "relax|md"], "ac"),
        (["-n", "rel"], ""),
        (["-S", "cluster"], "c"),
        (["-S", ".*", "-s", "*"], "cd"),
        (["-i", ".*abcd000[04]"], "ae"),
        (["-i", "*"], "abcde"),
        (["--limit", "2"], "ab"),
        (["--limit", "2", "--newest"], "ed"),
        (["--limit", "0"], ""),
        (["--since", "1d"], "bcde"),
        (["--before", "1d"], "a"),
        (["--since", "1d", "--limit", "1", "--newest"], "e"),
        (["neb"], "e"),
        (["neb", "-s", "failed"], ""),
        (["abcd0002", "relax+"], "bc"),
    ],
)
def test_filters(xpr: Xpr, add: Add, words: list[str], found: str) -> None:
    ids = {
        add("relax", creation_time=int(time.time()) - 3 * 86400): "a",
        add("relax+"): "b",
        add("md", status="started", system="cluster"): "c",
        add("md,2", status="failed", system="old"): "d",
        add("neb", status="processed"): "e",
    }
    listed = [ids[line] for line in xpr("ls", "-q", *words).stdout.split()]
    assert (listed if "--newest" in words else sorted(listed)) == list(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-s", "sucess"], "did you mean 'succeeded'?"),
        (["-s", "xyzzy"], "Statuses and groups: created, submitted"),
        (["-n", "a("], "'a(' is not a regular expression"),
        (["--since", "yesterday"], "'yesterday' is not a time; write it like"),
        (["--limit", "-1"], "--limit"),
    ],
)
def test_filters_that_make_no_sense_are_usage_errors(xpr: Xpr, words: list[str], message: str) -> None:
    assert message in xpr("ls", *words, code=2).stderr


def test_another_record_does_not_open_the_default_one(
    xpr: Xpr, add: Add, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add("relax")
    other = tmp_path / "elsewhere"
    other.mkdir()
    project.record.backup(other / "jobs.db")
    monkeypatch.setattr(config, "_current", None)
    monkeypatch.setenv("EXPYRE_ROOT", "/nowhere/at/all")
    assert xpr("--dbfile", str(other / "jobs.db"), "ls", "-q").stdout.split() == [job]
    assert "there is no file 'gone.db'" in xpr("--dbfile", "gone.db", "ls", code=1).stderr
    assert not (tmp_path / "gone.db").exists()
