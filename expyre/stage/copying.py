"""Copy the input and output files of jobs by globs, with the same rules in both directions."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from expyre.errors import RequestError, StageError
from expyre.stage import names


def copy_glob(in_dir: str | Path, out_dir: str | Path, file_glob: str | Path, *, skip: Iterable[Path] = ()) -> None:
    """Copy what a glob matches from one directory into another.

    Parameters
    ----------
    in_dir
        Where a relative glob starts.
    out_dir
        Destination. A relative match keeps its path below it, an absolute one becomes ``out_dir/<basename>``.
    file_glob
        Glob in the manner of pathlib, or the literal name of something that exists. Directories are copied with all
        they contain and merged into existing ones. ``.`` is everything in ``in_dir`` except this package's own files.
        Symbolic links are followed.
    skip
        Directories that are left out wherever they turn up.

    Raises
    ------
    RequestError
        Nothing matches.
    StageError
        A file cannot be read or written.
    """
    source, target = Path(in_dir), Path(out_dir)
    left_out = frozenset(os.path.realpath(path) for path in (*skip, target))
    found = False
    try:
        for path, name in _matches(source, str(file_glob)):
            found = True
            copy_tree(path, target / name, left_out)
    except OSError as exc:
        message = f"cannot copy {str(file_glob)!r} from {source} to {target}: {exc.strerror or exc} ({exc.filename})"
        raise StageError(message) from exc
    if not found:
        raise RequestError(f"no file matches {str(file_glob)!r} in {source.resolve()}")


def _matches(source: Path, file_glob: str) -> Iterator[tuple[Path, str]]:
    """Yield what the glob matches and the name below the destination."""
    if os.path.normpath(file_glob) == ".":
        yield from ((path, path.name) for path in source.iterdir() if not path.name.startswith(names.OWN_PREFIXES))
    elif os.path.isabs(file_glob):
        root = Path(Path(file_glob).anchor)
        yield from ((path, path.name) for path in _expand(root, str(Path(file_glob).relative_to(root))))
    else:
        yield from ((path, str(path.relative_to(source))) for path in _expand(source, file_glob))


def _expand(start: Path, pattern: str) -> list[Path]:
    """Return the literal path if it exists (names may contain brackets), else what the pattern matches."""
    literal = start / pattern
    if os.path.lexists(literal):
        return [literal]
    return sorted(start.glob(pattern))


def copy_tree(source: Path, target: Path, skip: frozenset[str] = frozenset()) -> None:
    """Copy a file, or a directory with all it contains into an existing or new one."""
    if source.is_dir():
        real = os.path.realpath(source)
        if real not in skip:
            target.mkdir(parents=True, exist_ok=True)
            # the directory itself joins what is left out: a link back to it would never end
            for entry in sorted(os.listdir(source)):
                copy_tree(source / entry, target / entry, skip | {real})
    else:
        _copy_file(source, target)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() and not source.exists():
        target.unlink(missing_ok=True)
        target.symlink_to(os.readlink(source))
    elif stat.S_ISREG((before := source.stat()).st_mode):
        shutil.copy2(source, target)
        if before.st_size >= _LARGE and _identity(source.stat()) == _identity(before):
            _remember(_identity(target.stat()), _identity(before))


_LARGE = 1 << 16
_MANY = 100_000
_Identity = tuple[int, int, int, int]
_ORIGINS: dict[_Identity, _Identity] = {}


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _remember(copy: _Identity, source: _Identity) -> None:
    if len(_ORIGINS) >= _MANY:
        _ORIGINS.clear()
    if copy[3] == source[3]:
        _ORIGINS[copy] = _ORIGINS.get(source, source)


def origin(status: os.stat_result) -> _Identity:
    """Return what identifies the content of a file: that of the file which it was copied from, if this process did it.

    Parameters
    ----------
    status
        Status of the file; a later change of its content changes its time of modification.
    """
    identity = _identity(status)
    return _ORIGINS.get(identity, identity)
