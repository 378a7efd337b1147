"""Extended XYZ files, also odd ones, read as ASE reads them."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.io.extxyz import XYZError
from xyz_tools import assert_same

from wfl.configset.io import open_reader
from wfl.configset.io.xyz_frames import chunks

LATTICE = 'Lattice="5.44 0.0 0.0 0.1 5.44 0.0 0.0 0.2 5.44"'
SI = "Si 0.0 0.5 1.0\n"


def one(comment: str, *lines: str) -> str:
    body = lines or (SI.strip(),)
    return f"{len(body)}\n{comment}\n" + "".join(line + "\n" for line in body)


def many(comment: str, n_lines: int = 20) -> str:
    """Lines that are laid out alike, as programs write them."""
    rows = [
        f"{'Si' if i % 2 else 'H':<2s} {i * 1.25:16.8f} {-i / 3:16.8f} {i * 100 - 950.5:16.8f}" for i in range(n_lines)
    ]
    return one(comment, *rows)


FILES = {
    "plain": one("just a comment"),
    "plain with odd words": one("energy of 5 = -3 eV, T = 300"),
    "blank comment": one(""),
    "no properties": one(LATTICE),
    "lattice": one(f"{LATTICE} Properties=species:S:1:pos:R:3"),
    "integer lattice": one('Lattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3'),
    "lattice in braces": one("Lattice={5.0 0 0 0 5.0 0 0 0 5.0} Properties=species:S:1:pos:R:3"),
    "lattice in brackets": one("Lattice=[5.0 0 0 0 5.0 0 0 0 5.0] Properties=species:S:1:pos:R:3"),
    "lattice with commas": one('Lattice="5.0,0,0,0,5.0,0,0,0,5.0"'),
    "origin": one(f'{LATTICE} Origin="1.0 2.0 3.0"'),
    "pbc": one(f'{LATTICE} pbc="T F T"'),
    "pbc without lattice": one('pbc="T F T"'),
    "pbc as numbers": one(f'{LATTICE} pbc="1 0 1"'),
    "pbc as one": one(f"{LATTICE} pbc=F"),
    "quotes": one("""a="foo bar" b='single quoted' c="it's" d='say "hi"'"""),
    "escapes": one(r'a="with \"quotes\" inside" b=back\slash c="a\\b"'),
    "brackets in quotes": one('a="[1, 2, 3]" b="{x}"'),
    "equals in quotes": one('a="x=y" b="k = v z"'),
    "equals in value": one("a=b=c d=1"),
    "space around equals": one("a = 3 b= 4 c =5 d = e = f"),
    "empty values": one('a= b="" c'),
    "booleans": one("a=T b=F c=true d=False e=TRUE f=t g=True2 h='T F T' i='T,F' j='T x'"),
    "integers": one("a=3 b=-7 c=+5 d=007 e=1_000 f=99999999999999999999 g=9223372036854775807 h=-9223372036854775808"),
    "reals": one("a=1.5 b=-.5 c=1. d=1e5 e=1E-3 f=1.0d3 g=nan h=inf i=-Infinity j=1e400 k=NaN l=-0.0 m=0x10 n=1e-400"),
    "vectors": one("a='1 2 3' b='1.0 2 3' c='1,2,3' d={1 2} e=[1.5 2.5] f='1 x' g='1e3 2' h=' 7 ' i='1-2.0 3.5'"),
    "nested": one("a=[[1, 2], [3, 4]] b=2"),
    "new style": one("a=[1, 2, 3] b=[1.5, 2.5] c=[T, F]"),
    "json": one(
        r'a="_JSON [[1, 2], [3, 4]]" b="_JSON {\"x\": [1, null], \"y\": \"z\"}" c="_JSON 3" d="_JSON [true, false]"'
    ),
    "json text": one(r'a="_JSON \"text\"" b="_JSON [\"p\", \"q\"]" c="_JSON null"'),
    "json in single quotes": one("""a='_JSON {"x": 1.5}'"""),
    "keys only": one("alone another third=3 last"),
    "keys twice": one("a=1 a=2 b=3 a=x"),
    "quoted keys": one('"my key"=3 [odd]=4 "only"'),
    "uid": one("uid=0123 UID=5 Uid=T a=1"),
    "unicode": one('name="Größe µ" é=1 b="日本"'),
    "tabs": one("a=1\tb=2\t\tc=3", "Si\t0.0\t0.5\t1.0"),
    "virial": one('virial="1 2 3 4 5 6 7 8 9"'),
    "stress": one(f'{LATTICE} stress="1.0 2 3 4 5 6 7 8 9" energy=-1.5'),
    "results": one(
        f"{LATTICE} Properties=species:S:1:pos:R:3:forces:R:3:magmoms:R:1:charges:R:1"
        ' energy=-1.5 free_energy=-1.6 dipole="1 2 3"',
        "Si 0 0 0 0.1 0.2 0.3 1.0 -1.0",
    ),
    "charge column": one("Properties=species:S:1:pos:R:3:charge:R:1", "Si 0 0 0 0.5"),
    "initial charges": one("Properties=species:S:1:pos:R:3:initial_charges:R:1:initial_magmoms:R:1", "Si 0 0 0 0.5 2"),
    "energy as text": one("energy=low"),
    "columns of all kinds": one(
        "Properties=species:S:1:pos:R:3:n:I:1:ok:L:1:label:S:1:v:I:2:w:L:2",
        "Si 0 0 0 5 T abc 1 2 T F",
        "H 1 1 1 -6 False xyz 3 4 F T",
    ),
    "text columns": one("Properties=species:S:1:pos:R:3:label:S:2", "Si 0 0 0 a b"),
    "numbers": one("Properties=Z:I:1:pos:R:3", "14 0 0 0", "1 1.0 2.0 3.0"),
    "numbers and symbols": one("Properties=species:S:1:Z:I:1:pos:R:3", "Si 14 0 0 0"),
    "no symbols": one("Properties=pos:R:3", "0 0 0"),
    "momenta": one("Properties=species:S:1:pos:R:3:momenta:R:3:tags:I:1:masses:R:1", "Si 0 0 0 1 2 3 7 28.5"),
    "move mask": one("Properties=species:S:1:pos:R:3:move_mask:L:1", "Si 0 0 0 T", "H 1 1 1 F"),
    "move masks": one("Properties=species:S:1:pos:R:3:move_mask:L:3", "Si 0 0 0 T F T", "H 1 1 1 F T T"),
    "move mask as integers": one("Properties=species:S:1:pos:R:3:move_mask:I:1", "Si 0 0 0 1", "H 1 1 1 0"),
    "move mask and results": one(
        "Properties=species:S:1:pos:R:3:move_mask:L:1:forces:R:3 energy=1", "Si 0 0 0 T 1 2 3", "H 1 1 1 F 4 5 6"
    ),
    "odd case of symbols": one("", "SI 0 0 0", "si 0 0 0", "h 1 1 1", "X 2 2 2"),
    "numbers as symbols": one("Properties=species:S:1:pos:R:3", "Si 0 0 0"),
    "more columns than said": one("Properties=species:S:1:pos:R:3", "Si 0 0 0 7 8", "Si 0 0 0 nine"),
    "odd numbers": one("", "Si nan inf -inf", "Si 1e5 -2E-3 +3.5", "Si 1_0.5 .5 5."),
    "no atoms": "0\n\n" + one("a=1"),
    "no atoms with lattice": f"0\n{LATTICE} energy=1\n" + one("a=1"),
    "no end of line": one("a=1").rstrip("\n"),
    "blank lines at the end": one("a=1") + "\n\n  \n",
    "blank line stops": one("a=1") + "\n" + one("a=2"),
    "spaces around the header": "  1  \na=1\n" + SI,
    "windows": (one("a=1", "Si 0 0 0") + many(LATTICE)).replace("\n", "\r\n"),
    "vectors after atoms": one("a comment") + "VEC1 5.0 0 0\nVEC2 0 5.0 0\n" + one("next") + "VEC1 1 2 3\n",
    "table": many(f"{LATTICE} Properties=species:S:1:pos:R:3"),
    "tables": many("a=1", 15)
    + many("a=2", 40)
    + one("a=3")
    + many("a=4", 3)
    + many("Properties=species:S:1:pos:R:3", 30),
    "table with negative zero": one("", *(["H 0.0 -0.00 -0.0"] * 20)),
    "table with plus": one("", *(["H 0.0 +1.0 0.0"] * 20)),
    "table with broken minus": one("", *(["H 0.0 1.0 10.0"] * 20), "H 0.0 1.0 -0.5"),
    "table of long numbers": one("", *(["H 123456789.12345678 0.1 0.123456789012345678"] * 20)),
    "table of 15 digits": one("", *(["H 1234567.12345678 -999999.99999999 999999999999.999"] * 20)),
    "table of exponents": one("", *(["H 1.0e5 0.1 0.2"] * 20)),
    "table of left aligned": one("", *[f"H {x:<12.4f} {x:<10} {x:<5}" for x in np.linspace(0, 120, 30).round(3)]),
    "table without points": one("", *(["H 1 2 3"] * 20)),
    "table with points at the ends": one("", *(["H .5 5. 1.5"] * 20)),
    "table of integers": one(
        "Properties=species:S:1:pos:R:3:n:I:1", *(f"Si 0.0 0.0 0.0 {i:8d}" for i in range(-15, 15))
    ),
    "table of big integers": one("Properties=species:S:1:pos:R:3:n:I:1", *(["Si 0.0 0.0 0.0 1234567890"] * 20)),
    "table of logicals": one(
        "Properties=species:S:1:pos:R:3:ok:L:1", *(["Si 0.0 0.0 0.0  T", "Si 0.0 0.0 0.0  F"] * 20)
    ),
    "table of long logicals": one("Properties=species:S:1:pos:R:3:ok:L:1", *(["Si 0.0 0.0 0.0  True"] * 20)),
    "table of words": one(
        "Properties=species:S:1:pos:R:3:name:S:1", *([f"Si 0.0 0.0 0.0 {n:5s}" for n in ("a", "abc", "x1")] * 9)
    ),
    "table of unicode": one("Properties=species:S:1:pos:R:3:name:S:1", *(["Si 0.0 0.0 0.0 é"] * 20)),
    "table with gaps": one(
        "Properties=species:S:1:pos:R:3:name:S:1", *(["H  0.0 0.0 0.0 ab ", "H  0.0 0.0 0.0 a b"] * 20)
    ),
    "table with more columns": one("Properties=species:S:1:pos:R:3", *(["Si 0.0 0.0 0.0 1.5"] * 20)),
    "table of results": one(
        "Properties=species:S:1:pos:R:3:forces:R:3 energy=5", *(["Si  0.25 -1.50 22.75 -0.1 -0.2 -0.3"] * 30)
    ),
    "locations": one('_ConfigSet_loc=" / 0 / 1"') + one("_ConfigSet_loc=' / 0 / 2'"),
}


@pytest.mark.parametrize("name", FILES)
def test_reads_like_ase(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    path.write_bytes(FILES[name].encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = list(ase.io.iread(path, ":"))
        except Exception:
            with pytest.raises((XYZError, ValueError)):
                list(open_reader(path).frames())
            return
        ours = list(open_reader(path).frames())
    assert len(ours) == len(theirs) == open_reader(path).count()
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)


def test_the_fast_way_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ordinary programs do not need ASE's own parser."""
    import wfl.configset.io.xyz_parse as module

    monkeypatch.setattr(module, "_by_ase", lambda *args: pytest.fail("left to ASE"))
    for name in (
        "plain",
        "lattice",
        "json",
        "results",
        "momenta",
        "move mask",
        "table",
        "windows",
        "unicode",
        "quotes",
    ):
        path = tmp_path / "file.xyz"
        path.write_bytes(FILES[name].encode())
        assert list(open_reader(path).frames())


@pytest.mark.parametrize("index", [":", "0", 0, -1, "-1", "1:3", "::2", "::-1", "-2:", slice(1, None), 99, "5:2", None])
def test_index_is_honoured(index: object, tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    path.write_text("".join(one(f"n={i}") for i in range(5)))
    theirs = [atoms.info["n"] for atoms in ase.io.iread(path, -1 if index is None else index)]
    reader = open_reader(path, {"index": index})
    assert [atoms.info["n"] for atoms in reader.frames()] == theirs
    assert reader.count() == len(theirs)


def test_other_keywords_go_to_ase(tmp_path: Path) -> None:
    from ase.io.extxyz import key_val_str_to_dict_regex

    path = tmp_path / "file.xyz"
    path.write_text(one("a=3"))
    (atoms,) = open_reader(path, {"properties_parser": key_val_str_to_dict_regex}).frames()
    assert atoms.info == {"a": 3}
    with pytest.raises(TypeError):
        list(open_reader(path, {"nonsense": 1}).frames())
    with pytest.raises(ValueError, match="index 'x'"):
        open_reader(path, {"index": "x"})


MALFORMED = {
    "header": (one("a=1") + "two\n", 4, "expected a number of atoms, got 'two'"),
    "short": (one("a=1") + "3\n\n" + SI, 4, "ends within a frame of 3 atoms"),
    "no comment": ("1\n", 1, "ends within a frame"),
    "number": (one("", "Si 0 0 0", "Si 0 zero 0"), 4, "zero"),
    "columns": (one("", "Si 0 0 0", "Si 0 0"), 4, "fewer than 4 columns"),
    "symbol": (one("", "Qq 0 0 0"), 3, "unknown chemical symbol 'Qq'"),
    "fortran": (one("", "Si 1.0D+00 0 0"), 3, "1.0D"),
    "lattice": (one('Lattice="1 2 3"'), 2, "Lattice"),
    "properties": (one("Properties=species:Q:1:pos:R:3"), 2, "Unknown property type"),
    "table": (one("", *(["H 0.0 0.0 0.0"] * 20), "H 0.0 0.x 0.0"), 23, "0.x"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_name_file_and_line(name: str, tmp_path: Path) -> None:
    text, line, message = MALFORMED[name]
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(XYZError) as caught:
        list(open_reader(path).frames())
    assert f"{path}, line {line}:" in str(caught.value)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_what_precedes_the_damage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.xyz"
    path.write_text(one("n=1") + one("n=2") + "3\n\n" + SI)
    frames = open_reader(path).frames()
    assert [next(frames).info["n"] for _ in range(2)] == [1, 2]
    with pytest.raises(XYZError):
        next(frames)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_chunks_may_end_anywhere(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(
        FILES[name] for name in ("vectors after atoms", "table", "no atoms", "columns of all kinds", "windows")
    )
    path = tmp_path / "file.xyz"
    path.write_bytes(text.encode())
    theirs = list(ase.io.iread(path, ":"))
    monkeypatch.setattr("wfl.configset.io.xyz_frames.CHUNK_BYTES", size)
    ours = list(open_reader(path).frames())
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)


def test_frames_by_place(tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    path.write_text("".join(one(f"n={i}", *["Si 0 0 0"] * (i % 4)) for i in range(50)))
    reader = open_reader(path)
    spans = reader.spans([3, 4, 5, 40, 7])
    assert len(spans) == 3
    assert reader.numbers(spans) == [3, 4, 5, 40, 7]
    assert [(number, atoms.info["n"]) for number, atoms in reader.read(spans)] == [(i, i) for i in (3, 4, 5, 40, 7)]


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    path.write_text("")
    assert list(open_reader(path).frames()) == []
    assert open_reader(path).count() == 0


def test_a_change_of_the_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    path.write_text(one("n=1"))
    assert open_reader(path).count() == 1
    path.write_text(one("n=1") * 3)
    assert open_reader(path).count() == 3


def test_memory_is_flat(tmp_path: Path) -> None:
    """A file ten times as long needs no more memory to read."""
    import tracemalloc

    path = tmp_path / "file.xyz"
    peaks = []
    for n_frames in (300, 3000):
        path.write_text(many(LATTICE, 200) * n_frames)
        tracemalloc.start()
        assert sum(1 for _ in open_reader(path).frames()) == n_frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_chunk_places(tmp_path: Path) -> None:
    path = tmp_path / "file.xyz"
    text = one("a=1") + one("b=2")
    path.write_text(text)
    with open(path, "rb") as file:
        found = list(chunks(file, path))
    assert found[-1].end() == len(text)
    assert [chunk.offset + int(chunk.starts[frame.row]) for chunk in found for frame in chunk.frames] == [
        0,
        len(text) // 2,
    ]
