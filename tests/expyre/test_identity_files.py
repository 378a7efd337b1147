"""Input files are in the key by name and content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expyre.errors import RequestError
from expyre.identity import differences, identify


def f() -> None: ...


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "POSCAR").write_text("Cu")
    (tmp_path / "pot" / "deep").mkdir(parents=True)
    (tmp_path / "pot" / "a.xml").write_text("a")
    (tmp_path / "pot" / "deep" / "b.xml").write_text("b")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("pattern", ["pot", "pot/", "*", "p*", "pot/**", "./pot"])
def test_contents_of_directories_and_globs_count(root: Path, pattern: str) -> None:
    before = identify(f, files=[pattern], root=root)
    assert identify(f, files=[pattern], root=root) == before
    file = root / "pot" / "deep" / "b.xml"
    file.write_text("B")
    changed = identify(f, files=[pattern], root=root)
    assert differences(before, changed) == ["file pot/deep/b.xml changed"]
    file.rename(file.with_name("c.xml"))
    assert "file pot/deep/b.xml removed" in differences(changed, identify(f, files=[pattern], root=root))


def test_a_name_a_path_and_the_place_of_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "POSCAR").write_text("Cu")
    keys = {identify(f, files=[name], root=place).key for name in ("POSCAR", Path("POSCAR")) for place in (root, other)}
    assert len(keys) == 1
    (other / "POSCAR").rename(other / "CONTCAR")
    assert identify(f, files=["CONTCAR"], root=other).key not in keys
    assert identify(f).key not in keys


def test_links_are_followed_and_loops_end(root: Path) -> None:
    plain = identify(f, files=["POSCAR"], root=root)
    (root / "real").write_text("Cu")
    (root / "POSCAR").unlink()
    (root / "POSCAR").symlink_to("real")
    assert identify(f, files=["POSCAR"], root=root) == plain
    (root / "pot" / "up").symlink_to("..")
    assert identify(f, files=["pot"], root=root) == identify(f, files=["pot"], root=root)


def test_missing_files_are_all_named(root: Path) -> None:
    (root / "dangling").symlink_to("nowhere")
    with pytest.raises(RequestError) as caught:
        identify(f, files=["POSCAR", "nope", "*.zip", "dangling"], root=root)
    for name in ("nope", "*.zip", "dangling"):
        assert f"'{name}'" in str(caught.value)
    assert "POSCAR" not in str(caught.value)


def test_a_quick_change_of_equal_size_is_seen(root: Path) -> None:
    keys = set()
    for text in ("Cu", "Ag", "Au"):
        (root / "POSCAR").write_text(text)
        os.utime(root / "POSCAR", ns=(10**18, 10**18))
        keys.add(identify(f, files=["POSCAR"], root=root).key)
    assert len(keys) == 3


def test_a_file_named_like_a_glob(root: Path) -> None:
    (root / "[x]").write_text("1")
    assert [part.path for part in identify(f, files=["[x]"], root=root).parts if "file:" in part.path] == ["file:[x]"]


def test_an_empty_directory_counts(root: Path) -> None:
    assert identify(f, files=["empty"], root=root).key != identify(f, root=root).key
