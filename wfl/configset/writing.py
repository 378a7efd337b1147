"""Writing the files of one output: temporary names, locks, checkpoints, and final names only when all is there."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfl.configset.io import open_writer
from wfl.configset.journal import Checkpoint, Journal, read_journal
from wfl.configset.lock import WriterLock
from wfl.configset.record import CallRecord, differences, sidecar_path, write_sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ase.atoms import Atoms

    from wfl.configset.io.base import Writer

__all__ = ["FilesWriter", "temporary_path"]

MAX_OPEN = 128
CHECKPOINT_INTERVAL = 0.2
_REFRESH_INTERVAL = 60.0

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_log = logging.getLogger(__name__)


def temporary_path(path: Path) -> Path:
    """Return the name that a file has while it is being written."""
    return path.with_name(f"tmp.{path.name}")


class FilesWriter:
    """Writes the files of one output, which get their final names together when everything is written.

    Parameters
    ----------
    files
        Final names.
    write_kwargs
        Keywords of `ase.io.write`.
    """

    def __init__(self, files: Sequence[Path], write_kwargs: dict[str, Any]) -> None:
        self.files = [Path(os.path.abspath(path)) for path in files]  # scripts and calculators change directories
        self.auto = 0
        self.history: dict[int, str] = {}
        self._write_kwargs = write_kwargs
        self._call: CallRecord | None = None
        self._locks: list[WriterLock] = []
        self._journal: Journal | None = None
        self._open: OrderedDict[int, Writer] = OrderedDict()
        self._started: set[int] = set()
        self._touched: set[int] = set()  # written to since the last call of checkpoint()
        self._sizes: dict[int, int] = {}  # at the last call of checkpoint(), of files changed since the last line
        self._pending: tuple[int, str, int] | None = None
        self._last_line = 0.0
        self._last_sign = time.monotonic()
        self._pid = os.getpid()

    # -- beginning

    def begin(self, call: CallRecord | None, *, overwrite: bool) -> int:
        """Lock the files and return for how many leading inputs of the same call the results are there already.

        Raises
        ------
        OutputBusyError
            Another live writer has one of the files.
        FileExistsError
            Some of the files exist and are not to be overwritten.
        """
        self._make_folders()
        if call is None or not self._journal_path.exists():
            self._check_final(overwrite)
        self._take_locks()
        try:
            done = self._resume(call)
            self._check_final(overwrite)
            if done is None:
                self._start_anew(call)
            elif done.items:
                _log.info("%s: going on after %d inputs of an interrupted run", self.files[0], done.items)
        except BaseException:
            self._release_locks()
            raise
        self._call = call
        return done.items if done is not None else 0

    def restart(self) -> None:
        """Forget everything written so far and start anew."""
        self._close_files()
        if self._journal is not None:
            self._journal.close(remove=True)
        self._started, self._touched, self._sizes, self._pending = set(), set(), {}, None
        self.auto, self.history = 0, {}
        self._start_anew(self._call)

    @property
    def _journal_path(self) -> Path:
        first = temporary_path(self.files[0])
        return first.with_name(f"{first.name}.journal")

    def _make_folders(self) -> None:
        for folder in {path.parent for path in self.files}:
            folder.mkdir(parents=True, exist_ok=True)

    def _check_final(self, overwrite: bool) -> None:
        found = [] if overwrite else [str(path) for path in self.files if path.exists()]
        if found:
            listed = ", ".join(found[:10]) + (" ..." if len(found) > 10 else "")
            raise FileExistsError(f"not overwriting {listed}: remove the file, or say overwrite=True")

    def _take_locks(self) -> None:
        try:
            for path in sorted(set(self.files)):
                temporary = temporary_path(path)
                lock = WriterLock(temporary.with_name(f"{temporary.name}.lock"), path)
                lock.acquire()
                self._locks.append(lock)
        except BaseException:
            self._release_locks()
            raise

    def _release_locks(self) -> None:
        for lock in self._locks:
            lock.release()
        self._locks = []

    def _start_anew(self, call: CallRecord | None) -> None:
        self._journal_path.unlink(missing_ok=True)
        for path in self.files:
            temporary_path(path).unlink(missing_ok=True)
        if call is not None:
            self._journal = Journal(self._journal_path)
            self._journal.start(call)

    # -- resuming

    def _resume(self, call: CallRecord | None) -> Checkpoint | None:
        content = read_journal(self._journal_path) if call is not None else None
        if content is None or call is None:
            return None
        changed = differences(content.call, call)
        if changed:
            _log.info("%s: not going on with an interrupted run: %s", self.files[0], "; ".join(changed[:5]))
            return None
        if content.closing:
            self._undo_renames()
        found = next((point for point in reversed(content.checkpoints) if self._is_intact(point)), None)
        if found is not None:
            self.history = {point.items: point.digest for point in content.checkpoints if point.items <= found.items}
            self._return_to(found)
        return found

    def _undo_renames(self) -> None:
        for path in self.files:
            if path.exists() and not temporary_path(path).exists():
                os.rename(path, temporary_path(path))

    def _is_intact(self, point: Checkpoint) -> bool:
        return all(0 <= index < len(self.files) and self._reaches(index, size) for index, size in point.sizes.items())

    def _reaches(self, index: int, size: int) -> bool:
        """Whether a temporary file has that size at least, and not the zeros that a power cut leaves."""
        try:
            with open(temporary_path(self.files[index]), "rb") as file:
                if os.fstat(file.fileno()).st_size < size:
                    return False
                file.seek(max(0, size - 16))
                return size == 0 or any(file.read(min(16, size)))
        except OSError:
            return False

    def _return_to(self, point: Checkpoint) -> None:
        for index, path in enumerate(self.files):
            if index in point.sizes:
                os.truncate(temporary_path(path), point.sizes[index])
            else:
                temporary_path(path).unlink(missing_ok=True)
        self._started = set(point.sizes)
        self.auto = point.auto
        self._journal = Journal(self._journal_path)
        self._journal.resume(point.end)

    # -- writing

    def write(self, index: int, atoms: Atoms, info: dict[str, Any]) -> None:
        """Append a configuration to a file."""
        writer = self._writer(index)
        self._touched.add(index)
        with self._explained(index):
            writer.write(atoms, info)

    def touch(self, index: int) -> None:
        """Make sure that a file exists at the end, if only empty."""
        self._writer(index)
        self._touched.add(index)

    def flush(self) -> None:
        """Hand what was written since the last checkpoint to the operating system."""
        for index in self._touched:
            if index in self._open:
                with self._explained(index):
                    self._open[index].flush()
        self._show_life()

    def _writer(self, index: int) -> Writer:
        writer = self._open.get(index)
        if writer is not None:
            self._open.move_to_end(index)
            return writer
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        path = self.files[index]
        with self._explained(index):
            writer = open_writer(temporary_path(path), path, self._write_kwargs, resume=index in self._started)
        self._started.add(index)
        self._open[index] = writer
        return writer

    @contextlib.contextmanager
    def _explained(self, index: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            path = temporary_path(self.files[index])
            reason = os.strerror(error.errno or 0)
            what = f"{reason} while writing {path}: {self.files[index].name} was not made. Make room and run again"
            raise OSError(error.errno, what) from error

    # -- checkpoints

    def checkpoint(self, items: int, digest: str) -> None:
        """Note that everything written so far belongs to the first ``items`` inputs; on disk a few times per second."""
        if self._journal is None:
            self._touched.clear()
            return
        due = time.monotonic() - self._last_line >= CHECKPOINT_INTERVAL
        if due:
            self._note(self._touched | set(self._sizes))
        else:
            self._note_cheaply()
        self._pending = (items, digest, self.auto)
        self._touched.clear()
        if due:
            self._write_line()
            self._last_line = time.monotonic()
            self._show_life()

    def _note(self, indices: set[int]) -> None:
        """Make what was written to these files readable and remember how much it is, for all of them or none."""
        sizes: dict[int, int] = {}
        for index in indices:
            with self._explained(index):
                size = self._position(index)
            if size is None:
                self._give_up_journal()
                return
            sizes[index] = size
        self._sizes.update(sizes)

    def _note_cheaply(self) -> None:
        for index in self._touched:
            writer = self._open.get(index)
            size = self._position(index) if writer is None else writer.offset
            self._sizes[index] = -1 if size is None else size

    def _position(self, index: int) -> int | None:
        writer = self._open.get(index)
        if writer is None:
            return os.stat(temporary_path(self.files[index])).st_size
        return writer.position() if writer.resumable else None

    def _write_line(self) -> None:
        if self._journal is None or self._pending is None or any(size < 0 for size in self._sizes.values()):
            return
        self._journal.add(*self._pending, self._sizes)
        self._pending, self._sizes = None, {}

    def _give_up_journal(self) -> None:
        """Stop keeping a journal: the format does not allow to go on with a partial file."""
        if self._journal is not None:
            self._journal.close(remove=True)
            self._journal = None

    def _show_life(self) -> None:
        if time.monotonic() - self._last_sign > _REFRESH_INTERVAL:
            self._last_sign = time.monotonic()
            for lock in self._locks:
                lock.refresh()

    # -- the end

    def abandon(self) -> None:
        """Leave the temporary files as they are, to be continued by the same call, and release the locks."""
        if self._pid != os.getpid():
            return
        with contextlib.suppress(OSError, ValueError):
            if not self._touched:
                self._note({index for index, size in self._sizes.items() if size < 0 and index in self._open})
            self._close_files()
            self._write_line()
        self._close_files(quiet=True)
        if self._journal is not None:
            self._journal.close()
        self._release_locks()

    def finish(self, *, all_files: bool) -> None:
        """Give the files their final names, once all of them are safely on the disk.

        Parameters
        ----------
        all_files
            Make empty files of those that received nothing.
        """
        if all_files:
            for index in range(len(self.files)):
                if index not in self._started:
                    self.touch(index)
        self._close_files()
        for index in sorted(self._started):
            with self._explained(index):
                _sync(temporary_path(self.files[index]))
        if self._journal is not None and self._pending is not None:
            self._note(self._touched | set(self._sizes))
            self._write_line()
        if self._journal is not None:
            self._journal.add_closing()
        self._rename()
        if self._journal is not None:
            self._journal.close(remove=True)
        self._release_locks()

    def _rename(self) -> None:
        for index in sorted(self._started):
            path = self.files[index]
            os.replace(temporary_path(path), path)
        if self._started:
            self._write_sidecar()
        for folder in {self.files[index].parent for index in self._started}:
            _sync(folder)

    def _write_sidecar(self) -> None:
        path = self.files[0]
        try:
            if self._call is not None and path.exists():
                write_sidecar(path, self._call)
            else:
                sidecar_path(path).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s: could not record the call that made it: %s", path, error)

    def _close_files(self, *, quiet: bool = False) -> None:
        while self._open:
            index, writer = self._open.popitem()
            with contextlib.suppress(OSError) if quiet else self._explained(index):
                writer.close()


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)
