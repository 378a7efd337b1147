"""Where the configurations of a set are: a nested list in memory, or files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wfl.configset.io import open_reader
from wfl.configset.locations import KEY, parse_location

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase.atoms import Atoms

    from wfl.configset.io.base import Reader, Span

Place = tuple[int, ...]


def is_atoms(value: Any) -> bool:
    """Return whether a value is one configuration."""
    return hasattr(value, "get_positions") and hasattr(value, "info")


def walk_tree(tree: Sequence[Any], place: Place = ()) -> Iterator[tuple[Place, Atoms]]:
    """Yield index path and configuration of each leaf of a nested list; None entries are skipped."""
    for index, value in enumerate(tree):
        if is_atoms(value):
            yield (*place, index), value
        elif isinstance(value, (list, tuple)):
            yield from walk_tree(value, (*place, index))
        elif value is not None:
            where = "".join(f"[{i}]" for i in (*place, index))
            raise TypeError(f"items{where} is a {type(value).__name__}, not an Atoms or a list of them")


@dataclass(frozen=True)
class FileSource:
    """One file of configurations, or some frames of it.

    Attributes
    ----------
    path
        The file.
    read_kwargs
        Keywords of `ase.io.iread`.
    prefix
        Leading indices that all selected frames have in common; left out of the places of :meth:`walk`.
    spans
        The selected frames; None for all.
    size
        Bytes of the file when the frames were selected.
    """

    path: Path
    read_kwargs: dict[str, Any] = field(default_factory=dict)
    prefix: Place = ()
    spans: tuple[Span, ...] | None = None
    size: int = -1

    def walk(self) -> Iterator[tuple[Place, Atoms]]:
        """Yield place and configuration; the location in ``info`` is taken out of it."""
        for number, atoms in self._numbered():
            yield self._place(atoms.info.pop(KEY, None), number), atoms

    def count(self) -> int:
        """Return the number of configurations."""
        if self.spans is None:
            return self._reader().count()
        return len(self._numbers())

    def places(self) -> list[Place]:
        """Return the place of each configuration, without building them."""
        table = self._reader().locations()
        return [self._place(table[number], number) for number in self._numbers()]

    def select(self, positions: Sequence[int], prefix: Place | None = None) -> FileSource:
        """Return a source of some of the configurations, given by their positions in this one."""
        numbers = self._numbers()
        reader = self._reader()
        spans = reader.spans([numbers[position] for position in positions])
        chosen = self.prefix if prefix is None else prefix
        return FileSource(self.path, self.read_kwargs, chosen, spans, self.path.stat().st_size)

    def groups(self) -> Iterator[tuple[int, Atoms | FileSource]]:
        """Yield the configurations and sources of the top level with their indices, in order of first appearance."""
        members: dict[int, list[int]] = {}
        leaves: set[int] = set()
        for position, place in enumerate(self.places()):
            members.setdefault(place[0], []).append(position)
            if len(place) == 1:
                leaves.add(place[0])
        if len(leaves) == len(members) == self.count():
            yield from ((place[0], atoms) for place, atoms in self.walk())
            return
        for index, positions in members.items():
            if index in leaves:
                yield from ((index, atoms) for _, atoms in self.select(positions).walk())
            else:
                yield index, self.select(positions, (*self.prefix, index))

    def _reader(self) -> Reader:
        return open_reader(self.path, self.read_kwargs)

    def _numbered(self) -> Iterator[tuple[int, Atoms]]:
        if self.spans is None:
            return enumerate(self._reader().frames())
        self._check_unchanged()
        return self._reader().read(self.spans)

    def _check_unchanged(self) -> None:
        if self.path.stat().st_size != self.size:
            raise ValueError(f"{self.path} has changed since these configurations were selected from it; select again")

    def _numbers(self) -> Sequence[int]:
        reader = self._reader()
        if self.spans is None:
            return range(reader.count())
        self._check_unchanged()
        return reader.numbers(self.spans)

    def _place(self, text: str | None, number: int) -> Place:
        place = parse_location(text) if text else ()
        if self.prefix and place[: len(self.prefix)] == self.prefix:
            place = place[len(self.prefix) :]
        return place or (number,)
