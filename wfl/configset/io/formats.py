"""Which reader and which writer a file gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wfl.configset.errors import UnstreamableFormatError
from wfl.configset.io.names import compression_of, extension_of

if TYPE_CHECKING:
    from pathlib import Path

    from wfl.configset.io.base import Reader, Writer

# Words that select the fast extended XYZ code, as `format` and as extension.
_XYZ_FORMATS = frozenset({"extxyz"})
_XYZ_EXTENSIONS = frozenset({"xyz", "extxyz"})


def open_reader(path: Path, read_kwargs: dict[str, Any] | None = None) -> Reader:
    """Return the reader of a file of configurations.

    Parameters
    ----------
    path
        The file.
    read_kwargs
        Keywords of `ase.io.iread`; ``index`` and ``format`` are honoured by every reader.
    """
    kwargs = {"index": ":", "parallel": False, **(read_kwargs or {})}
    if _reads_as_xyz(path, kwargs):
        from wfl.configset.io.xyz_read import XYZReader

        return XYZReader(path, kwargs["index"])
    from wfl.configset.io.through_ase import ASEReader

    return ASEReader(path, kwargs)


def _reads_as_xyz(path: Path, kwargs: dict[str, Any]) -> bool:
    if set(kwargs) - {"index", "parallel", "format", "do_not_split_by_at_sign"}:
        return False
    given = kwargs.get("format")
    if given is not None:
        return given in _XYZ_FORMATS
    return extension_of(path) in _XYZ_EXTENSIONS


def open_writer(path: Path, final: Path, write_kwargs: dict[str, Any] | None = None, *, resume: bool = False) -> Writer:
    """Return the writer that appends configurations to a file.

    Parameters
    ----------
    path
        The file to write to, usually a temporary one.
    final
        The file it will become: its extension decides about format and compression.
    write_kwargs
        Keywords of `ase.io.write`; ``format`` overrides the extension.
    resume
        Append to what is there instead of starting anew.

    Raises
    ------
    UnstreamableFormatError
        The format cannot hold a growing series of configurations.
    """
    kwargs = dict(write_kwargs or {})
    kwargs.pop("append", None)
    kwargs.pop("parallel", None)
    given = kwargs.pop("format", None)
    name = given or extension_of(final)
    if name in _XYZ_FORMATS or (given is None and name in _XYZ_EXTENSIONS):
        from wfl.configset.io.xyz_write import XYZWriter

        return XYZWriter(path, compression_of(final), kwargs, resume=resume)
    from wfl.configset.io.through_ase import ase_writer

    writer = ase_writer(name, path, kwargs, resume=resume) if compression_of(final) is None else None
    if writer is None:
        raise UnstreamableFormatError(
            f"{final}: the format {name or '(no extension)'!r} cannot hold a growing series of configurations; use an"
            " .xyz file (plain or compressed: .gz, .bz2, .xz), .traj, .db or .json, or say"
            " write_kwargs={'format': 'extxyz'}"
        )
    return writer
