from __future__ import annotations

import pytest

from wfl.calculators.utils import clean_rundir
from wfl.utils.file_utils import clean_dir

FILES = {"a.out", "b.out", "c.log", ".hidden", "sub/x.out"}
DEFAULT = ["*.log"]


@pytest.fixture
def rundir(tmp_path):
    path = tmp_path / "run"
    for name in FILES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")
    return path


def left(path):
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} if path.exists() else None


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (True, FILES),
        (False, None),
        (None, None),
        ([], None),
        (["*.out"], {"a.out", "b.out"}),
        (("a.out", "sub"), {"a.out", "sub/x.out"}),
        ({"nothing"}, set()),
    ],
)
def test_clean_dir(rundir, keep, expected):
    clean_dir(rundir, keep)
    assert left(rundir) == expected


def test_links_are_removed_and_not_followed(rundir, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    (rundir / "link").symlink_to(tmp_path / "outside")
    clean_dir(rundir, ["a.out"])
    assert left(rundir) == {"a.out"}
    assert (tmp_path / "outside" / "file").exists()


def test_missing_directory(tmp_path):
    clean_dir(tmp_path / "none", False)
    with pytest.raises(FileNotFoundError, match="none"):
        clean_dir(tmp_path / "none", False, force=True)


def test_one_string_is_refused(rundir):
    with pytest.raises(ValueError, match="list of globs"):
        clean_dir(rundir, "*.out")


@pytest.mark.parametrize(
    ("keep", "succeeded", "failed"),
    [
        (True, FILES, FILES),
        ("*", FILES, FILES),
        (None, None, {"c.log"}),
        (False, None, {"c.log"}),
        ("default", {"c.log"}, {"c.log"}),
        (["a.*"], {"a.out"}, {"a.out", "c.log"}),
    ],
)
@pytest.mark.parametrize("success", [True, False])
def test_clean_rundir(rundir, keep, succeeded, failed, success):
    clean_rundir(rundir, keep, DEFAULT, success)
    assert left(rundir) == (succeeded if success else failed)


@pytest.mark.parametrize("success", [True, False])
def test_other_strings(rundir, success):
    with pytest.raises(ValueError, match="'defualt'"):
        clean_rundir(rundir, "defualt", DEFAULT, success)
