"""Formats that are read and written by ASE."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from wfl.configset.io.base import Span
from wfl.configset.locations import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase.atoms import Atoms

    from wfl.configset.io.base import Writer


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
        return iter(ase.io.iread(str(self.path), **{"do_not_split_by_at_sign": True, **self.read_kwargs}))

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


def ase_writer(name: str, path: Path, final: Path, kwargs: dict[str, Any], *, resume: bool) -> Writer | None:
    """Return the writer of a format that ASE writes, None if it cannot hold a growing series."""
    return None
