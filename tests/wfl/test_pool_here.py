"""Work that is not worth sending to workers is done in the script's process; nobody can tell from what comes back."""

import os
import pickle
import random
import signal
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from wfl.autoparallelize import autoparallelize
from wfl.autoparallelize.engines import compact, wire
from wfl.autoparallelize.engines.costs import Costs
from wfl.autoparallelize.output import ItemResults
from wfl.autoparallelize.pool import do_in_pool
from wfl.configset import ConfigSet, OutputSpec

N = 3000


@pytest.fixture(params=["fork", "fresh"])
def start(request, monkeypatch):
    monkeypatch.setenv("WFL_POOL_START", request.param)
    return request.param


@pytest.fixture
def eager(monkeypatch):
    """Measure for a short time only, and then prefer this process as long as calls take less than a millisecond."""
    monkeypatch.setattr("wfl.autoparallelize.engines.costs._ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr("wfl.autoparallelize.batching._MOST_CALLS", 32)
    monkeypatch.setattr("wfl.autoparallelize.engines.order._MOST_BYTES_WAITING", 50)  # no worker runs ahead of others
    monkeypatch.setattr(Costs, "_in_pool", lambda self: 1e-3)


def configurations(n=N):
    return [Atoms("HF", positions=[(i, 0, 0), (i, 0, 1)], info={"i": i}) for i in range(n)]


def mark(atoms, seen, _autopara_per_item_info=None):
    for at, item in zip(atoms, _autopara_per_item_info, strict=True):
        seen.append(at.info["i"])  # of a copy of the argument
        at.positions += item["rng"].normal(size=(2, 3))
        at.info.update(pid=os.getpid(), number=item["item_i"])
        at.arrays["new"] = np.ones(2)
    return atoms


def run(inputs, workers, outputs=None, size=1):
    return autoparallelize(
        mark, inputs, outputs or OutputSpec(), [], rng=np.random.default_rng(5),
        autopara_info={"num_python_subprocesses": workers, "num_inputs_per_python_subprocess": size},
    )


def pids(results):
    """Return in which processes results were made; what is left of them is the same everywhere."""
    return {at.info.pop("pid") for at in results}


@pytest.mark.parametrize("size", [1, 3])
def test_results_and_side_effects_are_those_of_the_pool(start, eager, monkeypatch, size):
    inputs, seen = configurations(), []
    results = list(run(inputs, 2, size=size))
    assert os.getpid() in (used := pids(results))
    assert len(used) == 3
    assert seen == []
    assert inputs == configurations()
    assert all(at.info.keys() == {"i"} and "new" not in at.arrays for at in inputs)
    monkeypatch.setenv("WFL_POOL_ADAPTIVE", "0")
    away = list(run(inputs, 2, size=size))
    assert os.getpid() not in pids(away)
    assert away == results
    assert [at.info for at in away] == [at.info for at in results] == [
        {"i": i, "number": i, "_ConfigSet_loc": f" / {i}"} for i in range(N)
    ]
    assert list(run(configurations(), 0, size=size)) == results


def test_few_items_and_initializers_stay_with_the_workers(start, eager, monkeypatch):
    def where(items):
        return [os.getpid() for _ in items]

    def found(n, **kwargs):
        return set(do_in_pool(2, 1, range(n), ItemResults(), where, **kwargs))

    assert os.getpid() not in found(60)
    assert os.getpid() in found(N)
    assert os.getpid() not in found(N, initializer=(print, []))


def test_items_that_get_expensive_go_back(start, eager):
    def op(items):
        if items[0].info["i"] >= 1900:
            time.sleep(0.02)
        return [(at.info["i"], os.getpid()) for at in items]

    results = do_in_pool(2, 1, configurations(2000), ItemResults(), op)
    assert [i for i, _ in results] == list(range(2000))
    assert os.getpid() in {pid for i, pid in results if i < 1900}
    assert [pid for i, pid in results if i >= 1900].count(os.getpid()) < 50


def test_failures_name_the_same_items(start, eager):
    def op(items, pids):
        if items[0] == 2000:
            raise ValueError(f"two thousand in {os.getpid()}")
        return items

    with pytest.raises(ValueError, match=f"two thousand in {os.getpid()}") as caught:
        do_in_pool(2, 4, range(N), ItemResults(), op, args=[[]])
    assert caught.value.__notes__ == [
        f"raised by {__name__}.test_failures_name_the_same_items.<locals>.op for items 2000-2003 of its input"
    ]


def test_random_numbers_at_large_are_the_workers_own(eager, monkeypatch):
    monkeypatch.setenv("WFL_POOL_START", "fork")

    def op(items):
        return [(random.random(), np.random.random()) for _ in items]  # noqa: NPY002

    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    expected = (random.random(), np.random.random())  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    results = do_in_pool(2, 1, range(N), ItemResults(), op)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    assert len(set(results)) >= N // 3  # three processes began with the same state


def test_operations_in_operations_make_no_pools(start, eager, monkeypatch):
    monkeypatch.setenv("WFL_NUM_PYTHON_SUBPROCESSES", "2")

    def outer(items):
        inner = do_in_pool(None, 1, [1], ItemResults(), lambda given: [os.getpid() for _ in given])
        return [(os.getpid(), *inner) for _ in items]

    results = do_in_pool(2, 1, range(400), ItemResults(), outer)
    assert all(mine == inner for mine, inner in results)


def test_what_cannot_be_copied_stays_with_forked_workers(eager, monkeypatch):
    monkeypatch.setenv("WFL_POOL_START", "fork")
    import threading

    lock = threading.Lock()

    def op(items):
        with lock:
            return [os.getpid() for _ in items]

    assert os.getpid() not in set(do_in_pool(2, 1, range(N), ItemResults(), op))


def test_interrupted_runs_go_on(start, eager, tmp_path):
    failing = tmp_path / "failing"
    failing.touch()
    calls = tmp_path / "calls"

    def op(atoms):
        with calls.open("a") as file:
            file.write(f"{atoms[0].info['i']}\n")
        if atoms[0].info["i"] == 2500 and failing.exists():
            raise ValueError("failing")
        return atoms

    def go():
        return autoparallelize(op, ConfigSet(tmp_path / "in.xyz"), OutputSpec(tmp_path / "out.xyz"),
                               autopara_info={"num_python_subprocesses": 2})

    OutputSpec(tmp_path / "in.xyz").write(configurations())
    with pytest.raises(ValueError, match="failing"):
        go()
    failing.unlink()
    calls.unlink()
    assert [at.info["i"] for at in go()] == list(range(N))
    assert len(calls.read_text().split()) < N - 100


def test_items_in_two_calls_are_two(start):
    def op(atoms):
        for at in atoms:
            at.info["n"] = at.info.get("n", 0) + 1
        return atoms

    at = Atoms("H")
    assert {at.info["n"] for at in do_in_pool(2, 1, [at] * 500, ItemResults(), op)} == {1}
    assert {at.info["n"] for at in do_in_pool(2, 2, [at] * 500, ItemResults(), op)} == {2}


def test_killed_workers_are_told_before_and_after(start, eager):
    def op(items):
        if items[0] == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return items

    with pytest.raises(RuntimeError, match="item 30 of its input was killed"):
        do_in_pool(2, 1, range(N), ItemResults(), op)


def test_costs():
    costs = Costs(2, 2, allowed=True)
    costs.learn_there(50, 1e-2, 1e-5, 1e-2)
    assert not costs.here  # too few
    costs.learn_there(50, 1e-2, 1e-5, 1e-2)
    assert costs.here
    costs.learn_here(500, 1e-3, 1e-5)
    assert costs.here
    costs.learn_here(10, 1e-3, 1.0)
    assert not costs.here
    costs = Costs(2, 2, allowed=False)
    costs.learn_there(500, 1.0, 0.0, 1.0)
    assert not costs.here
    costs = Costs(2, 2, allowed=True)
    costs.learn_there(1000, 2e-2, 0.2, 3e-2)
    assert not costs.here


def special():
    at = bulk("Si", cubic=True)
    plain = at.copy()
    at.info.update(config_type="bulk", energy=np.float64(-1), stress=np.arange(6.0), nested={"a": [1, 2]})
    at.arrays.update(flag=np.ones(8, bool), name=np.array(["a", "bcd"] * 4), forces=np.asfortranarray(at.positions))
    constrained, calculated, objects, empty = at.copy(), at.copy(), at.copy(), Atoms()
    constrained.set_constraint(FixAtoms([0, 2]))
    calculated.calc = SinglePointCalculator(calculated, energy=1.0, forces=np.ones((8, 3)))
    objects.arrays["things"] = np.array([{1: 2}] * 8)
    cyclic = at.copy()
    cyclic.info["self"] = cyclic
    return [plain, at, constrained, calculated, objects, empty, cyclic]


@pytest.mark.parametrize(
    "how", [lambda ats: pickle.loads(compact.dumps(ats)), lambda ats: wire.copy_values(ats, where="")]
)
def test_copies_are_whole_and_independent(how):
    for original in special():
        if "self" in original.info:
            new = how([original])[0]
            assert new.info["self"] is new
            continue
        again = pickle.loads(pickle.dumps(original))
        new = how([original])[0]
        assert new == original
        assert list(new.arrays) == list(original.arrays)
        for name, array in again.arrays.items():
            assert new.arrays[name].dtype == array.dtype
            assert (new.arrays[name] == array).all()
            assert new.arrays[name].flags.writeable
            assert new.arrays[name].flags.aligned
        assert str(new.info) == str(again.info)
        assert len(new.constraints) == len(original.constraints)
        assert (new.calc is None) == (original.calc is None)
        new.positions += 1
        new.cell[0, 0] = 99
        new.pbc[0] = not new.pbc[0]
        new.info["x"] = 1
        assert original == again
        assert "x" not in original.info
    assert how(special())[3].get_potential_energy() == 1.0
