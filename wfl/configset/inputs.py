"""`ConfigSet`: a nested set of configurations in memory or in files, iterated as a flat stream."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from wfl.configset.errors import MixedItemsError
from wfl.configset.locations import KEY, SEPARATOR, format_location
from wfl.configset.paths import Name, expand, expand_all, is_name, missing_message
from wfl.configset.sources import FileSource, Place, is_atoms, walk_tree
from wfl.configset.tree import count_tree, part_of_tree

if TYPE_CHECKING:
    from ase.atoms import Atoms

__all__ = ["ConfigSet"]

_DEFAULT_READ_KWARGS = {"index": ":", "parallel": False}


class ConfigSet:
    """A nested set of configurations, in memory or in files, that iterates as a flat stream.

    While iterating, each configuration carries its place in the set in ``info["_ConfigSet_loc"]``, a string like
    ``" / 0 / 2"``. Files are streamed: no more than one frame is held, however long they are.

    Parameters
    ----------
    items
        None or an empty list; one `Atoms`; a list, or nested lists, of `Atoms`; one file name; a file name with
        wildcards (also ``**``); a list of these; another ConfigSet; a list of ConfigSets, which all must be in files
        or all in memory.
    file_root
        Directory below which relative file names are looked for.
    read_kwargs
        Keywords of `ase.io.iread`, for all files.

    Attributes
    ----------
    items
        None, the list of configurations, the `Path` of a single file, or a list of `Path`.
    read_kwargs
        The reading keywords with their defaults.

    Raises
    ------
    ValueError
        A file is missing or a pattern matches nothing (all of them are listed); an absolute name with `file_root`; a
        list of ConfigSets mixes files and memory.
    MixedItemsError
        A list of file names contains something else.
    RuntimeError
        `items` is an `OutputSpec`; use its :meth:`~wfl.configset.OutputSpec.to_ConfigSet`.
    TypeError
        `items` is none of the above.

    Examples
    --------
    >>> from ase.build import bulk
    >>> len(ConfigSet([[bulk("Si")], [bulk("C"), bulk("Ge")]]))
    3
    """

    _loc_sep = SEPARATOR

    def __init__(
        self,
        items: Any = None,
        *,
        file_root: Name | None = None,
        read_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.read_kwargs: dict[str, Any] = {**_DEFAULT_READ_KWARGS, **(read_kwargs or {})}
        self._memory: list[Any] | None = None
        self._files: list[FileSource] | None = None
        self._single = False
        self._enclosing: Place | None = None
        self._terms: tuple[ConfigSet, ...] | None = None
        self._current: Place | None = None
        self._fill(items, file_root, dict(read_kwargs or {}))

    # -- construction

    def _fill(self, items: Any, file_root: Name | None, read_kwargs: dict[str, Any]) -> None:
        if items is None:
            return
        if hasattr(items, "to_ConfigSet"):
            raise RuntimeError("a ConfigSet cannot be made of an OutputSpec: use its to_ConfigSet() method")
        if is_atoms(items):
            self._memory = [items]
        elif is_name(items):
            self._fill_from_name(items, file_root, read_kwargs)
        elif isinstance(items, ConfigSet):
            self._fill_from_set(items, read_kwargs)
        elif isinstance(items, Iterable):
            self._fill_from_list(items if isinstance(items, list) else list(items), file_root, read_kwargs)
        else:
            raise TypeError(f"a ConfigSet cannot be made of a {type(items).__name__}: {items!r}")

    def _fill_from_name(self, name: Name, file_root: Name | None, read_kwargs: dict[str, Any]) -> None:
        found, pattern = expand(name, file_root)
        if not found:
            raise ValueError(missing_message([str(name) if file_root is None else str(Path(file_root) / name)]))
        self._files = [FileSource(path, read_kwargs) for path in found]
        self._single = not pattern

    def _fill_from_set(self, other: ConfigSet, read_kwargs: dict[str, Any]) -> None:
        self._memory = None if other._memory is None else list(other._memory)
        self._files = None if other._files is None else [_with_kwargs(file, read_kwargs) for file in other._files]
        self._single = other._single
        self.read_kwargs = {**other.read_kwargs, **read_kwargs}

    def _fill_from_list(self, items: list[Any], file_root: Name | None, read_kwargs: dict[str, Any]) -> None:
        first = next((item for item in items if item is not None), None)
        if first is None:
            self._memory = items or None
        elif is_name(first):
            _check_names(items)
            self._files = [FileSource(path, read_kwargs) for path in expand_all(items, file_root)]
        elif isinstance(first, ConfigSet):
            self._fill_from_sets(items, read_kwargs)
        else:
            _check_tree(items)
            self._memory = items

    def _fill_from_sets(self, sets: Sequence[Any], read_kwargs: dict[str, Any]) -> None:
        strangers = [type(item).__name__ for item in sets if item is not None and not isinstance(item, ConfigSet)]
        if strangers:
            raise ValueError(f"a list of ConfigSets contains something else: {', '.join(dict.fromkeys(strangers))}")
        full = [item for item in sets if item is not None and not item._is_empty()]
        in_files = [item for item in full if item._files is not None]
        if not full:
            return
        if in_files and len(in_files) != len(full):
            raise ValueError("a list of ConfigSets mixes files and memory; read the ones, or write the others")
        if in_files:
            self._files = [_with_kwargs(file, read_kwargs) for item in full for file in item._files or ()]
        else:
            self._memory = [item._memory for item in full]
        if all(item.read_kwargs == full[0].read_kwargs for item in full):
            self.read_kwargs = {**full[0].read_kwargs, **read_kwargs}

    @classmethod
    def _of_files(cls, files: list[FileSource], *, single: bool, read_kwargs: dict[str, Any]) -> ConfigSet:
        new = cls(read_kwargs=read_kwargs)
        new._files, new._single = files, single
        return new

    def _of_file(self, file: FileSource, index: int) -> ConfigSet:
        return self._of_files([file], single=True, read_kwargs=self.read_kwargs)._at((index,))

    def _is_empty(self) -> bool:
        return self._files is None and not self._memory

    def _at(self, place: Place) -> ConfigSet:
        self._enclosing = place
        return self

    # -- what it is

    @property
    def items(self) -> list[Any] | Path | list[Path] | None:
        """The content: None, the list in memory, the path of a single file, or a list of paths."""
        if self._files is None:
            return self._memory
        return self._files[0].path if self._single else [file.path for file in self._files]

    @property
    def cur_loc(self) -> str | None:
        """Location of the configuration that the iteration has come to; None before and after."""
        return None if self._current is None else format_location(self._current)

    @property
    def _enclosing_loc(self) -> str:
        return "" if self._enclosing is None else format_location(self._enclosing)

    def one_file(self) -> Path | bool:
        """Return the path of the file if there is exactly one, False otherwise."""
        if self._files is None or len(self._files) != 1:
            return False
        return self._files[0].path

    def __str__(self) -> str:
        return f"ConfigSet with{self._describe()}"

    def __repr__(self) -> str:
        return f"<{str(self).rstrip()}>"

    def _repr_html_(self) -> str:
        rows = [f"<b>{html.escape(str(self).rstrip())}</b>"]
        rows.extend(f"{html.escape(str(file.path))}: {_size_of(file.path)}" for file in (self._files or ())[:10])
        if self._files is not None and len(self._files) > 10:
            rows.append(f"and {len(self._files) - 10} more")
        if self._memory:
            rows.append(f"{count_tree(self._memory)} configurations in memory")
        return "<br>".join(rows)

    def _describe(self) -> str:
        if self._files is not None:
            return f" single file {self._files[0].path} " if self._single else f" {len(self._files)} files"
        members = [item for item in self._memory or () if item is not None]
        if not members:
            return " no content"
        kind = "Atoms" if all(is_atoms(item) for item in members) else "sub-lists"
        return f" {len(members)} {kind}"

    # -- iteration

    def _walk(self) -> Iterator[tuple[Place, Atoms]]:
        """Yield place and configuration without writing anywhere."""
        if self._files is None:
            yield from walk_tree(self._memory or ())
        elif self._single:
            yield from self._files[0].walk()
        else:
            for index, file in enumerate(self._files):
                for place, atoms in file.walk():
                    yield (index, *place), atoms

    def __iter__(self) -> Iterator[Atoms]:
        """Iterate over all configurations, each with its location in ``info["_ConfigSet_loc"]``.

        In memory these are the very objects of the set, from files new ones in each pass.
        """
        try:
            for place, atoms in self._walk():
                self._current = place
                atoms.info[KEY] = format_location(place)
                yield atoms
        finally:
            self._current = None

    def groups(self) -> Iterator[Atoms | ConfigSet]:
        """Yield the members of the top level: configurations, and ConfigSets of sub-lists, files, groups in a file.

        The configurations carry no location; those in a yielded ConfigSet have locations relative to it. The yielded
        sets are independent of each other and of this iteration, can be used at any time and order, and pickled.
        """
        if self._files is None:
            yield from self._groups_in_memory()
        elif self._single:
            for index, member in self._files[0].groups():
                yield self._of_file(member, index) if isinstance(member, FileSource) else member
        else:
            for index, file in enumerate(self._files):
                yield self._of_file(file, index)

    def _groups_in_memory(self) -> Iterator[Atoms | ConfigSet]:
        for index, member in enumerate(self._memory or ()):
            if is_atoms(member):
                member.info.pop(KEY, None)
                yield member
            elif member is not None:
                yield ConfigSet(list(member))._at((index,))

    def _in_memory(self) -> ConfigSet:
        """Return the same set with the configurations of its files read; for another machine, for instance."""
        if self._files is None:
            return self
        from wfl.configset.tree import place_in_tree

        tree: list[Any] = []
        for place, atoms in self._walk():
            place_in_tree(tree, place, atoms)
        new = ConfigSet(tree)
        new._enclosing = self._enclosing
        return new

    # -- as a sequence

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        """Return the number of configurations; of files they are counted without being parsed."""
        if self._files is None:
            return count_tree(self._memory or ())
        return sum(file.count() for file in self._files)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...
    @overload
    def __getitem__(self, index: slice) -> ConfigSet: ...
    def __getitem__(self, index: int | slice) -> Atoms | ConfigSet:
        """Return one configuration of the flat sequence, or for a slice a ConfigSet that keeps all locations.

        Files are neither read as a whole for one configuration nor at all for a slice.
        """
        positions = range(len(self))[index]
        if isinstance(positions, range):
            return self._part(positions)
        return next(iter(self._part(range(positions, positions + 1))))

    def _part(self, positions: range) -> ConfigSet:
        if positions.step < 0:
            raise ValueError("a ConfigSet has one order, a slice cannot reverse it; use reversed(list(...))")
        if self._files is None:
            new = ConfigSet(part_of_tree(self._memory or [], positions))
        else:
            new = self._of_files(self._part_of_files(positions), single=self._single, read_kwargs=self.read_kwargs)
        new._enclosing = self._enclosing
        return new

    def _part_of_files(self, positions: range) -> list[FileSource]:
        result, start = [], 0
        for file in self._files or ():
            stop = start + file.count()
            mine = [position - start for position in _between(positions, start, stop)]
            result.append(file.select(mine))
            start = stop
        return result

    def __add__(self, other: Any) -> ConfigSet:
        """Return the ConfigSet of the list of both; sums of several sets are as flat as the list of all."""
        if not isinstance(other, ConfigSet):
            return NotImplemented
        terms = (self._terms or (self,)) + (other._terms or (other,))
        new = ConfigSet(list(terms))
        new._terms = terms
        return new


def _between(positions: range, start: int, stop: int) -> range:
    """Return the part of an increasing range that lies in start <= x < stop."""
    first = max(0, -(-(start - positions.start) // positions.step))
    last = max(first, -(-(stop - positions.start) // positions.step))
    return positions[first:last]


def _with_kwargs(file: FileSource, read_kwargs: dict[str, Any]) -> FileSource:
    if not read_kwargs:
        return file
    if file.spans is not None:
        raise ValueError(f"{file.path}: read_kwargs cannot change for configurations already selected from a file")
    return FileSource(file.path, {**file.read_kwargs, **read_kwargs})


def _check_names(items: Sequence[Any]) -> None:
    strangers = [f"items[{i}] is a {type(item).__name__}" for i, item in enumerate(items) if not is_name(item)]
    if strangers:
        raise MixedItemsError(f"a list of file names contains something else: {', '.join(strangers[:10])}")


def _check_tree(items: Sequence[Any]) -> None:
    for index, item in enumerate(items):
        if not (item is None or is_atoms(item) or isinstance(item, (list, tuple))):
            what = f"items[{index}] is a {type(item).__name__}"
            raise ValueError(f"{what}; a ConfigSet holds Atoms, lists of them, file names or ConfigSets")


def _size_of(path: Path) -> str:
    try:
        return f"{path.stat().st_size / 1e6:.1f} MB"
    except OSError:
        return "missing"
