# ruff: noqa: E501
"""Arrays, random streams and atoms go by what they contain."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expyre.errors import KeyUnstableError
from expyre.identity import differences, digest, identify

np = pytest.importorskip("numpy")
ase = pytest.importorskip("ase")
pytest.importorskip("ase.constraints")


def f(*args: Any, **kwargs: Any) -> None: ...


def _array(data: bytes, dtype: str = "f8") -> Any:
    return np.frombuffer(data, dtype=dtype)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=12))
def test_arrays_go_by_their_elements(values: list[float]) -> None:
    array = np.array(values)
    assert digest(array) == digest(array.copy()) == digest(np.concatenate([array, array])[: len(array)])
    assert digest(array) == digest(np.repeat(array, 2)[::2]) == digest(array.astype(">f8"))
    assert digest(array) == digest(pickle.loads(pickle.dumps(array, 2)))
    assert digest(array) != digest(values)
    assert digest(array) != digest(array.reshape(1, -1)) != digest(array.reshape(-1, 1).repeat(2, axis=1))


def test_order_in_memory_does_not_matter() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert digest(array) == digest(np.asfortranarray(array)) == digest(array.T.copy().T)
    assert digest(array) != digest(array.T)
    big = np.arange(30000.0).reshape(100, 300)
    assert digest(big) == digest(np.asfortranarray(big)) != digest(big.reshape(300, 100))


def test_same_bytes_different_arrays() -> None:
    data = bytes(range(48))
    dtypes = ["f8", "i8", "u8", "c16", "i4", "f4", "i2", "i1", "u1", "S8", "S4", "M8[s]", "M8[ns]", "m8[s]", "V8"]
    arrays = [_array(data, dtype) for dtype in dtypes]
    arrays += [_array(data).reshape(2, 3), _array(data).reshape(3, 2), _array(data).reshape(6, 1), _array(data, "f8,i8")]
    arrays += [np.array(1.0), np.array([1.0]), np.array([]), np.zeros((0, 3)), np.zeros((3, 0)), np.array([], dtype=int)]
    arrays += [np.array(["a", "b"]), np.array(["a", "b"], dtype=object), np.array([["a", "b"]], dtype=object)]
    arrays += [np.array([True, False]), np.array([1, 0], dtype="i1"), np.array([[1.0]])]
    arrays += [np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.array([1.0, 2.0], mask=[1, 0]), np.longdouble([1.0, 2.0])]
    assert len({digest(array) for array in arrays}) == len(arrays)


def test_every_nan_is_the_same() -> None:
    with np.errstate(invalid="ignore"):
        made = np.zeros(2) / np.zeros(2)
    assert digest(made) == digest(np.full(2, np.nan)) == digest(-np.full(2, np.nan))
    assert digest(made * 1j) == digest(np.full(2, complex(np.nan, np.nan)))
    assert digest(np.array([0.0])) != digest(np.array([-0.0]))


def test_padding_and_masked_data_do_not_matter() -> None:
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    one, other = np.zeros(2, dtype), np.frombuffer(b"\xff" * 2 * dtype.itemsize, dtype).copy()
    other["a"], other["b"] = 0, 0.0
    assert digest(one) == digest(other)
    other["b"][1] = 1.0
    assert digest(one) != digest(other)
    assert digest(np.ma.array([1.0, 2.0], mask=[0, 1])) == digest(np.ma.array([1.0, 3.0], mask=[0, 1]))


def test_scalars_with_a_counterpart_in_python_are_that() -> None:
    pairs = [(np.float64(1.5), 1.5), (np.int64(3), 3), (np.bool_(True), True), (np.complex128(1j), 1j), (np.str_("a"), "a")]
    pairs += [(np.bytes_(b"a"), b"a"), (np.float64("nan"), float("nan"))]
    for scalar, plain in pairs:
        for wrap in (lambda x: x, lambda x: [x], lambda x: [x, x], lambda x: {"k": x}, lambda x: {x}, lambda x: {x: 1}):
            assert digest(wrap(scalar)) == digest(wrap(plain))
            assert identify(f, [wrap(scalar)]).key == identify(f, [wrap(plain)]).key
    assert digest([np.float64(1), 2.0, np.float64(3)]) == digest([1.0, 2.0, 3.0])
    assert digest({np.str_("a"): 1, "b": 2}) == digest({"a": 1, "b": 2})
    others = [np.float32(1), np.int32(1), np.uint8(1), np.int8(1), np.float16(1), np.longdouble(1), 1, 1.0, np.array(1)]
    assert len({digest(value) for value in others}) == len(others)


def test_aliased_scalars_do_not_matter() -> None:
    shared = np.float64(0.1)
    assert digest({"a": shared, "b": shared}) == digest({"a": np.float64(0.1), "b": np.float64(0.1)})


def test_object_arrays_and_dtypes() -> None:
    one, other = np.empty(2, dtype=object), np.empty(2, dtype=object)
    one[:], other[:] = [{"a", "b"}, {"x": 1}], [{"b", "a"}, {"x": 1}]
    assert digest(one) == digest(other)
    other[1] = {"x": 2}
    assert digest(one) != digest(other)
    dtypes = [np.dtype("f8"), np.dtype("f4"), np.dtype("f8,i4"), np.dtype([("x", "f8")]), np.dtype(("f8", 3)), np.float64]
    assert len({digest(dtype) for dtype in dtypes}) == len(dtypes)


@pytest.mark.parametrize("kind", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_generators_go_by_state(kind: str) -> None:
    def make(seed: int) -> Any:
        return np.random.Generator(getattr(np.random, kind)(seed))

    assert digest(make(1)) == digest(make(1))
    for twin in (copy.deepcopy(make(1)), pickle.loads(pickle.dumps(make(1)))):
        # Old numpy gives a copy another seed sequence: its streams are the same, those spawned from it are not.
        same = twin.bit_generator.seed_seq.state == make(1).bit_generator.seed_seq.state
        assert (digest(twin) == digest(make(1))) == same
    assert digest(make(1)) != digest(make(2))
    used = make(1)
    used.random()
    assert digest(used) != digest(make(1))
    spawned = make(1)
    spawned.spawn(1)
    assert digest(spawned) != digest(make(1))
    assert len({digest(make(1)), digest(make(1).bit_generator), digest(make(1).bit_generator.seed_seq)}) == 3
    assert digest(np.random.RandomState(1)) == digest(np.random.RandomState(1)) != digest(np.random.RandomState(2))


def _atoms(**kwargs: Any) -> Any:
    return ase.Atoms("CuO", positions=[[0, 0, 0], [0, 0, 1.5]], cell=[4, 4, 4], pbc=[True, True, False], **kwargs)


def test_atoms_go_by_content() -> None:
    base = digest(_atoms())
    assert base == digest(_atoms().copy()) == digest(pickle.loads(pickle.dumps(_atoms())))
    changed = []
    for change in (
        lambda atoms: atoms.positions.__setitem__((0, 0), 0.1),
        lambda atoms: atoms.numbers.__setitem__(0, 28),
        lambda atoms: atoms.set_cell([4, 4, 5]),
        lambda atoms: atoms.set_pbc(True),
        lambda atoms: atoms.info.update(a=1),
        lambda atoms: atoms.info.update(a=1.0),
        lambda atoms: atoms.new_array("extra", np.zeros(2)),
        lambda atoms: atoms.set_constraint(ase.constraints.FixAtoms([0])),
        lambda atoms: atoms.set_constraint(ase.constraints.FixAtoms([1])),
        lambda atoms: atoms.set_celldisp([[0.1], [0], [0]]),
        lambda atoms: setattr(atoms, "mine", 1),
    ):
        atoms = _atoms()
        change(atoms)
        changed.append(digest(atoms))
        assert digest(atoms.copy()) == digest(atoms) or "mine" in vars(atoms)
    assert len({base, *changed}) == len(changed) + 1


def test_atoms_do_not_depend_on_the_version_of_ase() -> None:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms, FixBondLengths

    atoms = _atoms(constraint=[FixAtoms([0]), FixBondLengths([[0, 1]])])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    assert not [part for part in identify(f, [atoms]).parts if part.path.startswith("package:")]


def test_order_of_arrays_and_info_does_not_matter() -> None:
    one, other = _atoms(), _atoms()
    for atoms, names in ((one, "ab"), (other, "ba")):
        for name in names:
            atoms.new_array(name, np.ones(2))
            atoms.info[name] = name
    assert digest(one) == digest(other)


def test_stored_results_are_content() -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    def with_energy(energy: float) -> Any:
        atoms = _atoms()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((2, 3)))
        return atoms

    assert digest(with_energy(1.0)) == digest(with_energy(1.0)) == digest(copy.deepcopy(with_energy(1.0)))
    assert len({digest(atoms) for atoms in (_atoms(), with_energy(1.0), with_energy(2.0))}) == 3
    moved, placed = with_energy(1.0), _atoms()
    for atoms in (moved, placed):
        atoms.positions[0, 0] = 0.1
    placed.calc = SinglePointCalculator(placed, energy=1.0, forces=np.zeros((2, 3)))
    assert digest(moved) != digest(placed)


@pytest.mark.parametrize("name", ["EMT", "LennardJones", "MorsePotential"])
def test_calculators_go_by_their_settings_not_by_their_last_use(name: str) -> None:
    from ase.calculators import emt, lj, morse

    make = {"EMT": emt.EMT, "LennardJones": lj.LennardJones, "MorsePotential": morse.MorsePotential}[name]
    fresh, used, atoms = make(), make(), ase.Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.5]])
    atoms.calc = used
    atoms.get_potential_energy()
    assert digest(fresh) == digest(used)
    assert identify(f, [fresh]) == identify(f, [used])


def test_a_changed_setting_of_a_calculator_is_named() -> None:
    from ase.calculators.lj import LennardJones

    old, new = (identify(f, [], {"calculator": LennardJones(rc=rc)}) for rc in (3.0, 4.0))
    assert "kwargs['calculator'].parameters['rc'] changed: 3.0 -> 4.0" in differences(old, new)
    assert any(part.path == "package:ase" and part.summary == ase.__version__ for part in old.parts)


def test_calculators_of_users_go_by_all_they_keep() -> None:
    from ase.calculators.calculator import Calculator

    class Mine(Calculator):
        implemented_properties = ["energy"]

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

    one, other = Mine([1, 2]), Mine([1, 3])
    assert digest(one) == digest(Mine([1, 2])) != digest(other)
    one.results = {"energy": 1.0}
    assert digest(one) == digest(Mine([1, 2]))
    one.model = open(__file__)  # noqa: SIM115
    try:
        with pytest.raises(KeyUnstableError, match=r"kwargs\['calculator'\]\.model .*hash_ignore=\['calculator'\]"):
            identify(f, [], {"calculator": one})
    finally:
        one.model.close()


def test_large_values_that_calls_share_are_hashed_once():
    from expyre.identity import identify, remembering

    large = np.arange(2_000_000.0)
    keys = [identify(len, (large, i)).key for i in range(3)]
    with remembering():
        identify(len, (large, 0))
        assert [identify(len, (large, i)).key for i in range(3)] == keys
        large_again = large.copy()
        assert identify(len, (large_again, 0)).key == keys[0]
        large_again[5] = -1.0
    assert identify(len, (large_again, 0)).key != keys[0]
