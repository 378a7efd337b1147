"""Where configurations go to, as scripts see it."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms

from wfl.configset import ConfigSet, OutputSpec
from wfl.configset.errors import UnstreamableFormatError

LOC = "_ConfigSet_loc"

pytestmark = pytest.mark.usefixtures("change_test_dir")


def at(number: int) -> Atoms:
    return Atoms("Si", positions=[[number, 0, 0]], cell=[9, 9, 9], pbc=True, info={"n": number})


def ats(*numbers: int) -> list[Atoms]:
    return [at(number) for number in numbers]


def seen(configs: Any) -> list[tuple[str, int]]:
    return [(atoms.info[LOC], atoms.info["n"]) for atoms in configs]


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.is_file())


NESTED = [ats(0, 1), [ats(2), ats(3, 4)]]


# -- memory


def test_memory() -> None:
    out = OutputSpec()
    assert (out.files, out.configs, out.closed, out.single_file) == (None, [], False, False)
    images = ats(1, 2)
    out.store(images[0])
    out.store([images[1], None])
    out.store(None)
    assert out.configs == [images[0], [images[1], None]]
    assert out.configs[0] is images[0]
    assert not out.all_written()
    out.close()
    out.close()
    assert not out.all_written()
    assert seen(out.to_ConfigSet()) == [(" / 0", 1), (" / 1 / 0", 2)]
    with pytest.raises(ValueError, match="closed"):
        out.store(at(1))


def test_memory_at_places() -> None:
    out = OutputSpec()
    out.store(at(5), " / 2 / 1")
    out.store(ats(6, 7), " / 0")
    assert out.configs is not None
    assert out.configs[1] == []
    assert out.configs[2][0] == []
    assert seen(out.to_ConfigSet()) == [(" / 0 / 0", 6), (" / 0 / 1", 7), (" / 2 / 1", 5)]
    with pytest.raises(RuntimeError, match="integers"):
        out.store(at(1), " / x")
    with pytest.raises(RuntimeError, match="integers"):
        out.store(at(1), " / -1")
    assert list(OutputSpec().to_ConfigSet()) == []


def test_memory_can_be_pickled() -> None:
    out = OutputSpec(tags={"a": 1})
    out.store(at(1))
    assert seen(pickle.loads(pickle.dumps(out)).to_ConfigSet()) == [(" / 0", 1)]
    assert OutputSpec("a.xyz").files == pickle.loads(pickle.dumps(OutputSpec("a.xyz"))).files


# -- files


@pytest.mark.parametrize("files", ["one.xyz", ["a.xyz", "b.xyz"]])
def test_round_trip(files: Any) -> None:
    for source in (ConfigSet(NESTED), None):
        if source is None:
            source = OutputSpec(files).to_ConfigSet()
        out = OutputSpec(files, file_root=None if source.items is NESTED else "other")
        for atoms in source:
            out.store(atoms, atoms.info.pop(LOC))
        assert not out.all_written()
        out.close()
        assert out.all_written()
        assert seen(out.to_ConfigSet()) == seen(ConfigSet(NESTED))
    back = OutputSpec()
    for atoms in out.to_ConfigSet():
        back.store(atoms, atoms.info[LOC])
    assert back.configs is not None
    assert [len(member) for member in back.configs] == [2, 2]


def test_a_file_appears_when_it_is_complete() -> None:
    out = OutputSpec("d/e/a.xyz")
    assert not Path("d").exists()
    out.store(at(1))
    assert {"tmp.a.xyz", "tmp.a.xyz.lock"} == set(names("d/e"))
    assert len(ase.io.read("d/e/tmp.a.xyz", ":")) == 1
    with pytest.raises(ValueError, match="no file"):
        out.to_ConfigSet()
    out.close()
    assert names("d/e") == ["a.xyz"]
    out.close()
    with pytest.raises(ValueError, match="closed"):
        out.store(at(1))
    with pytest.raises(ValueError, match="closed"):
        out.begin()


def test_places_in_one_file() -> None:
    out = OutputSpec("a.xyz")
    out.store(at(0))
    out.store(None)
    out.store([at(1), [at(2)], None, at(3)])
    with pytest.raises(RuntimeError, match="cannot be mixed"):
        out.store(at(4), " / 7")
    out.close()
    assert seen(out.to_ConfigSet()) == [(" / 0", 0), (" / 1 / 0", 1), (" / 1 / 1 / 0", 2), (" / 1 / 3", 3)]
    given = OutputSpec("b.xyz")
    given.store(at(0), " / 7")
    with pytest.raises(RuntimeError, match="cannot be mixed"):
        given.store(at(1))
    given.close()
    assert seen(given.to_ConfigSet()) == [(" / 7", 0)]


def test_places_in_several_files() -> None:
    out = OutputSpec([Path("a.xyz"), "b.xyz"])
    out.store(at(0), " / 1 / 3")
    out.store(at(1), " / 0")
    out.store([at(2)], " / 0")
    with pytest.raises(ValueError, match="needs a location"):
        out.store(at(3))
    for wrong in (" / 2", " / 2 / 0"):
        with pytest.raises(IndexError, match="of 2"):
            out.store(at(3), wrong)
    out.close()
    assert [atoms.info for atoms in ase.io.read("a.xyz", ":")] == [{"n": 1}, {"n": 2, LOC: " / 0"}]
    assert [atoms.info for atoms in ase.io.read("b.xyz", ":")] == [{"n": 0, LOC: " / 3"}]


def test_the_objects_stored_are_left_alone() -> None:
    for files in (None, "a.xyz", ["b.xyz"]):
        atoms = at(1)
        out = OutputSpec(files, tags={"tag": "x", "n": 9})
        out.store(atoms, " / 0 / 0")
        out.close()
        assert atoms.info == {"n": 1}
        (found,) = out.to_ConfigSet()
        assert found.info == {"n": 9, "tag": "x", LOC: " / 0 / 0"}


def test_one_shot_iterables() -> None:
    out = OutputSpec(f"{name}.xyz" for name in "ab")
    assert out.files == [Path("a.xyz"), Path("b.xyz")]
    out.write(ConfigSet([ats(1), ats(2)]))
    assert seen(out.to_ConfigSet()) == [(" / 0 / 0", 1), (" / 1 / 0", 2)]
    one = OutputSpec("one.xyz")
    one.store(at(n) for n in range(3))
    one.close()
    assert seen(one.to_ConfigSet()) == [(" / 0 / 0", 0), (" / 0 / 1", 1), (" / 0 / 2", 2)]


def test_file_root() -> None:
    assert OutputSpec(["a.xyz"], file_root="d").files == [Path("d/a.xyz")]
    with pytest.raises(ValueError, match="absolute"):
        OutputSpec("/a.xyz", file_root="d")
    with pytest.raises(ValueError, match=r"more than once: a\.xyz"):
        OutputSpec(["a.xyz", "b.xyz", "./a.xyz"])
    assert OutputSpec([]).all_written()


def test_existing_files() -> None:
    Path("a.xyz").write_text("fake")
    out = OutputSpec("a.xyz")
    assert out.all_written()
    with pytest.raises(FileExistsError, match=r"a\.xyz.*overwrite=True"):
        out.store(at(1))
    with pytest.raises(FileExistsError):
        OutputSpec(["b.xyz", "a.xyz"]).store(at(1), " / 0 / 0")
    over = OutputSpec("a.xyz", overwrite=True)
    over.store(at(1))
    assert Path("a.xyz").read_text() == "fake"
    over.close()
    assert seen(over.to_ConfigSet()) == [(" / 0", 1)]
    assert names() == ["a.xyz"]


def test_write(caplog: pytest.LogCaptureFixture) -> None:
    images = ats(1, 2)
    out = OutputSpec("a.xyz")
    out.write(images)
    assert out.closed
    assert seen(out.to_ConfigSet()) == [(" / 0", 1), (" / 1", 2)]
    again = OutputSpec("a.xyz")
    with caplog.at_level(logging.WARNING):
        again.write(ats(3))
    assert "a.xyz" in caplog.text
    assert not again.closed
    assert len(again.to_ConfigSet()) == 2
    OutputSpec("a.xyz", overwrite=True).write(ats(3))
    assert seen(ConfigSet("a.xyz")) == [(" / 0", 3)]
    OutputSpec("c.xyz").write(ConfigSet(NESTED))
    assert seen(ConfigSet("c.xyz")) == seen(ConfigSet(NESTED))
    memory = OutputSpec()
    memory.write(at(7))
    assert seen(memory.to_ConfigSet()) == [(" / 0", 7)]


def test_write_what_was_read() -> None:
    for tree, files in ((NESTED, "a.xyz"), (NESTED, ["b.xyz", "c.xyz"])):
        OutputSpec(files).write(list(ConfigSet(tree)))
        assert seen(OutputSpec(files).to_ConfigSet()) == seen(ConfigSet(NESTED))


def test_nothing_to_write() -> None:
    OutputSpec("a.xyz").write([])
    assert names() == []
    empty = OutputSpec("b.xyz")
    empty.store([])
    empty.close()
    assert names() == ["b.xyz"]
    assert list(empty.to_ConfigSet()) == []
    assert len(empty.to_ConfigSet()) == 0
    OutputSpec("c.xyz").close()
    with pytest.raises(ValueError, match=r"c\.xyz"):
        OutputSpec("c.xyz").to_ConfigSet()


def test_results_that_cannot_be_stored() -> None:
    out = OutputSpec("a.xyz")
    for wrong in (5, "text", [at(1), 7]):
        with pytest.raises(TypeError, match="can be stored"):
            out.store(wrong)
        with pytest.raises(TypeError, match="can be stored"):
            OutputSpec().store(wrong)


@pytest.mark.parametrize("name", ["a", "a.cif", "a.traj.gz", "a.vasp"])
def test_formats_that_cannot_grow_say_so(name: str) -> None:
    with pytest.raises(UnstreamableFormatError, match=rf"/{name}: .*extxyz"):
        OutputSpec(name).store(at(1))


def test_the_format_may_be_given() -> None:
    out = OutputSpec("configs", write_kwargs={"format": "extxyz"})
    out.store(at(1))
    out.close()
    assert seen(out.to_ConfigSet()) == [(" / 0", 1)]
    columns = OutputSpec("a.xyz", write_kwargs={"columns": ["symbols", "positions"]})
    atoms = at(1)
    atoms.arrays["extra"] = atoms.positions[:, 0]
    columns.store(atoms)
    columns.close()
    assert "extra" not in Path("a.xyz").read_text()


def test_without_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutputSpec("a.xyz", flush=False)
    out.store(at(1))
    assert Path("tmp.a.xyz").stat().st_size == 0
    out.close()
    assert len(out.to_ConfigSet()) == 1


def test_more_files_than_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfl.configset.writing.MAX_OPEN", 3)
    out = OutputSpec([f"{i}.xyz" for i in range(8)])
    for k in range(3):
        for i in range(8):
            out.store(at(10 * k + i), f" / {i} / {k}")
    out.close()
    assert seen(out.to_ConfigSet()) == [(f" / {i} / {k}", 10 * k + i) for i in range(8) for k in range(3)]


def test_a_change_of_directory_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    out = OutputSpec(["a.xyz", "b.xyz"])
    out.store(at(1), " / 0 / 0")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    out.store(at(2), " / 1 / 0")
    out.close()
    assert names() == []
    assert names("..") == ["a.xyz", "b.xyz"]


def test_words() -> None:
    assert str(OutputSpec()) == "OutputSpec to memory"
    assert str(OutputSpec([f"{i}.xyz" for i in range(5)])) == "OutputSpec to 0.xyz, 1.xyz, 2.xyz and 2 more"


@pytest.mark.parametrize("suffix", [".db", ".json", ".traj", ".xyz"])
def test_numbers_of_numpy_in_info(suffix: str) -> None:
    at = Atoms("H", info={"n": np.int64(3), "x": np.float64(0.5), "yes": np.bool_(True)})
    out = OutputSpec(f"a{suffix}")
    out.store(at)
    out.close()
    [found] = out.to_ConfigSet()
    assert {name: found.info[name] for name in at.info} == {"n": 3, "x": 0.5, "yes": True}
