import json
import sys

import pytest

from wfl.autoparallelize import AutoparaInfo, RemoteInfo, autoparallelize, autoparallelized, routing
from wfl.autoparallelize.routing import RouteError, call_frames, get_remote_info, match

INFO = {"sys_name": "s", "job_name": "j", "resources": {"max_time": "1h", "num_nodes": 1}}
FRAMES = ["/x/wfl/generate/md/__init__.py::md", "/home/u/gap_rss.py::do_md", "/home/u/gap_rss.py::<module>"]


@pytest.fixture(autouse=True)
def _no_report_at_exit(monkeypatch):
    monkeypatch.setattr(routing, "_seen", [])
    monkeypatch.setattr(routing, "_calls", set())
    monkeypatch.setattr(routing.atexit, "register", lambda function: None)
    routing._routes.cache_clear()


def set_routes(monkeypatch, routes):
    monkeypatch.setenv("WFL_EXPYRE_INFO", routes if isinstance(routes, str) else json.dumps(routes))


@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("md", True),
        ("md/__init__.py::md", True),
        ("__init__.py::md", True),
        ("wfl/generate/md/__init__.py::md", True),
        ("/x/wfl/generate/md/__init__.py::md", True),
        ("gap_rss.py::do_md, generate/md/__init__.py::md", True),
        ("gap_rss.py::do_md,md", True),
        ("gap_rss.py::<module>,do_md,md", True),
        ("d", False),
        ("init__.py::md", False),
        ("__init__xpy::md", False),
        ("do_md", False),
        ("gap_rss.py::<module>,md", False),
        ("a,gap_rss.py::<module>,do_md,md", False),
        (r"md/.*\.py::(md|optimize)", True),
        ("md(", False),
    ],
)
def test_keys_match_ends_of_frames_at_path_components(key, matches):
    parts = tuple(part.strip() for part in key.split(","))
    assert match(parts, FRAMES) is matches


@pytest.mark.parametrize(
    ("key", "matches"),
    [("lab", True), ("la.", False), ("la", False), ("lab,lab2", True), ("lab2, lab", True), ("lab2", False),
     ("gap_rss.py::do_md,lab", True), ("other.py::do_md,lab", False), ("md", False)],
)
def test_keys_match_labels(key, matches):
    assert match(tuple(part.strip() for part in key.split(",")), FRAMES, "lab") is matches


def outer():
    return inner()


def inner():
    return get_remote_info()


def test_route_by_direct_call(monkeypatch, capsys):
    set_routes(monkeypatch, {"test_routing.py::outer,inner": INFO})
    assert inner() is None
    assert outer().job_name == "j"
    assert "WFL_EXPYRE_INFO matched key test_routing.py::outer,inner" in capsys.readouterr().err


def test_first_match_wins_and_label_is_given(monkeypatch):
    set_routes(monkeypatch, {"lab": INFO, "inner": {**INFO, "job_name": "second"}, "test_routing.py::inner": INFO})
    assert inner().job_name == "second"
    assert get_remote_info(None, "lab").job_name == "j"
    assert get_remote_info(None, "no such label") is None


def test_wrapper_is_the_innermost_frame(monkeypatch):
    frames = []
    monkeypatch.setattr(routing, "_select", lambda routes, label: frames.extend(call_frames(sys._getframe(1))))
    set_routes(monkeypatch, {"something": INFO})

    def wrapper(*args, **kwargs):
        return autoparallelize(lambda items: None, *args, **kwargs)

    @autoparallelized()
    def decorated(items):
        return None

    wrapper([], None)
    assert frames[0].endswith("test_routing.py::wrapper")
    frames.clear()
    decorated([], None)
    assert frames[0].endswith("test_routing.py::decorated")
    assert frames[1].endswith("test_routing.py::test_wrapper_is_the_innermost_frame")


@pytest.mark.parametrize("value", ["", "  ", "{}", "null"])
def test_nothing_set_is_local(monkeypatch, value):
    set_routes(monkeypatch, value)
    assert inner() is None


def test_file_is_read_and_read_again_when_changed(tmp_path, monkeypatch):
    path = tmp_path / "info.json"
    path.write_text(json.dumps({"inner": INFO}))
    monkeypatch.setenv("WFL_EXPYRE_INFO", str(path))
    assert inner().job_name == "j"
    path.write_text("inner:\n  sys_name: s\n  job_name: changed\n  resources: {num_nodes: 1, max_time: 1h}\n")
    assert inner().job_name == "changed"
    monkeypatch.setenv("WFL_EXPYRE_INFO", str(tmp_path / "missing file.json"))
    with pytest.raises(FileNotFoundError, match=r"missing file.json.*meant to be JSON"):
        inner()


def test_route_for_all(monkeypatch, caplog):
    set_routes(monkeypatch, INFO)
    assert inner().sys_name == "s"
    assert "all autoparallelized calls" in caplog.text


def test_all_mistakes_at_once_with_nearest_key(monkeypatch):
    set_routes(monkeypatch, {"a": {**INFO, "job_nam": "x"}, "b": {"sys_name": "s"}, "c": 3,
                             "d": {**INFO, "resources": "1h"}})
    with pytest.raises(TypeError) as error:
        inner()
    assert isinstance(error.value, RouteError)
    text = str(error.value)
    for words in ("'a': unknown key 'job_nam'; did you mean 'job_name'?", "'b': 'job_name' is missing",
                  "'b': 'resources' is missing", "'c': must be a dict", "'d': 'resources' must be a dict"):
        assert words in text


def test_unused_keys_are_reported(monkeypatch, capsys):
    set_routes(monkeypatch, {"inner": INFO, "never::used": INFO})
    inner()
    capsys.readouterr()
    routing.report_unused()
    assert capsys.readouterr().err == "WARNING: WFL_EXPYRE_INFO: no autoparallelized call matched 'never::used'\n"


def test_explicit_info():
    info = RemoteInfo(**INFO)
    assert get_remote_info(info) is info
    assert get_remote_info(INFO).sys_name == "s"
    assert get_remote_info("_IGNORE") is None
    with pytest.raises(TypeError, match="job_nam"):
        get_remote_info({**INFO, "job_nam": "x"})


def test_remote_info_copies_what_it_gets():
    given = {**INFO, "env_vars": ["A=1"]}
    info = RemoteInfo(**given)
    info.env_vars.append("B")
    info.resources["num_nodes"] = 5
    assert given["env_vars"] == ["A=1"]
    assert INFO["resources"]["num_nodes"] == 1
    assert info.items_per_job(7) == 700
    assert str(info) == "s j {'max_time': '1h', 'num_nodes': 5} -100 True False 3600 30"


def test_autopara_info_is_not_changed():
    info = AutoparaInfo(num_python_subprocesses=0)
    full = AutoparaInfo.from_user(info, {"num_inputs_per_python_subprocess": 10})
    assert full.num_inputs_per_python_subprocess == 10
    assert not hasattr(info, "num_inputs_per_python_subprocess")
    info.update_defaults({"num_inputs_per_python_subprocess": 3})
    assert (info.num_inputs_per_python_subprocess, info.num_python_subprocesses, info.remote_info) == (3, 0, None)
    with pytest.raises(ValueError, match="did you mean 'remote_label'"):
        AutoparaInfo(remote_lable="x")
    with pytest.raises(ValueError, match="unknown default"):
        info.update_defaults({"nonsense": 1})


def test_keys_that_matched_no_call_are_reported_when_the_script_ends(tmp_path):
    import json
    import os
    import subprocess
    import sys

    script = "from wfl.autoparallelize import autoparallelize\nautoparallelize(len, [], None)\n"
    route = {"sys_name": "local", "job_name": "x", "resources": {"num_cores": 1, "max_time": 1}}
    env = {**os.environ, "WFL_EXPYRE_INFO": json.dumps({"optimze.py::optimize": route})}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "no autoparallelized call matched 'optimze.py::optimize'" in done.stderr
