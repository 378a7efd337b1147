import json
import os

import numpy as np
import pytest
from ase.atoms import Atoms

from expyre.errors import ExPyReJobDiedError, TimedOut
from wfl.autoparallelize import AutoparaInfo, RemoteInfo, autoparallelize, autoparallelized
from wfl.autoparallelize.base import take_apart
from wfl.autoparallelize.output import Sink
from wfl.autoparallelize.remote import chunk_calls, cut
from wfl.configset import ConfigSet, OutputSpec


@autoparallelized(num_inputs_per_python_subprocess=2)
def odd_or_fail(atoms, log=None, fail=(), rng=None, _autopara_per_item_info=None):
    """Keep the configurations with an odd position; note each in a file."""
    result = []
    for at, info in zip(atoms, _autopara_per_item_info, strict=True):
        x = round(at.positions[0, 0])
        if log:
            with open(log, "a") as f:
                f.write(f"{x}\n")
        if x in fail:
            raise ValueError(f"{x} is bad")
        if "rng" in info:
            at.info["r"] = float(info["rng"].normal())
        result.append(at if x % 2 else None)
    return result


def configs(n, start=0):
    return [Atoms("H", positions=[(i, 0, 0)]) for i in range(start, start + n)]


def remote_info(**more):
    return {"sys_name": "local", "job_name": "odd+1", "resources": {"num_cores": 1, "max_time": "5m"},
            "exact_fit": False, "partial_node": True, "num_inputs_per_queued_job": 3, "check_interval": 1,
            "timeout": 100, "env_vars": ["OMP_NUM_THREADS=1"], **more}


@pytest.fixture
def project(tmp_path, monkeypatch, repo_root):
    from expyre import config

    (tmp_path / "_expyre").mkdir()
    monkeypatch.setenv("EXPYRE_LOCAL_DIR", str(tmp_path / "spool"))
    here = os.path.dirname(__file__)
    monkeypatch.setenv("PYTHONPATH", f"{repo_root}:{here}")
    monkeypatch.chdir(tmp_path)
    config.init(tmp_path / "_expyre")
    return config


def calls_of(inputs, *args, info=None, **kwargs):
    call = take_apart(odd_or_fail.op, (inputs, None, *args), kwargs, {"num_inputs_per_python_subprocess": 2})
    info = RemoteInfo(**(info or remote_info()))
    return chunk_calls(call, info, dict(enumerate(cut(call, info, Sink(call.inputs), call.rng))))


def keys(calls):
    from expyre.identity import identify

    return [identify(call.function, call.args, call.kwargs, ignore=call.hash_ignore).key for call in calls]


def test_calls_of_chunks():
    calls = calls_of(configs(7), info=remote_info(pre_cmds=["a"], input_files=["b"], hash_ignore=["log"]), log="x")
    assert [call.name for call in calls] == [f"odd+1_chunk_{i}" for i in range(3)]
    assert [len(call.kwargs["iterable"]) for call in calls] == [3, 3, 1]
    assert calls[0].scope == "odd+1"
    assert calls[0].env_vars == ["OMP_NUM_THREADS=1", "WFL_NUM_PYTHON_SUBPROCESSES=${EXPYRE_NUM_CORES_PER_NODE}"]
    assert calls[0].kwargs["unkeyed_kwargs"] == {"log": "x"}


def test_keys_depend_on_what_is_computed():
    def plain(inputs, **kwargs):
        from wfl.map import map as wfl_map

        call = take_apart(wfl_map.op, (inputs, None, abs), kwargs, {})
        info = RemoteInfo(**remote_info(hash_ignore=["args"] if kwargs.get("args") else []))
        return keys(chunk_calls(call, info, dict(enumerate(cut(call, info, Sink(call.inputs), None)))))

    pytest.importorskip("wfl.map")
    first = plain(configs(9))
    assert plain(configs(9)) == plain(ConfigSet(configs(9))) == plain(ConfigSet([configs(4), configs(5, 4)])) == first
    assert plain(configs(3, 3) + configs(6, 20))[0] == first[1]
    assert not set(plain(configs(9, 100))) & set(first)


def test_ignored_arguments(project):
    ignoring = remote_info(hash_ignore=["log"])
    one = keys(calls_of(configs(3), info=ignoring, log="a"))
    assert one == keys(calls_of(configs(3), info=ignoring, log="b")) == keys(calls_of(configs(3), "c", info=ignoring))
    assert one != keys(calls_of(configs(3), info=ignoring, log="a", fail=(50,)))
    assert keys(calls_of(configs(3), log="a")) != keys(calls_of(configs(3), log="b"))


def test_jobs_give_what_a_local_run_gives(project, tmp_path, monkeypatch):
    inputs = ConfigSet([configs(4), configs(4, 4)])
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    info = AutoparaInfo(remote_info=RemoteInfo(**remote_info()))
    before = {name: str(value) for name, value in vars(info.remote_info).items()}
    monkeypatch.setenv("WFL_EXPYRE_NO_MARK_PROCESSED", "1")
    log = str(tmp_path / "log")

    def run(**kwargs):
        output = OutputSpec(files, overwrite=True)
        found = odd_or_fail(inputs, output, log, rng=np.random.default_rng(2), **kwargs)
        return [(at.positions[0, 0], at.info["r"], at.info["_ConfigSet_loc"]) for at in found]

    remote = run(autopara_info=info)
    assert [loc for _, _, loc in remote] == [" / 0 / 1", " / 0 / 3", " / 1 / 1", " / 1 / 3"]
    assert {name: str(value) for name, value in vars(info.remote_info).items()} == before
    assert vars(info).keys() == {"remote_info"}
    assert run(autopara_info=info) == remote
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(8))  # nothing was computed again
    monkeypatch.delenv("WFL_EXPYRE_NO_MARK_PROCESSED")
    assert run(autopara_info=info) == remote
    assert {job["status"] for job in project.db.jobs()} == {"processed"}
    assert run(autopara_info={"num_python_subprocesses": 0}) == remote


def add_up(atoms, table, more):
    for at in atoms:
        at.info["sum"] = float(table.sum()) + float(more["table"].sum()) + len(at)
    return atoms


def test_what_all_jobs_need_is_staged_once(project, tmp_path):
    table = np.random.default_rng(0).random(100_000)
    info = {"remote_info": remote_info(num_inputs_per_queued_job=1)}
    found = autoparallelize(add_up, configs(3), OutputSpec(), table, {"table": table}, autopara_info=info)
    assert [at.info["sum"] for at in found] == [pytest.approx(2 * table.sum() + 1)] * 3
    [file] = (tmp_path / "_expyre").glob("_expyre_shared_*")
    assert file.stat().st_nlink == 4
    assert all(path.stat().st_size < 10_000 for path in (tmp_path / "_expyre").glob("run_*/_expyre_task_in.pckl"))


def test_failures_are_reported_together(project, tmp_path):
    log = str(tmp_path / "log")
    info = {"remote_info": remote_info(num_inputs_per_queued_job=2, hash_ignore=["fail"])}
    with pytest.raises(ValueError, match="3 is bad") as error:
        odd_or_fail(configs(8), OutputSpec("out.xyz"), log, (3, 6), autopara_info=info)
    notes = "\n".join(error.value.__notes__)
    assert "2 of 4 jobs" in notes
    assert "items 6-7: ValueError: 6 is bad" in notes
    assert not (tmp_path / "out.xyz").exists()
    done = [int(word) for word in (tmp_path / "log").read_text().split()]
    assert odd_or_fail(configs(8), None, log, autopara_info=info) is None
    again = [int(word) for word in (tmp_path / "log").read_text().split()][len(done) :]
    assert sorted(again) == [2, 3, 6, 7]


def test_failed_jobs_can_be_ignored(project):
    info = {"remote_info": remote_info(num_inputs_per_queued_job=2, ignore_failed_jobs=True)}
    found = list(odd_or_fail(configs(4), OutputSpec(), None, (2,), autopara_info=info))
    assert [round(at.positions[0, 0]) for at in found] == [1, 2, 3]
    assert [at.info.get("EXPYRE_REMOTE_JOB_FAILED") for at in found] == [None, True, True]


def test_started_jobs_are_collected_later(project, monkeypatch, capsys):
    monkeypatch.setenv("WFL_EXPYRE_INFO", json.dumps({"collect": remote_info()}))
    info = {"remote_label": "collect"}
    assert odd_or_fail(configs(4), OutputSpec(), autopara_info=info, wait_for_results=False) is None
    found = odd_or_fail(configs(4), OutputSpec(), autopara_info=info)
    assert [round(at.positions[0, 0]) for at in found] == [1, 3]
    assert len(list(project.db.jobs())) == 2
    assert "WFL_EXPYRE_INFO matched key collect for remote_label collect" in capsys.readouterr().err


def test_dry_run(project, monkeypatch, tmp_path):
    monkeypatch.setenv("EXPYRE_DRY_RUN", str(tmp_path / "plan"))
    found = odd_or_fail(configs(4), OutputSpec("out.xyz"), autopara_info={"remote_info": remote_info()})
    assert len(list(found)) == 4
    odd_or_fail(configs(4), OutputSpec("out.xyz"), autopara_info={"num_python_subprocesses": 2})
    plan = [json.loads(line) for line in (tmp_path / "plan").read_text().splitlines()]
    assert [(call["route"], call["jobs"], call["misses"]) for call in plan] == [("local", 2, 2), ("pool", 0, 0)]
    assert not (tmp_path / "out.xyz").exists()


@autoparallelized()
def nap(atoms, seconds, log):
    """Sleep; note each configuration in a file once that is over."""
    import time

    time.sleep(seconds)
    with open(log, "a") as f:
        f.write("x")
    return atoms


def nap_remotely(log, **more):
    info = remote_info(job_name="nap", **more)
    return list(nap(configs(2), OutputSpec(), 3, str(log), autopara_info={"remote_info": info}))


def test_killed_jobs_are_resubmitted_when_asked(project, tmp_path):
    short = {"num_cores": 1, "max_time": "1s"}
    with pytest.raises(TimedOut):
        nap_remotely(tmp_path / "log", resources=short)
    with pytest.raises(ExPyReJobDiedError):
        nap_remotely(tmp_path / "log", resources=short)
    assert [row.remote_status for row in project.project().record.query()] == ["timeout"]
    with pytest.raises(TimedOut):
        nap_remotely(tmp_path / "log", resources=short, resubmit_killed_jobs=True)
    assert len(nap_remotely(tmp_path / "log", resubmit_killed_jobs=True)) == 2
    assert (tmp_path / "log").read_text() == "xx"


def test_a_policy_tries_again_with_more(project, tmp_path):
    retry = {"max_retries": 1, "on": ["TimedOut"], "time_factor": 60}
    resources = {"num_cores": 1, "max_time": "1s"}
    assert len(nap_remotely(tmp_path / "log", resources=resources, retry=retry)) == 2
    [row] = project.project().record.query()
    assert (row.tries, row.resources_dict["max_time"]) == (1, 60)
    assert (tmp_path / "log").read_text() == "xx"
