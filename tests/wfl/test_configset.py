"""Where configurations come from."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wfl.configset import ConfigSet, Item, OutputSpec, iter_items
from wfl.configset.errors import MixedItemsError

LOC = "_ConfigSet_loc"

pytestmark = pytest.mark.usefixtures("change_test_dir")


def at(number: int) -> Atoms:
    return Atoms("Si", positions=[[number, 0, 0]], cell=[9, 9, 9], pbc=True, info={"n": number})


def ats(*numbers: int) -> list[Atoms]:
    return [at(number) for number in numbers]


def write(name: str, *numbers: int, locs: list[str] | None = None) -> Path:
    images = ats(*numbers)
    for atoms, loc in zip(images, locs or (), strict=False):
        atoms.info[LOC] = loc
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, images)
    return path


def seen(configs: Any) -> list[tuple[str, int]]:
    return [(atoms.info[LOC], atoms.info["n"]) for atoms in configs]


def numbers(configs: Any) -> list[int]:
    return [atoms.info["n"] for atoms in configs]


# -- constructor forms


@pytest.mark.parametrize("items", [None, [], ()])
def test_no_content(items: Any) -> None:
    cs = ConfigSet(items)
    assert str(cs) == "ConfigSet with no content"
    assert cs.items is None
    assert list(cs) == []
    assert list(cs.groups()) == []
    assert len(cs) == 0
    assert bool(cs)


def test_in_memory() -> None:
    one = at(1)
    assert ConfigSet(one).items == [one]
    assert str(ConfigSet(one)) == "ConfigSet with 1 Atoms"
    images = ats(1, 2, 3)
    cs = ConfigSet(images)
    assert cs.items is images
    assert str(cs) == "ConfigSet with 3 Atoms"
    assert seen(cs) == [(" / 0", 1), (" / 1", 2), (" / 2", 3)]
    assert all(a is b for a, b in zip(cs, images, strict=True))
    nested = ConfigSet([ats(1, 2), [ats(3), ats(4, 5)]])
    assert str(nested) == "ConfigSet with 2 sub-lists"
    assert [loc for loc, _ in seen(nested)] == [" / 0 / 0", " / 0 / 1", " / 1 / 0 / 0", " / 1 / 1 / 0", " / 1 / 1 / 1"]
    assert seen(ConfigSet([at(1), ats(2), None, at(3)])) == [(" / 0", 1), (" / 1 / 0", 2), (" / 3", 3)]


def test_stale_locations_in_memory_do_not_count() -> None:
    images = ats(1, 2)
    images[0].info[LOC] = " / 7 / 7"
    assert seen(ConfigSet(images)) == [(" / 0", 1), (" / 1", 2)]


def test_one_file() -> None:
    path = write("a.xyz", 1, 2)
    for name in ("a.xyz", path):
        cs = ConfigSet(name)
        assert cs.items == path
        assert str(cs) == "ConfigSet with single file a.xyz "
        assert cs.one_file() == path
        assert seen(cs) == seen(cs) == [(" / 0", 1), (" / 1", 2)]
    assert ConfigSet(["a.xyz"]).items == [path]
    assert str(ConfigSet(["a.xyz"])) == "ConfigSet with 1 files"
    assert ConfigSet(["a.xyz"]).one_file() == path
    assert seen(ConfigSet(["a.xyz"])) == [(" / 0 / 0", 1), (" / 0 / 1", 2)]


def test_several_files() -> None:
    write("d/b.xyz", 3), write("d/a.xyz", 1, 2), write("e/c.xyz", 4)
    cs = ConfigSet("d/*.xyz")
    assert cs.items == [Path("d/a.xyz"), Path("d/b.xyz")]
    assert str(cs) == "ConfigSet with 2 files"
    assert cs.one_file() is False
    assert seen(cs) == [(" / 0 / 0", 1), (" / 0 / 1", 2), (" / 1 / 0", 3)]
    assert numbers(ConfigSet(["e/c.xyz", "d/*.xyz"])) == [4, 1, 2, 3]
    assert numbers(ConfigSet("**/*.xyz")) == numbers(ConfigSet("?/*.xyz")) == [1, 2, 3, 4]
    assert ConfigSet("e/*.xyz").items == [Path("e/c.xyz")]
    assert numbers(ConfigSet(Path("d") / "[b]*")) == [3]
    assert numbers(ConfigSet(("d/b.xyz", Path("d/a.xyz")))) == [3, 1, 2]
    assert numbers(ConfigSet(name for name in ("d/b.xyz", "e/c.xyz"))) == [3, 4]


def test_file_root() -> None:
    write("d/a.xyz", 1), write("d/b.xyz", 2)
    assert ConfigSet("a.xyz", file_root="d").items == Path("d/a.xyz")
    assert numbers(ConfigSet(["b.xyz", "a*"], file_root=Path("d"))) == [2, 1]
    assert numbers(ConfigSet("*.xyz", file_root="d")) == [1, 2]
    with pytest.raises(ValueError, match="absolute"):
        ConfigSet(Path("d/a.xyz").absolute(), file_root="d")


def test_missing_files_are_all_named() -> None:
    write("a.xyz", 1)
    with pytest.raises(ValueError, match=r"'b\.xyz'"):
        ConfigSet("b.xyz")
    with pytest.raises(ValueError, match=r"'b\*', 'c\.xyz'"):
        ConfigSet(["a.xyz", "b*", "c.xyz"])


def test_wrong_items() -> None:
    write("a.xyz", 1)
    with pytest.raises(RuntimeError, match="to_ConfigSet"):
        ConfigSet(OutputSpec())
    with pytest.raises(AssertionError, match=r"items\[1\] is a Atoms"):
        ConfigSet(["a.xyz", at(1)])
    assert issubclass(MixedItemsError, ValueError)
    with pytest.raises(ValueError, match=r"items\[1\]"):
        ConfigSet([at(1), "a.xyz"])
    with pytest.raises(ValueError, match="something else"):
        ConfigSet([ConfigSet(at(1)), at(2)])
    with pytest.raises(TypeError):
        ConfigSet(5)
    with pytest.raises(TypeError, match=r"items\[0\]\[1\]"):
        list(ConfigSet([[at(1), 5]]))


def test_a_name_with_brackets() -> None:
    write("a[1].xyz", 1)
    assert ConfigSet("a[1].xyz").items == Path("a[1].xyz")


# -- of ConfigSets


def test_of_a_configset() -> None:
    images = ats(1, 2)
    cs = ConfigSet(images)
    again = ConfigSet(cs)
    assert again.items == images
    assert again.items is not images
    write("a.xyz", 1)
    assert ConfigSet(ConfigSet("a.xyz")).items == Path("a.xyz")


def test_of_configsets() -> None:
    write("a.xyz", 1), write("b.xyz", 2), write("c.xyz", 3)
    files = ConfigSet([ConfigSet("a.xyz"), ConfigSet(), ConfigSet(["b.xyz", "c.xyz"])])
    assert files.items == [Path("a.xyz"), Path("b.xyz"), Path("c.xyz")]
    memory = ConfigSet([ConfigSet(ats(1, 2)), ConfigSet([]), ConfigSet(at(3))])
    assert seen(memory) == [(" / 0 / 0", 1), (" / 0 / 1", 2), (" / 1 / 0", 3)]
    empty = ConfigSet([ConfigSet(), ConfigSet([])])
    assert (str(empty), list(empty)) == ("ConfigSet with no content", [])
    for mixed in ([ConfigSet("a.xyz"), ConfigSet(at(1))], [ConfigSet(at(1)), ConfigSet("a.xyz")]):
        with pytest.raises(ValueError, match="mix"):
            ConfigSet(mixed)


def test_sums() -> None:
    a, b, c = (ConfigSet(ats(n, n + 10)) for n in (1, 2, 3))
    locs = seen(ConfigSet([a, b, c]))
    assert seen((a + b) + c) == seen(a + (b + c)) == seen(a + ConfigSet() + b + c) == locs
    write("a.xyz", 1), write("b.xyz", 2)
    assert (ConfigSet("a.xyz") + ConfigSet("b.xyz")).items == [Path("a.xyz"), Path("b.xyz")]
    with pytest.raises(TypeError):
        a + [at(1)]
    with pytest.raises(ValueError, match="mix"):
        a + ConfigSet("a.xyz")


def test_read_kwargs_go_along() -> None:
    write("a.xyz", 1, 2, 3), write("b.xyz", 4, 5, 6)
    every_other = ConfigSet("a.xyz", read_kwargs={"index": "::2"})
    last = ConfigSet("b.xyz", read_kwargs={"index": -1})
    assert every_other.read_kwargs == {"index": "::2", "parallel": False}
    assert numbers(every_other) == numbers(ConfigSet(every_other)) == [1, 3]
    assert numbers(every_other + last) == numbers(ConfigSet([every_other, last])) == [1, 3, 6]
    assert [numbers(group) for group in (every_other + last).groups()] == [[1, 3], [6]]
    assert len(every_other + last) == 3
    assert numbers(ConfigSet(every_other, read_kwargs={"index": 1})) == [2]
    assert ConfigSet(every_other).read_kwargs == every_other.read_kwargs
    assert numbers(ConfigSet(["a.xyz", "b.xyz"], read_kwargs={"index": "1:"})) == [2, 3, 5, 6]


# -- iteration


def test_cur_loc() -> None:
    cs = ConfigSet([ats(1), ats(2)])
    assert cs.cur_loc is None
    assert [cs.cur_loc for _ in cs] == [" / 0 / 0", " / 1 / 0"]
    assert cs.cur_loc is None


def test_locations_in_files() -> None:
    write("a.xyz", 1, 2, 3, locs=[" / 0 / 0", " / 0 / 1", " / 1 / 0"])
    write("b.xyz", 4, 5)
    assert seen(ConfigSet("a.xyz")) == [(" / 0 / 0", 1), (" / 0 / 1", 2), (" / 1 / 0", 3)]
    both = [(" / 0 / 0 / 0", 1), (" / 0 / 0 / 1", 2), (" / 0 / 1 / 0", 3), (" / 1 / 0", 4), (" / 1 / 1", 5)]
    assert seen(ConfigSet(["a.xyz", "b.xyz"])) == both


def test_files_are_streamed() -> None:
    write("a.xyz", *range(100))
    frames = iter(ConfigSet("a.xyz"))
    assert next(frames).info["n"] == 0
    assert numbers(frames) == list(range(1, 100))


def test_items_for_engines_leave_the_objects_alone() -> None:
    images = ats(1, 2)
    images[0].info[LOC] = " / 9"
    items = list(iter_items(ConfigSet([images])))
    assert [item.path for item in items] == [(0, 0), (0, 1)]
    assert [item.value for item in items] == images
    assert images[0].info == {"n": 1, LOC: " / 9"}
    assert images[1].info == {"n": 2}
    write("a.xyz", 1, 2, locs=[" / 0 / 5", " / 3"])
    items = list(iter_items(ConfigSet("a.xyz")))
    assert [(item.path, item.value.info) for item in items] == [((0, 5), {"n": 1}), ((3,), {"n": 2})]


def test_items_of_other_inputs() -> None:
    images = ats(1, 2)
    assert list(iter_items(images)) == [Item(None, images[0]), Item(None, images[1])]
    assert list(iter_items(range(2))) == [Item(None, 0), Item(None, 1)]
    assert [item.value for item in iter_items(images[0])] == [images[0]]
    write("a.xyz", 1, 2, 3, locs=[" / 0 / 0", " / 4 / 0", " / 4 / 1"])
    groups = ConfigSet("a.xyz").groups()
    assert [item.path for item in iter_items(groups)] == [(0,), (4,)]
    assert [item.path for item in iter_items([ConfigSet(images)])] == [None]


# -- groups


def test_groups_in_memory() -> None:
    images = ats(1, 2)
    assert list(ConfigSet(images)) == images
    groups = list(ConfigSet(images).groups())
    assert all(a is b for a, b in zip(groups, images, strict=True))
    assert not any(LOC in atoms.info for atoms in images)
    first, second = ConfigSet([ats(1, 2), [ats(3), ats(4)]]).groups()
    assert (first._enclosing_loc, second._enclosing_loc) == (" / 0", " / 1")
    assert seen(first) == [(" / 0", 1), (" / 1", 2)]
    assert [seen(group) for group in second.groups()] == [[(" / 0", 3)], [(" / 0", 4)]]


def test_groups_of_files() -> None:
    write("a.xyz", 1, 2), write("b.xyz", 3, 4, locs=[" / 0 / 0", " / 1 / 0"])
    flat = list(ConfigSet("a.xyz").groups())
    assert numbers(flat) == [1, 2]
    assert not any(LOC in atoms.info for atoms in flat)
    first, second = list(ConfigSet(["a.xyz", "b.xyz"]).groups())
    assert (first._enclosing_loc, second._enclosing_loc) == (" / 0", " / 1")
    assert seen(second) == [(" / 0 / 0", 3), (" / 1 / 0", 4)]
    assert seen(first) == [(" / 0", 1), (" / 1", 2)]
    assert [seen(group) for group in second.groups()] == [[(" / 0", 3)], [(" / 0", 4)]]
    assert numbers(first.groups()) == [1, 2]


def nested_file() -> ConfigSet:
    """Groups that do not hang together, 1 and 10 side by side, with groups of their own."""
    locs = [" / 0 / 0", " / 1 / 0", " / 10 / 0", " / 1 / 1", " / 0 / 1", " / 10 / 1 / 0", " / 10 / 1 / 1"]
    return ConfigSet(write("nested.xyz", *range(len(locs)), locs=locs))


def test_groups_of_a_nested_file() -> None:
    groups = list(nested_file().groups())
    assert [group._enclosing_loc for group in groups] == [" / 0", " / 1", " / 10"]
    expected = [[(" / 0", 0), (" / 1", 4)], [(" / 0", 1), (" / 1", 3)], [(" / 0", 2), (" / 1 / 0", 5), (" / 1 / 1", 6)]]
    assert [seen(group) for group in groups] == expected
    assert [seen(group) for group in reversed(groups)] == expected[::-1]
    assert [len(group) for group in groups] == [2, 2, 3]
    inner = list(groups[2].groups())
    assert inner[0].info["n"] == 2
    assert seen(inner[1]) == [(" / 0", 5), (" / 1", 6)]
    assert inner[1]._enclosing_loc == " / 1"
    together = iter(groups[0]), iter(groups[1])
    assert [next(frames).info["n"] for _ in range(2) for frames in together] == [0, 1, 4, 3]


def test_groups_can_be_pickled_and_wrapped() -> None:
    for group in list(nested_file().groups()):
        other = pickle.loads(pickle.dumps(group))
        assert seen(other) == seen(group)
        assert other._enclosing_loc == group._enclosing_loc
        assert seen(other._in_memory()) == seen(group)
        assert other._in_memory()._enclosing_loc == group._enclosing_loc
    groups = list(nested_file().groups())
    assert seen(ConfigSet(groups[1])) == [(" / 0", 1), (" / 1", 3)]
    assert seen(ConfigSet(groups[:2])) == [(" / 0 / 0", 0), (" / 0 / 1", 4), (" / 1 / 0", 1), (" / 1 / 1", 3)]


def test_groups_of_a_file_that_has_changed() -> None:
    group = next(iter(nested_file().groups()))
    write("nested.xyz", 1)
    with pytest.raises(ValueError, match=r"nested\.xyz has changed"):
        list(group)


def test_mixed_levels_in_a_file() -> None:
    write("a.xyz", 1, 2, 3, locs=[" / 0", " / 1 / 0", " / 2"])
    first, second, third = ConfigSet("a.xyz").groups()
    assert (first.info, third.info) == ({"n": 1}, {"n": 3})
    assert seen(second) == [(" / 0", 2)]


# -- as a sequence


def configsets() -> Iterator[ConfigSet]:
    yield ConfigSet(ats(*range(6)))
    yield ConfigSet([ats(0, 1), [ats(2), ats(3, 4)], ats(5)])
    yield ConfigSet(write("a.xyz", *range(6)))
    yield ConfigSet([write("b.xyz", 0, 1, 2), write("c.xyz", 3), write("d.xyz", 4, 5)])
    yield ConfigSet(write("e.xyz", 9, *range(6)), read_kwargs={"index": "1:"})
    yield ConfigSet(write("f.xyz.gz", *range(6)))
    yield ConfigSet(write("g.traj", *range(6)))


def test_length_and_indexing() -> None:
    for cs in configsets():
        everything = seen(cs)
        assert len(cs) == 6
        assert [cs[index].info["n"] for index in (0, 5, -1, -6)] == [0, 5, 5, 0]
        assert cs[3].info[LOC] == everything[3][0]
        with pytest.raises(IndexError):
            cs[6]
        for part in (slice(1, 4), slice(None, None, 2), slice(-2, None), slice(3, 3), slice(2, 100)):
            assert seen(cs[part]) == everything[part]
            assert len(cs[part]) == len(everything[part])
        assert seen(cs[1:5][1:3]) == everything[2:4]
        assert seen(pickle.loads(pickle.dumps(cs[1:4]))) == everything[1:4]
        with pytest.raises(ValueError, match="reverse"):
            cs[::-1]


def test_slices_of_files_are_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    cs = ConfigSet(write("a.xyz", *range(50)))
    import wfl.configset.io.xyz_parse as module

    parsed: list[int] = []
    make = module.make_atoms
    monkeypatch.setattr(module, "make_atoms", lambda *args: (parsed.append(1), make(*args))[1])
    part = cs[10:20]
    assert (len(cs), parsed) == (50, [])
    assert numbers(part[3:5]) == [13, 14]
    assert len(parsed) == 2


def test_html() -> None:
    assert "2 configurations in memory" in ConfigSet(ats(1, 2))._repr_html_()
    assert "<b>" in ConfigSet(write("a&b.xyz", 1))._repr_html_()
    assert "a&amp;b.xyz" in ConfigSet("a&b.xyz")._repr_html_()


# -- formats


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz", "a.xyz.bz2", "a.xyz.xz", "a.traj", "a.db", "a.json"])
def test_formats_keep_places_and_groups(name: str) -> None:
    tree = [ats(0, 1), [ats(2), ats(3, 4)]]
    out = OutputSpec(name)
    for atoms in ConfigSet(tree):
        out.store(atoms, atoms.info[LOC])
    out.close()
    cs = out.to_ConfigSet()
    assert seen(cs) == seen(ConfigSet(tree))
    assert len(cs) == 5
    first, second = list(cs.groups())
    assert seen(first) == [(" / 0", 0), (" / 1", 1)]
    assert seen(second) == [(" / 0 / 0", 2), (" / 1 / 0", 3), (" / 1 / 1", 4)]
    assert cs[3].info["n"] == 3
    np.testing.assert_allclose(cs[3].positions, [[3, 0, 0]])


def test_import_is_light() -> None:
    code = (
        "import sys, wfl.configset; heavy = {'torch', 'matplotlib', 'scipy', 'ase.io', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- any tree

trees = st.recursive(st.just("atoms"), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=12)


def planted(shape: Any, counter: Iterator[int]) -> Any:
    return at(next(counter)) if shape == "atoms" else [planted(member, counter) for member in shape]


def regrown(cs: Any) -> Any:
    return [member.info["n"] if isinstance(member, Atoms) else regrown(member) for member in cs.groups()]


def flattened(tree: Any) -> Any:
    return tree.info["n"] if isinstance(tree, Atoms) else [flattened(member) for member in tree]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(trees, min_size=1, max_size=4))
def test_any_tree_survives_files(tmp_path_factory: pytest.TempPathFactory, shape: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("trees")
    tree = planted(shape, iter(range(1000)))
    memory = ConfigSet(tree)
    assert regrown(memory) == flattened(tree)
    places = seen(memory)
    one = OutputSpec("one.xyz", file_root=folder)
    one.write(memory)
    assert seen(one.to_ConfigSet()) == places
    assert regrown(one.to_ConfigSet()) == flattened(tree)
    back = OutputSpec()
    back.write(one.to_ConfigSet())
    assert regrown(back.to_ConfigSet()) == flattened(tree)
    if all(isinstance(member, list) for member in tree):
        several = OutputSpec([f"{i}.xyz" for i in range(len(tree))], file_root=folder)
        several.write(memory)
        assert seen(several.to_ConfigSet()) == places
