"""Formats that are read and written by ASE."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from wfl.configset.io.base import Span
from wfl.configset.io.names import extension_of
from wfl.configset.locations import KEY, shallow_copy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase.atoms import Atoms

    from wfl.configset.io.base import Writer


_DATABASES = frozenset({"db", "json"})
_INFO, _ARRAYS = "wfl_info", "wfl_arrays"
_ROW_ARRAYS = frozenset({"numbers", "positions", "initial_magmoms", "initial_charges", "momenta", "masses", "tags"})


def _database_rows(path: Path, kind: str, index: slice) -> Iterator[Atoms]:
    """Yield the rows of a database with the ``info`` and arrays that :class:`DatabaseFile` has put in them."""
    import ase.db

    with ase.db.connect(str(path), type=kind, serial=True, use_lock_file=False) as database:
        selected = range(database.count())[index]
        if selected.step < 0:
            raise ValueError(f"{path}: a database is read in one direction only, not with index {index}")
        rows = database.select(offset=selected.start, limit=max(selected.stop - selected.start, 0))
        for row in islice(rows, 0, None, selected.step):
            atoms = row.toatoms()
            atoms.info.update(row.data.get(_INFO, {}))
            for name, array in row.data.get(_ARRAYS, {}).items():
                atoms.set_array(name, array)
            yield atoms


def join_numbers(numbers: Sequence[int]) -> tuple[Span, ...]:
    """Return the spans of frames of these numbers, measured in frames."""
    spans: list[Span] = []
    for number in numbers:
        if spans and spans[-1].stop == number:
            spans[-1] = spans[-1]._replace(stop=number + 1)
        else:
            spans.append(Span(number, number, number + 1))
    return tuple(spans)


def parse_index(index: Any) -> slice:
    """Return the slice of frames that an index of `ase.io.iread` means: an integer, a slice, or either as a string.

    Raises
    ------
    ValueError
        It is none of these.
    """
    try:
        if isinstance(index, slice):
            return index
        if isinstance(index, str) and ":" in index:
            return slice(*(int(part) if part.strip() else None for part in index.split(":")))
        number = int(index if index is not None else -1)
    except (ValueError, TypeError):
        raise ValueError(f"index {index!r} is neither an integer nor a slice like ':', '-1' or '10:20:2'") from None
    return slice(number, number + 1 or None)


class ASEReader:
    """Reads a file with `ase.io.iread`; spans are measured in frames."""

    def __init__(self, path: Path, read_kwargs: dict[str, Any]) -> None:
        self.path = path
        self.read_kwargs = read_kwargs

    def frames(self) -> Iterator[Atoms]:
        """Yield all frames in order."""
        import ase.io

        if self.path.is_file() and self.path.stat().st_size == 0:
            return iter(())
        if set(self.read_kwargs) <= {"index", "parallel", "format"} and self._kind() in _DATABASES:
            return _database_rows(self.path, self._kind(), parse_index(self.read_kwargs["index"]))
        return iter(ase.io.iread(str(self.path), **{"do_not_split_by_at_sign": True, **self.read_kwargs}))

    def _kind(self) -> str:
        return str(self.read_kwargs.get("format") or extension_of(self.path))

    def count(self) -> int:
        """Return the number of frames."""
        return sum(1 for _ in self.frames())

    def locations(self) -> Sequence[str | None]:
        """Return the location string of each frame."""
        return [atoms.info.get(KEY) for atoms in self.frames()]

    def spans(self, numbers: Sequence[int]) -> tuple[Span, ...]:
        """Return the spans of these frames."""
        return join_numbers(numbers)

    def numbers(self, spans: Sequence[Span]) -> Sequence[int]:
        """Return the numbers of the frames in the spans."""
        return list(chain.from_iterable(range(span.start, span.stop) for span in spans))

    def read(self, spans: Sequence[Span]) -> Iterator[tuple[int, Atoms]]:
        """Yield number and frame of every frame in the spans."""
        wanted = self.numbers(spans)
        found: dict[int, Atoms] = {}
        last, members = max(wanted, default=-1), set(wanted)
        position = 0
        for number, atoms in enumerate(self.frames()):
            if number in members:
                found[number] = atoms
            while position < len(wanted) and wanted[position] in found:
                yield wanted[position], found.pop(wanted[position])
                position += 1
            if number >= last:
                return


class TrajectoryFile:
    """Appends configurations to a trajectory of ASE."""

    resumable = False
    offset = -1

    def __init__(self, path: Path, write_kwargs: dict[str, Any], *, resume: bool) -> None:
        from ase.io.trajectory import TrajectoryWriter

        self._writer = TrajectoryWriter(str(path), "a" if resume else "w", **write_kwargs)

    def write(self, atoms: Atoms, info: dict[str, Any]) -> None:
        """Append one configuration with this ``info`` instead of its own."""
        self._writer.write(_with_info(atoms, info))

    def flush(self) -> None:
        """Do nothing: ASE hands each configuration on at once."""

    def position(self) -> int:
        """Return -1: the format cannot be cut off."""
        return -1

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class DatabaseFile:
    """Appends configurations to a database of ASE; ``info`` and further arrays go to the data of the row.

    A JSON database is written anew with each configuration: for small sets only.
    """

    resumable = False
    offset = -1

    def __init__(self, path: Path, kind: str, write_kwargs: dict[str, Any], *, resume: bool) -> None:
        import ase.db

        kwargs = {"type": kind, "append": resume, "use_lock_file": False, "serial": True, **write_kwargs}
        self._database = ase.db.connect(str(path), **kwargs)
        self._inside = False
        self._path = path

    def write(self, atoms: Atoms, info: dict[str, Any]) -> None:
        """Append one configuration with this ``info`` instead of its own."""
        if not self._inside:
            self._database.__enter__()
            self._inside = True
        arrays = {name: array for name, array in atoms.arrays.items() if name not in _ROW_ARRAYS}
        plain = {name: value.item() if _is_scalar(value) else value for name, value in info.items()}
        self._database.write(_with_info(atoms, {}), data={_INFO: plain, _ARRAYS: arrays})

    def flush(self) -> None:
        """Commit what was written."""
        if self._inside:
            self._inside = False
            self._database.__exit__(None, None, None)

    def position(self) -> int:
        """Return -1: the format cannot be cut off."""
        return -1

    def close(self) -> None:
        """Commit what was written; a database without rows is an empty file."""
        self.flush()
        self._path.touch()


def _is_scalar(value: Any) -> bool:
    """Tell whether a value is a number of numpy's, which databases do not take."""
    return getattr(value, "shape", None) == () and hasattr(value, "item")


def _with_info(atoms: Atoms, info: dict[str, Any]) -> Atoms:
    new = shallow_copy(atoms)
    new.info = info
    return new


def ase_writer(name: str, path: Path, kwargs: dict[str, Any], *, resume: bool) -> Writer | None:
    """Return the writer of a format that ASE writes, None if it cannot hold a growing series."""
    if name == "traj":
        return TrajectoryFile(path, kwargs, resume=resume)
    if name in _DATABASES:
        return DatabaseFile(path, name, kwargs, resume=resume)
    return None
