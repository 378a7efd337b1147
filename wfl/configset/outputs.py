"""`OutputSpec`: where configurations go to, in memory or in files that appear only when they are complete."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfl.configset.inputs import ConfigSet
from wfl.configset.locations import KEY, format_location, location_of, parse_location, shallow_copy
from wfl.configset.paths import Name, is_name, under_root
from wfl.configset.record import CallRecord, differences, read_sidecar
from wfl.configset.sources import Place, is_atoms
from wfl.configset.tree import place_in_tree
from wfl.configset.writing import FilesWriter

if TYPE_CHECKING:
    from ase.atoms import Atoms

__all__ = ["OutputSpec"]

_log = logging.getLogger("wfl")


class OutputSpec:
    """Where the configurations that an operation makes go to.

    Files are written under temporary names (``tmp.<name>``) and get their own only when :meth:`close` has made sure
    that everything is on the disk: a file of that name is complete.

    Parameters
    ----------
    files
        None to keep the configurations in memory; one file name, for everything; or an iterable of file names, one
        for each member of the top level of the input (input file, sub-list).
    file_root
        Directory below which relative file names are.
    overwrite
        Replace files that exist. Otherwise operations whose output exists are skipped.
    flush
        Hand each stored result to the operating system at once, so that others see it in the temporary file.
        Compressed files are flushed at checkpoints only.
    write_kwargs
        Keywords of `ase.io.write`. The format follows from the extension, or from ``format`` here.
    tags
        Entries to set in ``info`` of everything stored.

    Attributes
    ----------
    configs
        The stored configurations, a nested list, if in memory; None otherwise.
    closed
        Whether :meth:`close` was called.
    single_file
        Whether there is one file for everything.

    Raises
    ------
    ValueError
        An absolute file name with `file_root`, or a file is listed twice.
    """

    def __init__(
        self,
        files: Name | Iterable[Name] | None = None,
        *,
        file_root: Name | None = None,
        overwrite: bool = False,
        flush: bool = True,
        write_kwargs: dict[str, Any] | None = None,
        tags: dict[str, Any] | None = None,
    ) -> None:
        self.single_file = is_name(files)
        self.file_root = None if file_root is None else Path(file_root)
        self.files = _file_list(files, file_root)
        self.configs: list[Any] | None = [] if self.files is None else None
        self.overwrite = overwrite
        self.flush = flush
        self.write_kwargs = dict(write_kwargs or {})
        self.tags = dict(tags or {})
        self.closed = False
        self._writer: FilesWriter | None = None
        self._begun = False
        self._resumed = 0
        self._places_given: bool | None = None

    # -- for scripts

    def store(self, configs: Atoms | Iterable[Any] | None, input_CS_loc: str | None = "") -> None:  # noqa: N803
        """Store the result of one input.

        Parameters
        ----------
        configs
            One configuration, a (nested) iterable of them, or None for nothing.
        input_CS_loc
            Location of the input, as in ``info["_ConfigSet_loc"]``. Without one, results are placed in order. With
            several files it is needed: its first index selects the file.

        Raises
        ------
        ValueError
            The output is closed; or there are several files and no location.
        RuntimeError
            Calls with and without a location are mixed; the location is not a series of integers; another live
            writer has the file.
        FileExistsError
            The file exists and is not to be overwritten.
        IndexError
            The location's first index selects a file that there is not.
        """
        self._check_open()
        if configs is None:
            return
        place = parse_location(input_CS_loc) or None
        self._check_exclusive(place)
        self._put(configs, place)

    def write(self, configs: Iterable[Atoms]) -> None:
        """Store configurations, each at the location it carries if it carries one, and close.

        Nothing is done if all files exist and are not to be overwritten.
        """
        if not self.overwrite and self.all_written():
            _log.warning("Not writing %s: it exists and overwrite=False", self._describe())
            return
        self._check_open()
        for place, atoms in _placed(configs):
            self._check_exclusive(place)
            self._put(atoms, place)
        self.close()

    def close(self) -> None:
        """Finish: files are flushed to the disk and get their final names. Can be repeated."""
        if self._writer is not None:
            self._writer.finish(all_files=self._begun)
            self._drop_writer()
        self.closed = True

    def all_written(self) -> bool:
        """Return whether all files exist; always False in memory."""
        return self.files is not None and all(path.exists() for path in self.files)

    def to_ConfigSet(self) -> ConfigSet:  # noqa: N802
        """Return the ConfigSet of what was stored.

        Raises
        ------
        ValueError
            A file is missing: not closed yet, or nothing was stored in it.
        """
        if self.files is None:
            return ConfigSet(self.configs)
        read_kwargs = {"format": self.write_kwargs["format"]} if "format" in self.write_kwargs else None
        return ConfigSet(self.files[0] if self.single_file else self.files, read_kwargs=read_kwargs)

    # -- for engines

    def begin(self, call: CallRecord | None = None) -> int:
        """Start storing the results of a call and return how many leading inputs are done already.

        An output begun gets all its files when closed, empty ones if there is nothing for them.

        Parameters
        ----------
        call
            The call. If an interrupted run of the same one has left results, these are kept.

        Raises
        ------
        ValueError, OutputBusyError, FileExistsError
            As for :meth:`store`.
        """
        self._check_open()
        self._begun = True
        self._resumed = self._open_writer(call) if self.files else 0
        return self._resumed

    def put(self, results: Atoms | Iterable[Any] | None, path: Place | None) -> None:
        """Store the result of one input at a place (None: the next one); the results are not modified."""
        if results is not None:
            self._check_open()
            self._put(results, path)

    def checkpoint(self, n_items: int, digest: str = "") -> None:
        """Note that all that was put so far are the results of the first ``n_items`` inputs.

        Parameters
        ----------
        n_items
            Number of inputs, counting those of an interrupted run.
        digest
            Running digest of these inputs, for :meth:`resumed_digest`.
        """
        if self._writer is not None:
            self._writer.checkpoint(n_items, digest)

    def resumed_digest(self, n_items: int) -> str | None:
        """Return the digest that an interrupted run gave for its first ``n_items`` inputs, None if it noted none."""
        return None if self._writer is None else self._writer.history.get(n_items)

    def restart(self) -> None:
        """Drop the results of an interrupted run after :meth:`begin`: its inputs were not the same after all."""
        if self._writer is not None:
            self._writer.restart()
        self._resumed = 0

    def abort(self) -> None:
        """Stop storing; what there is stays in the temporary files, for the same call to go on with."""
        if self._writer is not None:
            self._writer.abandon()
            self._drop_writer()
        self._begun = False

    def finished(self, call: CallRecord) -> list[str]:
        """Return in what the call that made the existing files differs from this one; empty if equal or unknown."""
        made_by = read_sidecar(self.files[0]) if self.files else None
        return [] if made_by is None else differences(made_by, call)

    def result(self) -> ConfigSet:
        """Return the ConfigSet of a closed output, an empty one if there was nothing to do."""
        if self.files is not None and self.closed and not self.all_written():
            return ConfigSet([path for path in self.files if path.exists()])
        return self.to_ConfigSet()

    # -- inside

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"cannot store in {self._describe()}: it is closed; make a new OutputSpec")

    def _describe(self) -> str:
        if self.files is None:
            return "an OutputSpec in memory"
        names = ", ".join(str(path) for path in self.files[:3])
        return names + (f" and {len(self.files) - 3} more" if len(self.files) > 3 else "")

    def _check_exclusive(self, place: Place | None) -> None:
        """Refuse to mix results with and without places in one file: they would collide."""
        if not self.single_file:
            return
        given = place is not None
        if self._places_given not in (None, given):
            raise RuntimeError(f"{self._describe()}: calls with and without a location cannot be mixed")
        self._places_given = given

    def _open_writer(self, call: CallRecord | None) -> int:
        assert self.files is not None
        writer = FilesWriter(self.files, self.write_kwargs)
        done = writer.begin(call, overwrite=self.overwrite)
        self._writer = writer
        self._finalizer = weakref.finalize(self, writer.abandon)
        return done

    def _drop_writer(self) -> None:
        self._finalizer.detach()
        self._writer = None

    def _put(self, results: Any, place: Place | None) -> None:
        if self.configs is not None:
            self._put_in_memory(self.configs, results, place)
        elif self.single_file:
            self._put_in_file(0, results, place)
        else:
            self._put_in_files(results, place)
        if self.flush and self._writer is not None:
            self._writer.flush()

    def _put_in_memory(self, configs: list[Any], results: Any, place: Place | None) -> None:
        value = self._tagged_tree(results)
        if place is None:
            configs.append(value)
        else:
            place_in_tree(configs, place, value)

    def _tagged_tree(self, results: Any) -> Any:
        if is_atoms(results):
            return self._tagged(results)
        return [None if member is None else self._tagged_tree(member) for member in _members(results)]

    def _tagged(self, atoms: Atoms) -> Atoms:
        if not self.tags:
            return atoms
        new = shallow_copy(atoms)
        new.info.update(self.tags)
        return new

    def _ready_writer(self) -> FilesWriter:
        if self._writer is None:
            self._open_writer(None)
        assert self._writer is not None
        return self._writer

    def _put_in_file(self, index: int, results: Any, place: Place | None) -> None:
        writer = self._ready_writer()
        if place is None:
            place = (writer.auto,)
            writer.auto += 1
        self._write(writer, index, results, place)

    def _put_in_files(self, results: Any, place: Place | None) -> None:
        files = self.files or []
        if not place:
            raise ValueError(f"{self._describe()}: storing in one of several files needs a location")
        if not 0 <= place[0] < len(files):
            raise IndexError(f"location {format_location(place)!r} selects file {place[0]} of {len(files)}")
        self._write(self._ready_writer(), place[0], results, place[1:])

    def _write(self, writer: FilesWriter, index: int, results: Any, place: Place) -> None:
        if is_atoms(results):
            writer.write(index, results, self._info(results, place))
            return
        writer.touch(index)
        for position, member in enumerate(_members(results)):
            if member is not None:
                self._write(writer, index, member, (*place, position))

    def _info(self, atoms: Atoms, place: Place) -> dict[str, Any]:
        info = {**atoms.info, **self.tags}
        if place:
            info[KEY] = format_location(place)
        else:
            info.pop(KEY, None)
        return info

    def __getstate__(self) -> dict[str, Any]:
        if self._writer is not None:
            raise TypeError(f"{self._describe()}: an OutputSpec that is being written to cannot be pickled")
        return {key: value for key, value in self.__dict__.items() if key != "_finalizer"}

    def __str__(self) -> str:
        return f"OutputSpec to {'memory' if self.files is None else self._describe()}"


def _file_list(files: Name | Iterable[Name] | None, file_root: Name | None) -> list[Path] | None:
    if files is None:
        return None
    if is_name(files):
        return [under_root(files, file_root)]  # type: ignore[arg-type]
    paths = [under_root(name, file_root) for name in files]  # type: ignore[union-attr]
    twice = sorted({str(path) for path in paths if paths.count(path) > 1}) if len(set(paths)) < len(paths) else []
    if twice:
        raise ValueError(f"output files are listed more than once: {', '.join(twice)}")
    return paths


def _members(results: Any) -> Iterable[Any]:
    if isinstance(results, ConfigSet):
        return (atoms for _, atoms in results._walk())
    if not isinstance(results, Iterable) or is_name(results):
        raise TypeError(f"only Atoms and (nested) iterables of them can be stored, not a {type(results).__name__}")
    return results


def _placed(configs: Iterable[Atoms]) -> Iterable[tuple[Place | None, Atoms]]:
    if isinstance(configs, ConfigSet):
        return configs._walk()
    if is_atoms(configs):
        configs = [configs]  # type: ignore[list-item]
    return ((location_of(atoms), atoms) for atoms in configs)
