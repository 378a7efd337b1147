"""Extended XYZ files are written byte by byte as ASE writes them, and read back the same."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from xyz_tools import assert_same

from wfl.configset.io import open_reader, open_writer
from wfl.configset.io.xyz_write import format_frame


def by_ase(atoms: Atoms) -> str:
    text = io.StringIO()
    ase.io.write(text, atoms, format="extxyz")
    return text.getvalue()


def crystal() -> Atoms:
    return bulk("Si", cubic=True)


def with_info(**info: Any) -> Atoms:
    atoms = crystal()
    atoms.info.update(info)
    return atoms


def with_arrays(**arrays: Any) -> Atoms:
    atoms = crystal()
    for name, array in arrays.items():
        atoms.arrays[name] = np.asarray(array)
    return atoms


def with_results(**results: Any) -> Atoms:
    atoms = crystal()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def with_constraints(*constraints: Any) -> Atoms:
    atoms = crystal()
    atoms.set_constraint(list(constraints))
    return atoms


def with_live_calculator() -> Atoms:
    atoms = crystal()
    atoms.rattle(0.1)
    atoms.calc = LennardJones()
    atoms.get_potential_energy()
    return atoms


EIGHT = np.arange(8)
ODD = {
    "plain": crystal(),
    "no atoms": Atoms(info={"a": 1}),
    "one atom": Atoms("H"),
    "partial pbc": Atoms("HO", positions=[[0, 0, 0], [1, 2, 3]], cell=[1, 2, 3], pbc=[True, False, True]),
    "scalars": with_info(
        i=3, f=0.1, b=True, nb=np.bool_(False), n8=np.float64(1e-20), n4=np.float32(0.1), ni=np.int32(7)
    ),
    "large numbers": with_info(a=10**30, b=1e300, c=float("nan"), d=float("inf"), e=-0.0, f=1e16, g=123456789012345678),
    "texts": with_info(
        a="word", b="two words", c='say "hi"', d="it's", e="{x}", f="[1]", g="a=b", h="x,y", i="é µ", j="T"
    ),
    "texts like numbers": with_info(a="3", b="1.5", c="nan", d="1 2 3"),
    "key with blank": with_info(**{"my key": 3, "k'": 1}),
    "none": with_info(a=None),
    "vectors": with_info(
        a=np.arange(3), b=np.array([0.1, 2e-7, 1e22]), c=np.array([True, False]), d=np.array([1.5], "f")
    ),
    "other arrays": with_info(
        a=np.eye(2), b=np.array(["x", "yz"]), c=np.array(5), d=np.array(True), e=np.zeros((2, 0))
    ),
    "lists": with_info(a=[1, 2], b=(1.5, 2.5), c={"x": [1, {"y": None}]}, d=["p", "q"], e=[]),
    "square": with_info(virial=np.arange(9.0).reshape(3, 3), b=np.arange(9.0).reshape(3, 3)),
    "unwritable": with_info(a=object(), b=1),
    "location": with_info(_ConfigSet_loc=" / 0 / 3"),
    "pbc in info": with_info(pbc="x", a=1),
    "arrays": with_arrays(f=EIGHT / 3, i=EIGHT, b=EIGHT > 3, i4=EIGHT.astype("i4"), f4=(EIGHT / 3).astype("f4")),
    "vector arrays": with_arrays(
        f=np.arange(24.0).reshape(8, 3), i=np.arange(16).reshape(8, 2), c=np.arange(8.0).reshape(8, 1)
    ),
    "text arrays": with_arrays(u=np.array(list("abcdefgh")), o=np.array(["x", "yy"] * 4, dtype=object)),
    "known arrays": with_arrays(
        tags=EIGHT, momenta=np.ones((8, 3)), initial_magmoms=EIGHT * 0.5, initial_charges=EIGHT / 7
    ),
    "wide numbers": with_arrays(f=10.0 ** np.arange(4, 12), g=-(10.0 ** np.arange(-10, -2))),
    "odd numbers": with_arrays(f=np.array([np.nan, np.inf, -np.inf, -0.0, 0.5e-8, 1.5e-8, 1e-300, 1e22])),
    "results": with_results(
        energy=-1.5, forces=np.ones((8, 3)), stress=np.arange(6.0), magmoms=EIGHT * 1.0, free_energy=-1
    ),
    "more results": with_results(
        dipole=np.arange(3.0), energies=EIGHT / 2, charges=EIGHT / 3, stresses=np.ones((8, 6))
    ),
    "live calculator": with_live_calculator(),
    "fixed atoms": with_constraints(FixAtoms([0, 3])),
    "fixed directions": with_constraints(FixCartesian([1, 2], mask=(True, False, True)), FixAtoms([5])),
}


@pytest.mark.parametrize("name", ODD)
def test_writes_like_ase_and_reads_back(name: str, tmp_path: Path) -> None:
    atoms = ODD[name]
    path = tmp_path / "file.xyz"
    before = dict(atoms.info), dict(atoms.arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = format_frame(atoms)
        assert text == by_ase(atoms)
        path.write_text(text * 2)
        theirs = list(ase.io.iread(path, ":"))
    assert (dict(atoms.info), dict(atoms.arrays)) == before or name in ("other arrays", "vectors", "square")
    for ours, other in zip(open_reader(path).frames(), theirs, strict=True):
        assert_same(ours, other)


def test_results_of_the_same_name_are_refused_as_by_ase() -> None:
    atoms = with_results(energy=1.0)
    atoms.info["energy"] = 2.0
    with pytest.raises(KeyError):
        by_ase(atoms)
    with pytest.raises(KeyError):
        format_frame(atoms)


@pytest.mark.parametrize("text", ["", "two\nlines", "back\\slash\r\n", 'quoted "x"\n', "\n"])
def test_texts_that_would_break_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    path.write_text(format_frame(with_info(a=text, b=1)))
    (atoms,) = open_reader(path).frames()
    assert atoms.info == {"a": text, "b": 1}
    assert atoms.pbc.all()
    assert_same(atoms, ase.io.read(path))


def test_empty_arrays_do_not_swallow_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    path.write_text(format_frame(with_info(a=np.zeros(0), b=1)))
    (atoms,) = open_reader(path).frames()
    assert atoms.info["a"].shape == (0,)
    assert atoms.info["b"] == 1


def test_keywords_go_to_ase(tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    writer = open_writer(path, path, {"columns": ["symbols", "positions"], "write_results": False})
    atoms = with_results(energy=1.0)
    atoms.arrays["x"] = EIGHT
    writer.write(atoms, {"a": 1})
    writer.close()
    (found,) = open_reader(path).frames()
    assert found.info == {"a": 1}
    assert found.calc is None
    assert "x" not in found.arrays


words = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\\"), min_size=1, max_size=8
)
keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda key: key.lower() not in RESERVED)
RESERVED = {
    "pbc",
    "lattice",
    "properties",
    "virial",
    "stress",
    "uid",
    "energy",
    "dipole",
    "magmom",
    "free_energy",
    "forces",
}
reals = st.floats(allow_nan=True, allow_infinity=True, width=64)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    reals,
    words,
    hnp.arrays(np.int64, st.integers(1, 4)),
    hnp.arrays(np.float64, st.integers(1, 4)),
    hnp.arrays(np.bool_, st.integers(1, 4)),
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=3), elements=st.floats(-1e6, 1e6)),
    st.lists(st.integers(-5, 5), max_size=3),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9) | st.none(), max_size=3),
)


@st.composite
def configurations(draw: st.DrawFn) -> Atoms:
    n_atoms = draw(st.integers(1, 14))
    coordinates = st.floats(-1e5, 1e5)
    atoms = Atoms(
        draw(st.lists(st.sampled_from(["H", "Si", "Og", "C", "X"]), min_size=n_atoms, max_size=n_atoms)),
        draw(hnp.arrays(float, (n_atoms, 3), elements=coordinates)),
        cell=draw(st.none() | hnp.arrays(float, (3, 3), elements=st.floats(-100, 100))),
        pbc=draw(st.lists(st.booleans(), min_size=3, max_size=3)),
        info=draw(st.dictionaries(keys, values, max_size=4)),
    )
    for kind in draw(
        st.sets(st.sampled_from(["a_real", "a_vector", "an_integer", "a_logical", "tags", "initial_charges"]))
    ):
        atoms.arrays[kind] = draw(array_of(kind, n_atoms))
    if draw(st.booleans()):
        forces = draw(hnp.arrays(float, (n_atoms, 3), elements=st.floats(-100, 100)))
        atoms.calc = SinglePointCalculator(atoms, energy=draw(reals), forces=forces)
    return atoms


def array_of(kind: str, n_atoms: int) -> st.SearchStrategy[Any]:
    if kind in ("an_integer", "tags"):
        return hnp.arrays(np.int64, n_atoms, elements=st.integers(-(2**31), 2**31 - 1))
    if kind == "a_logical":
        return hnp.arrays(bool, n_atoms)
    shape = (n_atoms, 2) if kind == "a_vector" else n_atoms
    return hnp.arrays(float, shape, elements=st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(configurations(), min_size=1, max_size=4))
def test_any_configuration(tmp_path_factory: pytest.TempPathFactory, images: list[Atoms]) -> None:
    path = tmp_path_factory.mktemp("any") / "file.xyz"
    text = "".join(map(format_frame, images))
    assert text == "".join(map(by_ase, images))
    path.write_text(text)
    try:
        theirs = list(ase.io.iread(path, ":"))
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        with pytest.raises(OSError, match=r"line \d+"):
            list(open_reader(path).frames())
        return
    ours = list(open_reader(path).frames())
    assert len(ours) == len(theirs) == len(images)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)
