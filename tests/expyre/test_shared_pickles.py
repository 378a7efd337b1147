"""What calls have in common is staged once; what the jobs get is what each would have got by itself."""

from __future__ import annotations

import operator
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expyre import config, stage
from expyre.errors import AuthenticationError
from expyre.func import Call, create_jobs
from expyre.stage import Sharing, StageRequest, Triple, links
from expyre.system.rundir import RunDir
from expyre.transports import connect

BIG = 10_000


def stage_all(root: Path, calls: list[Triple]) -> list[stage.Staged]:
    sharing = Sharing(calls)
    requests = [StageRequest(f"job{i}", *call) for i, call in enumerate(calls)]
    return [stage.stage(root, request, sharing) for request in requests]


def load(staged: stage.Staged) -> Any:
    return stage.read_task(staged.directory, staged.key)


def shared(root: Path) -> list[Path]:
    return sorted(root.glob("_expyre_shared_*.pckl"))


def run(staged: stage.Staged, python: str = sys.executable) -> None:
    script = "\n".join(stage.job_commands(staged.directory, python))
    subprocess.run(["sh", "-c", script], cwd=staged.directory, timeout=60)


def test_a_common_argument_is_one_file(tmp_path: Path) -> None:
    big = os.urandom(BIG)
    staged = stage_all(tmp_path, [Triple(operator.contains, (big, i), {}) for i in range(5)])
    [file] = shared(tmp_path)
    assert file.stat().st_nlink == 6
    assert file.stat().st_size < BIG + 100
    for i, one in enumerate(staged):
        assert (one.directory / "_expyre_task_in.pckl").stat().st_size < 500
        assert load(one) == (operator.contains, (big, i), {})
        assert stage.shared_files(one.directory) == [file.name]
    run(staged[3])
    assert stage.read_result(staged[3].directory, staged[3].key) is (3 in big)


def test_jobs_made_together_share(tmp_path: Path) -> None:
    (tmp_path / "_expyre").mkdir()
    config.init(tmp_path / "_expyre")
    big = os.urandom(BIG)
    calls = [Call("n", operator.contains, (big, i), {}) for i in range(300)]
    jobs = create_jobs(calls)
    [file] = shared(tmp_path / "_expyre")
    assert file.stat().st_nlink == 301
    assert [job.id for job in create_jobs(calls)] == [job.id for job in jobs]
    row = jobs[299].row
    assert stage.read_task(row.from_dir, row.hmac_key)[1] == (big, 299)


@pytest.mark.parametrize("calls", [
    [Triple(operator.contains, (b"x" * 1000, i), {}) for i in range(3)],
    [Triple(operator.contains, (os.urandom(BIG), i), {}) for i in range(3)],
    [Triple(operator.contains, (b"x" * BIG, 1), {})],
    [],
])  # fmt: skip
def test_small_things_and_those_of_one_call_stay_where_they_were(tmp_path: Path, calls: list[Triple]) -> None:
    for one, call in zip(stage_all(tmp_path, calls), calls, strict=True):
        with open(one.directory / "_expyre_task_in.pckl", "rb") as file:
            assert pickle.load(file) == tuple(call)
    assert shared(tmp_path) == []


def test_one_object_stays_one_and_two_stay_two(tmp_path: Path) -> None:
    one, same = [list(range(BIG)) for _ in range(2)]
    calls = [Triple(print, (one, {"again": one, "other": same}), {"x": [same, i, [one]]}) for i in range(3)]
    for i, staged in enumerate(stage_all(tmp_path, calls)):
        _, (first, nested), kwargs = load(staged)
        assert first == one
        assert first is nested["again"] is kwargs["x"][2][0]
        assert nested["other"] is kwargs["x"][0]
        assert nested["other"] is not first
        assert kwargs["x"][1] == i
    assert len(shared(tmp_path)) == 1  # they have the same content


def test_what_is_in_a_common_argument_and_elsewhere_is_still_one(tmp_path: Path) -> None:
    inner = ["inner"]
    common = {"deep": {"inside": inner}, "much": os.urandom(BIG)}
    calls = [Triple(print, (common, {"very": {"deep": inner}}, i), {}) for i in range(3)]
    for staged in stage_all(tmp_path, calls):
        _, (first, second, _), _ = load(staged)
        assert first["deep"]["inside"] is second["very"]["deep"]


def test_parts_of_common_arguments_may_be_common_too(tmp_path: Path) -> None:
    inner, half = list(range(BIG)), os.urandom(BIG)
    outer = {"inner": inner, "half": half, "own": os.urandom(BIG)}
    calls = [Triple(print, (outer, inner) if i % 2 else (i, inner, half), {}) for i in range(4)]
    staged = stage_all(tmp_path, calls)
    assert sum(file.stat().st_size for file in shared(tmp_path)) < 3 * BIG + len(pickle.dumps(inner)) + 1000
    _, (first, second), _ = load(staged[1])
    assert first["inner"] is second
    assert first == outer
    assert load(staged[2])[1] == (2, inner, half)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    staged = stage_all(tmp_path, [Triple(operator.contains, (os.urandom(BIG), 1), {})] * 2)
    [file] = shared(tmp_path)
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(AuthenticationError, match="altered"):
        load(staged[0])
    run(staged[0])
    assert f"{file.name} was altered" in stage.error_text(staged[0].directory)
    (staged[1].directory / file.name).unlink()
    run(staged[1])
    assert file.name in stage.error_text(staged[1].directory)
    assert not (tmp_path / "executed").exists()


def test_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    calls = [Triple(operator.contains, (os.urandom(BIG), i), {}) for i in (1, 1)]
    calls[1] = Triple(operator.contains, (calls[0].args[0], 2), {})
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    stage_all(one, calls)
    (two / shared(one)[0].name).write_bytes(b"half")
    assert load(stage_all(two, calls)[0])[1] == calls[0].args


def test_cleaning_one_job_leaves_the_others_their_file(tmp_path: Path) -> None:
    big = os.urandom(BIG)
    first, second = stage_all(tmp_path, [Triple(operator.contains, (big, i), {}) for i in range(2)])
    stage.clean(first.directory)
    assert stage.shared_files(first.directory) == []
    assert load(second)[1] == (big, 1)
    stage.reset(second.directory)
    assert load(second)[1] == (big, 1)


def test_they_go_to_a_run_directory_and_do_not_come_back(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    big = os.urandom(BIG)
    staged = stage_all(here, [Triple(operator.contains, (big, i), {}) for i in range(2)])
    [file] = shared(here)
    rundir = RunDir(connect(None), str(there))
    rundir.make()
    rundir.send([one.directory for one in staged])
    names = [one.directory.name for one in staged]
    (there / names[0] / "_expyre_job_succeeded").write_text("x")
    (there / names[0] / file.name).unlink()
    (there / names[0] / file.name).write_bytes(b"not to be brought home")
    rundir.fetch(names, here)
    assert stage.markers(staged[0].directory).succeeded
    assert load(staged[0])[1] == (big, 0)
    assert file.stat().st_nlink == 3
    rundir.clean(names[:1], stage.LARGE_FILES)
    assert (there / names[0] / "_expyre_task_in.pckl").read_text() == "CLEANED\n"
    assert not (there / names[0] / file.name).exists()
    assert (there / names[1] / file.name).read_bytes() == file.read_bytes()


def test_files_of_jobs_that_are_gone_do_not_pile_up(tmp_path: Path) -> None:
    def two(name: str) -> Path:
        big, before = os.urandom(BIG), set(shared(tmp_path))
        sharing = Sharing(calls := [Triple(operator.contains, (big, i), {}) for i in range(2)])
        for i, call in enumerate(calls):
            stage.stage(tmp_path, StageRequest(f"{name}{i}", *call), sharing)
        [new] = set(shared(tmp_path)) - before
        return new

    def make_old(path: Path) -> None:
        os.utime(path, (time.time() - 7200,) * 2)

    gone, kept = two("gone"), two("kept")
    for directory in tmp_path.glob("run_gone*"):
        shutil.rmtree(directory)
    make_old(kept)
    new = two("new")
    assert shared(tmp_path) == sorted([gone, kept, new])  # somebody may be about to link the first
    make_old(gone)
    newer = two("newer")
    assert shared(tmp_path) == sorted([kept, new, newer])


def test_without_hard_links_there_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(links.os, "link", no_links)
    big = os.urandom(BIG)
    for i, staged in enumerate(stage_all(tmp_path, [Triple(operator.contains, (big, i), {}) for i in range(2)])):
        assert load(staged)[1] == (big, i)


def closures() -> tuple[Any, Any]:
    box: list[int] = []
    return (lambda: box.append(1)), (lambda: list(box))


def test_functions_by_value_that_share_a_state_keep_it(tmp_path: Path) -> None:
    put, get = closures()
    put.much = os.urandom(BIG)  # type: ignore[attr-defined]
    get.much = os.urandom(BIG)  # type: ignore[attr-defined]
    for staged in stage_all(tmp_path, [Triple(print, (put, get, i), {}) for i in range(2)]):
        _, (there_put, there_get, _), _ = load(staged)
        there_put()
        assert there_get() == [1]


def test_a_function_by_value_is_shared_by_itself(tmp_path: Path) -> None:
    much = os.urandom(BIG)

    def op(x: int) -> int:
        return x + len(much)

    staged = stage_all(tmp_path, [Triple(op, (i,), {}) for i in range(2)])
    assert len(shared(tmp_path)) == 1
    run(staged[1])
    assert stage.read_result(staged[1].directory, staged[1].key) == BIG + 1


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_other_interpreters_read_them_too(tmp_path: Path, version: str) -> None:
    found = sorted(Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python3"))
    python = str(found[-1]) if found else shutil.which(f"python{version}")
    if python is None:
        pytest.skip(f"no Python {version} here")
    big = os.urandom(BIG)
    staged = stage_all(tmp_path, [Triple(operator.contains, (big, i), {}) for i in range(2)])
    run(staged[0], python)
    assert stage.read_result(staged[0].directory, staged[0].key) is (0 in big)


# Objects that calls are made of: numbers stand for members made before.
pools = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), max_size=3)), min_size=1, max_size=10)
calls_of_numbers = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=2, max_size=4)


def make_pool(spec: list[tuple[bool, list[int]]]) -> list[Any]:
    pool: list[Any] = [[bytearray(5000) if large else i] for i, (large, _) in enumerate(spec)]
    for value, (_, members) in zip(pool, spec, strict=True):
        value += [pool[i] for i in members if i < len(pool)]  # there may be loops
    return pool


def pattern(value: Any, seen: dict[int, int]) -> Any:
    """Return a structure with numbers that tell which places hold the same object."""
    if not isinstance(value, (list, tuple, bytearray)):
        return value
    if id(value) in seen:
        return f"again {seen[id(value)]}"
    seen[id(value)] = len(seen)
    if isinstance(value, bytearray):
        return len(value)
    return [pattern(item, seen) for item in value]


@settings(deadline=None)
@given(pools, calls_of_numbers)
def test_what_arrives_is_what_a_pickle_of_its_own_would_bring(
    tmp_path_factory: pytest.TempPathFactory, spec: list[tuple[bool, list[int]]], calls: list[list[int]]
) -> None:
    pool = make_pool(spec)
    root = tmp_path_factory.mktemp("stage")
    triples = [Triple(print, tuple(pool[i % len(pool)] for i in call), {}) for call in calls]
    for staged, triple in zip(stage_all(root, triples), triples, strict=True):
        assert pattern(load(staged)[1], {}) == pattern(triple.args, {})
    shutil.rmtree(root)
