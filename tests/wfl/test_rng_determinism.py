import numpy as np
import pytest
from ase.atoms import Atoms

from wfl.autoparallelize import autoparallelized
from wfl.autoparallelize.rng import InfoSource, spawn_for_call
from wfl.configset import OutputSpec


@autoparallelized()
def draw(atoms, rng=None, _autopara_per_item_info=None):
    for at, info in zip(atoms, _autopara_per_item_info, strict=True):
        at.info["value"] = float(info["rng"].normal())
        at.info["item_i"] = info["item_i"]
    return atoms


@autoparallelized()
def draws_nothing(atoms, rng=None):
    assert rng is None
    return atoms


def values(n, seed=5, before=None, output=None, **info):
    rng = np.random.default_rng(seed)
    if before is not None:
        draw([Atoms("H")], before, rng=rng)
    result = list(draw([Atoms("H") for _ in range(n)], output or OutputSpec(), rng=rng, autopara_info=info))
    assert [at.info["item_i"] for at in result] == list(range(n))
    return [at.info["value"] for at in result]


def test_values_belong_to_items():
    expected = values(13, num_python_subprocesses=0)
    assert len(set(expected)) == 13
    for n in (0, 1, 2):
        for size in (1, 3, 4, 20):
            assert values(13, num_python_subprocesses=n, num_inputs_per_python_subprocess=size) == expected
    assert values(5, num_python_subprocesses=0) == expected[:5]
    assert values(13, seed=6, num_python_subprocesses=0) != expected


def test_reused_output_takes_its_stream(tmp_path):
    computed = values(3, before=OutputSpec(tmp_path / "first.xyz"), num_python_subprocesses=0)
    reused = values(3, before=OutputSpec(tmp_path / "first.xyz"), num_python_subprocesses=0)
    assert computed == reused
    assert computed != values(3, num_python_subprocesses=0)


def test_rng_never_reaches_the_operation():
    assert len(list(draws_nothing([Atoms("H")], OutputSpec(), rng=np.random.default_rng(1)))) == 1


def test_only_generators():
    with pytest.raises(TypeError, match="default_rng"):
        spawn_for_call(np.random.RandomState(1))
    assert spawn_for_call(None) is None


def test_skipped_items_keep_the_streams():
    def source():
        return InfoSource(True, np.random.default_rng(1))

    whole = [info["rng"].normal() for info in source().take(10)]
    part = source()
    part.skip(4)
    assert [info["rng"].normal() for info in part.take(6)] == whole[4:]
    given = InfoSource(True, None, [{"item_i": i} for i in range(10, 20)])
    assert [info["item_i"] for info in given.take(2) + given.take(1)] == [10, 11, 12]
    assert InfoSource(False).take(3) is None
