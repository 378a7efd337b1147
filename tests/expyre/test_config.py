"""From configuration files to a project."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import expyre.config as config
from expyre.config import Project, update_dict_leaves
from expyre.errors import ConfigError

PARTITION = {"num_cores": 16, "max_time": "2h", "max_mem": "4GB"}
SYSTEM: dict[str, Any] = {"host": None, "scheduler": "local", "partitions": {"small": PARTITION}}

Write = Callable[[str, Any], Path]


@pytest.fixture(autouse=True)
def _no_default_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOSTNAME", "here")
    monkeypatch.delenv("EXPYRE_ROOT", raising=False)
    for name in ("CORES", "MEM", "GPUS"):
        monkeypatch.delenv(f"EXPYRE_LOCAL_{name}", raising=False)
    before = config._current
    config._current = None
    yield
    config._current = before


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def write(home: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a config.json into a directory below home, as JSON or as it is, and go there."""

    def write_file(directory: str, data: Any) -> Path:
        path = home / directory
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(data if isinstance(data, str) else json.dumps(data))
        monkeypatch.chdir(path.parent)
        return path

    return write_file


def mistakes(root: str | Path = "@") -> list[str]:
    """Return the lines of the error that the configuration gives."""
    with pytest.raises(ConfigError) as error:
        Project.discover(root)
    return str(error.value).splitlines()


class TestMerging:
    def test_leaves(self) -> None:
        d = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "gone": {"x": 1}}
        update_dict_leaves(d, {"b": {"c": [3], "d": {"f": 2}}, "new": {"y": {"z": 0}}, "gone": "_DELETE_"})
        assert d == {"a": 1, "b": {"c": [3], "d": {"e": None, "f": 2}}, "new": {"y": {"z": 0}}}

    def test_values_are_copies(self) -> None:
        d: dict[str, Any] = {}
        over = {"a": [1], "b": {"c": [2]}}
        update_dict_leaves(d, over)
        d["a"].append(0)
        d["b"]["c"].append(0)
        assert over == {"a": [1], "b": {"c": [2]}}

    def test_deleting_what_is_not_there_does_nothing(self) -> None:
        d: dict[str, Any] = {"a": 1}
        update_dict_leaves(d, {"b": "_DELETE_", "c": {"d": "_DELETE_"}})
        assert d == {"a": 1, "c": {}}

    def test_a_dict_does_not_go_over_a_value(self) -> None:
        with pytest.raises(AssertionError, match=r"at: a\.b"):
            update_dict_leaves({"a": {"b": 1}}, {"a": {"b": {"c": 1}}})

    def test_a_value_goes_over_a_dict(self) -> None:
        d: dict[str, Any] = {"a": {"b": 1}}
        update_dict_leaves(d, {"a": 2})
        assert d == {"a": 2}

    TREES = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda leaves: st.dictionaries(st.sampled_from("abc"), leaves, max_size=3),
        max_leaves=8,
    )
    DICTS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)

    @given(DICTS)
    def test_onto_nothing_and_onto_itself_is_the_same(self, d: dict[str, Any]) -> None:
        merged: dict[str, Any] = {}
        update_dict_leaves(merged, d)
        assert merged == d
        update_dict_leaves(merged, d)
        assert merged == d


class TestDiscovery:
    def test_all_directories_up_to_home_deeper_ones_over_the_others(self, write: Write, home: Path) -> None:
        outer = write(".expyre", {"systems": {"a": SYSTEM, "b": SYSTEM}})
        over = {"a": {"partitions": {"small": {"max_time": "1h"}}}, "b": "_DELETE_"}
        inner = write("x/y/_expyre", {"systems": over})
        project = Project.discover()
        assert project.config_dirs == (outer, inner)
        assert (project.root, project.stage_dir) == (inner, inner)
        assert set(project.systems) == {"a", "local"}
        assert project.systems["a"].partitions["small"] == {"num_cores": 16, "max_time": 3600, "max_mem": 4 * 1024**2}

    def test_a_subdirectory_uses_those_above(self, write: Write, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        outer = write(".expyre", {"systems": {"a": SYSTEM}})
        (home / "x").mkdir()
        monkeypatch.chdir(home / "x")
        assert Project.discover().stage_dir == outer

    def test_a_directory_without_a_file_counts(self, write: Write, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(".expyre", {"systems": {"a": SYSTEM}})
        (home / "x" / "_expyre").mkdir(parents=True)
        monkeypatch.chdir(home / "x")
        project = Project.discover()
        assert project.stage_dir == home / "x" / "_expyre"
        assert "a" in project.systems

    def test_the_search_ends_at_home_also_through_a_link(
        self, write: Write, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "link").symlink_to(home)
        monkeypatch.setenv("HOME", str(tmp_path / "link"))
        (tmp_path / "_expyre").mkdir()
        inner = write("x/.expyre", {"systems": {}})
        assert Project.discover().config_dirs == (inner,)

    def test_outside_of_home_the_search_ends_at_the_top(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "other" / "_expyre").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "other")
        assert Project.discover().root == tmp_path / "other" / "_expyre"

    def test_home_counts_if_nothing_else_is_found(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = write(".expyre", {"systems": {"a": SYSTEM}})
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert Project.discover().root == own

    def test_both_names_in_one_directory(self, write: Write, home: Path) -> None:
        write(".expyre", {})
        write("_expyre", {})
        with pytest.raises(RuntimeError, match=r"has both \.expyre and _expyre"):
            Project.discover()

    @pytest.mark.parametrize("as_type", [str, Path])
    def test_an_explicit_directory(self, as_type: type, write: Write, home: Path) -> None:
        write(".expyre", {"systems": {"above": SYSTEM}})
        directory = write("any name", {"systems": {"a": SYSTEM}})
        project = Project.discover(as_type(directory))
        assert project.config_dirs == (directory,)
        assert set(project.systems) == {"a", "local"}

    def test_a_relative_directory_is_made_absolute(self, write: Write, home: Path) -> None:
        write("x/conf", {})
        project = Project.discover("conf/../conf/")
        assert project.stage_dir == home / "x" / "conf"
        assert project.rundir_extra == f"here-{home}/x/conf".replace("/", "_")

    def test_no_directory(self, home: Path) -> None:
        with pytest.raises(ValueError, match="is not a directory"):
            Project.discover(home / "nothing")

    def test_stage_dir_from_the_file(self, write: Write, home: Path) -> None:
        directory = write(".expyre", {"local_stage_dir": "~/deep/stage"})
        project = Project.discover(directory)
        assert project.stage_dir == home / "deep" / "stage"
        assert not project.stage_dir.exists()
        assert project.stage_root.stat().st_mode & 0o777 == 0o700
        assert (home / "deep").stat().st_mode & 0o777 == 0o700

    def test_verbose(self, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
        directory = write(".expyre", {"systems": {"a": SYSTEM}})
        Project.discover(verbose=True)
        out, err = capsys.readouterr()
        assert str(directory) in out
        assert "a local" in err


class TestRunDirectory:
    @pytest.mark.parametrize("name", [".expyre", "_expyre"])
    def test_named_after_the_parent(self, name: str, write: Write, home: Path) -> None:
        project = Project.discover(write(f"proj/{name}", {}))
        assert project.rundir_extra == f"here-{home}/proj".replace("/", "_")

    def test_host(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = write("x", {"remote_rundir_submit_hostname": "login"})
        assert Project.discover(directory).rundir_extra.startswith("login-_")
        directory = write("y", {})
        monkeypatch.delenv("HOSTNAME")
        assert Project.discover(directory).rundir_extra.startswith(f"{socket.gethostname()}-_")

    @pytest.mark.parametrize("rundir", ["run", "run/", "~/run", "$HOME/run", "${HOME}/run"])
    def test_systems_run_there(self, write: Write, home: Path, rundir: str) -> None:
        directory = write("p/_expyre", {"systems": {"a": SYSTEM | {"rundir": rundir}}})
        expected = f"{home}/run/here-" + f"{home}/p".replace("/", "_")
        assert Project.discover(directory).systems["a"].remote_rundir == expected


class TestLocalSystem:
    def test_without_any_configuration(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(home)
        monkeypatch.setenv("EXPYRE_LOCAL_CORES", "3")
        monkeypatch.setenv("EXPYRE_LOCAL_MEM", "8GB")
        monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "2")
        project = Project.discover()
        assert (project.root, project.config_dirs) == (None, ())
        assert project.stage_dir == home / ".expyre"
        assert not project.stage_dir.exists()
        assert set(project.systems) == {"local"}
        node = {"num_cores": 3, "max_time": None, "max_mem": 8 * 1024**2, "num_gpus": 2}
        assert project.systems["local"].partitions == {"local": node}
        assert project.systems["local"].host is None
        assert project.systems["local"].remote_rundir is None
        assert project.stage_root.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("removed", [None, "_DELETE_"])
    def test_removed(self, removed: str | None, write: Write) -> None:
        assert set(Project.discover(write("x", {"systems": {"a": SYSTEM, "local": removed}})).systems) == {"a"}

    def test_of_ones_own(self, write: Write) -> None:
        own = Project.discover(write("x", {"systems": {"local": SYSTEM}})).systems["local"]
        assert set(own.partitions) == {"small"}

    def test_settings_go_over_ours(self, write: Write) -> None:
        over = {"commands": ["module load x"], "partitions": {"local": {"num_cores": 1}}}
        project = Project.discover(write("x", {"systems": {"local": over}}))
        assert project.systems["local"].commands == ["module load x"]
        assert project.systems["local"].partitions["local"]["num_cores"] == 1

    def test_a_wrong_variable(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(home)
        monkeypatch.setenv("EXPYRE_LOCAL_CORES", "all")
        with pytest.raises(ConfigError, match="EXPYRE_LOCAL_CORES='all'"):
            Project.discover()


class TestMistakes:
    def test_all_of_all_files_at_once(self, write: Write) -> None:
        outer = write(".expyre", {"systems": {"a": SYSTEM, "plain": 3}, "sytems": {}})
        partitions = {"small": {"num_cores": "many", "max_tme": "1h"}, "large": {"num_cores": 2}}
        system = {"a": {"partitions": partitions, "comands": ["x"], "header": "one"}}
        inner = write("x/_expyre", {"systems": system})
        broken = write("x/y/_expyre", '{\n "systems": {,}\n}')
        a = f"  {inner}/config.json: systems.a"
        assert set(mistakes()[1:]) == {
            f"  {broken}/config.json: line 2, column 14: not JSON: Expecting property name enclosed in double quotes",
            f"  {outer}/config.json: sytems: no such setting, the nearest is 'systems'",
            f"  {outer}/config.json: systems.plain: 3 is not a system: "
            "give its settings in {…}, or null to remove it",
            f"{a}.comands: no such setting of a system, the nearest is 'commands'",
            f"{a}.header: 'one' is not a list of strings: write ['one']",
            f"{a}.partitions.small.num_cores: 'many' is not an integer of at least 1",
            f"{a}.partitions.small.max_tme: no such setting, the nearest is 'max_time'",
            f"{a}.partitions.large: needs 'max_time'",
            f"{a}.partitions.large: needs 'max_mem'",
        }
        assert mistakes()[0] == "the configuration has 9 mistakes:"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"scheduler": "slrum"}, "scheduler: 'slrum' is not known, the nearest is 'slurm'"),
            ({"host": 3}, "host: 3 is neither a string nor null"),
            ({"queues": {}}, "a: has both 'partitions' and 'queues'"),
            ({"partitions": {"x": 4}}, "partitions.x: 4 is not a partition"),
            (
                {"partitions": {"x": PARTITION | {"max_time": "1w"}}},
                "partitions.x.max_time: cannot read '1w'",
            ),
            ({"partitions": {"x": PARTITION | {"max_mem": "4"}}}, "partitions.x.max_mem: cannot read '4'"),
            ({"partitions": {"x": PARTITION | {"max_mem": 0}}}, "partitions.x.max_mem: 0 is not more than 0"),
            ({"partitions": {"x": PARTITION | {"num_gpus": -1}}}, "partitions.x.num_gpus: -1 is not an integer"),
            ({"no_default_header": "yes"}, "no_default_header: 'yes' is neither true nor false"),
            ({"pre_submit_cmds": [1]}, "pre_submit_cmds: [1] is not a list of strings"),
            ({"remsh_cmd": 1}, "remsh_cmd: 1 is not a command"),
            ({"transport": "ssh"}, "transport: 'ssh' is not known, the nearest is 'openssh'"),
            ({"max_queued": 0}, "max_queued: 0 is not an integer of at least 1"),
            ({"retry": {"on": ["TimeOut"]}}, "retry: this retry policy makes no sense"),
            ({"scheduler_options": []}, "scheduler_options: [] is not a mapping"),
            ({"rundir_extra": "x"}, "rundir_extra: no such setting of a system"),
            (
                {"scheduler": "slurm", "scheduler_options": {"max_runing": 3}},
                "scheduler_options.max_runing: no such option of slurm, the nearest is 'max_running'",
            ),
            (
                {"scheduler": "sge", "scheduler_options": {"max_running": "many"}},
                "scheduler_options.max_running: 'many' is not an integer of at least 1",
            ),
            (
                {"scheduler": "pbs", "scheduler_options": {"dialect": "torqe"}},
                "scheduler_options.dialect: 'torqe' is not known, the nearest is 'torque'",
            ),
            ({"scheduler": "sge", "scheduler_options": {"gpu_resource": 2}}, "gpu_resource: 2 is neither a string nor"),
            ({"scheduler": "local", "scheduler_options": {"grace": "1s"}}, "grace: '1s' is not a number of seconds"),
            (
                {"host": "h", "transport": "paramiko", "remsh_cmd": "ssh -4"},
                "remsh_cmd: means nothing to the transport 'paramiko'",
            ),
        ],
    )
    def test_of_a_system(self, change: dict[str, Any], message: str, write: Write) -> None:
        lines = mistakes(write("x", {"systems": {"a": SYSTEM | change}}))
        assert len(lines) == 2
        assert message in lines[1]

    def test_a_system_needs_its_keys(self, write: Write) -> None:
        text = "\n".join(mistakes(write("x", {"systems": {"a": {"schedler": "slurm"}}})))
        assert "systems.a: needs 'host'" in text
        assert "systems.a: needs 'scheduler' (is 'schedler' meant for it?)" in text
        assert "systems.a: needs 'partitions'" in text

    @pytest.mark.parametrize(
        ("text", "message"),
        [("[1]", "must hold one {…}"), ('{"a": "\udcff"}', "cannot be read"), ("", "line 1, column 1: not JSON")],
    )
    def test_files_that_are_none(self, text: str, message: str, write: Write) -> None:
        directory = write("x", {})
        (directory / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        assert message in mistakes(directory)[1]

    def test_a_dict_over_a_value(self, write: Write) -> None:
        write(".expyre", {"systems": {"a": SYSTEM}})
        inner = write("x/.expyre", {"systems": {"a": {"scheduler": {"name": "slurm"}}}})
        expected = f"  {inner}/config.json: systems.a.scheduler: has keys of its own"
        assert mistakes()[1].startswith(expected)

    def test_notes_of_the_user_are_let_through(self, write: Write) -> None:
        partition = PARTITION | {"owner": "us", "_max_time": "was 4h"}
        data = {"comment": "x", "systems": {"_note": "y", "a": SYSTEM | {"partitions": {"p": partition}}}}
        assert set(Project.discover(write("x", data)).systems) == {"a", "local"}

    def test_null_partitions(self, write: Write) -> None:
        systems = {"a": SYSTEM | {"partitions": None}, "b": {"host": None, "scheduler": "local", "queues": None}}
        assert set(Project.discover(write("x", {"systems": systems})).systems) == {"a", "b", "local"}


class TestDefaultProject:
    def test_nothing_before_init(self) -> None:
        assert (config.local_stage_dir, config.systems, config.db) == (None, None, None)
        with pytest.raises(AttributeError, match="no attribute 'system'"):
            config.system  # type: ignore[attr-defined]  # noqa: B018

    def test_init_can_be_called_again(self, write: Write) -> None:
        first, second = write("x", {"systems": {"a": SYSTEM}}), write("y", {"systems": {"b": SYSTEM}})
        config.init(str(first))
        systems, db = config.systems, config.db
        assert config.local_stage_dir == first
        config.init(second)
        assert set(config.systems or ()) == {"b", "local"}
        assert set(systems or ()) == {"a", "local"}
        assert db is not None
        assert str(db.db_filename) == str(first / "jobs.db")
        assert list(db.jobs()) == []

    def test_a_failed_init_changes_nothing(self, write: Write, home: Path) -> None:
        config.init(write("x", {"systems": {"a": SYSTEM}}))
        before = config.project()
        with pytest.raises(ConfigError):
            config.init(home / "nothing")
        assert config.project() is before

    def test_systems_are_live(self, write: Write) -> None:
        config.init(write("x", {"systems": {"a": SYSTEM, "b": SYSTEM}}))
        assert config.systems is not None
        config.systems["a"].commands = ["changed"]
        del config.systems["b"]
        assert config.project().systems["a"].commands == ["changed"]
        assert set(config.project().systems) == {"a", "local"}

    def test_the_view_can_be_assigned_to(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        config.init(write("x", {"systems": {"a": SYSTEM}}))
        before = config.systems
        with monkeypatch.context() as patch:
            patch.setattr(config, "systems", {})
            assert config.project().systems == {}
        assert config.systems is before

    def test_two_projects_do_not_interfere(self, write: Write) -> None:
        a = Project.discover(write("a", {"systems": {"s": SYSTEM}}))
        b = Project.discover(write("b", {"systems": {"s": SYSTEM}}))
        a.systems["s"].commands.append("only a")
        a.systems["s"].partitions["small"]["num_cores"] = 1
        assert b.systems["s"].commands == []
        assert b.systems["s"].partitions["small"]["num_cores"] == 16
        a.record.add("id", "name", "dir")
        assert (len(list(a.record.jobs())), len(list(b.record.jobs()))) == (1, 0)
        a.close()
        assert len(list(a.record.jobs())) == 1
        for project in (a, b):
            project.close()


def run_python(code: str, cwd: Path, **env: str) -> str:
    """Return what a fresh interpreter, where there is no pytest, prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **env}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


class TestOutsideOfPytest:
    def test_found_at_first_use(self, write: Write, home: Path) -> None:
        directory = write("_expyre", {"systems": {"a": SYSTEM}})
        code = "import expyre.config as c; print(c.local_stage_dir, *c.systems)"
        assert run_python(code, home) == f"{directory} a local"

    def test_root_from_the_environment(self, write: Write, home: Path) -> None:
        write("_expyre", "broken")
        other = write("other", {})
        code = "import expyre.config as c; print(c.local_stage_dir)"
        assert run_python(code, home, EXPYRE_ROOT="other") == str(other)
