"""Where files wait until all of theirs have come: under numbers, so that no name leads anywhere unchecked."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from expyre.transports.base import MARKER_PREFIX

__all__ = ["Boxes", "inner_parts"]

_log = logging.getLogger(__name__)
_BUFFER = 1 << 18

Parts = tuple[str, ...]


def inner_parts(name: str) -> Parts:
    """Return the parts of a relative path."""
    return tuple(part for part in name.split("/") if part not in ("", "."))


@dataclass
class _File:
    """A file that has come, and where it is now."""

    path: str


@dataclass
class _Box:
    """What has come of one name; paths are relative to it."""

    directories: dict[Parts, None] = field(default_factory=dict)
    files: dict[Parts, _File] = field(default_factory=dict)
    links: dict[Parts, str] = field(default_factory=dict)


class Boxes:
    """A box for each name, from which its files go into place.

    Parameters
    ----------
    beside
        An empty directory on the file system of ``local_dir``.
    local_dir
        Where the names go.
    """

    def __init__(self, beside: Path, local_dir: Path) -> None:
        self._beside, self._local_dir = beside, local_dir
        self._boxes: dict[str, _Box] = {}
        self._all: dict[Parts, _File] = {}
        self._count = 0

    def names(self) -> list[str]:
        """Return the names that have a box."""
        return list(self._boxes)

    def put(self, name: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        """Put a member of an archive into the box of its name."""
        box = self._boxes.setdefault(name, _Box())
        full = inner_parts(member.name)
        parts = full[len(inner_parts(name)) :]
        if member.isdir():
            box.directories.setdefault(parts)
        elif member.issym():
            self._link(box, parts, member)
        elif (data := self._content(member, tar)) is not None:
            box.files[parts] = self._all[full] = _File(self._written(member, data))
        else:
            _log.warning("left out %s, which is no file that can be taken", member.name)

    def deliver(self, name: str) -> None:
        """Move the content of a box into place, markers last."""
        box = self._boxes.pop(name)
        target = self._local_dir.joinpath(*inner_parts(name))
        parents = {parts[:-1] if parts else None for parts in (*box.files, *box.links)}
        for directory in {*box.directories, *parents}:
            _make(target, directory)
        for parts, aim in box.links.items():
            self._place_link(target, parts, aim)
        for parts in sorted(box.files, key=_is_marker):
            file, place = box.files[parts], os.path.join(target, *parts)
            os.replace(file.path, place)
            file.path = place

    def _content(self, member: tarfile.TarInfo, tar: tarfile.TarFile) -> IO[bytes] | None:
        if member.islnk():
            earlier = self._all.get(inner_parts(member.linkname))
            return None if earlier is None else open(earlier.path, "rb")
        return tar.extractfile(member) if member.isfile() else None

    def _written(self, member: tarfile.TarInfo, data: IO[bytes]) -> str:
        """Write a file; what only gives rights to others, or runs as somebody else, is not taken over."""
        path = self._number()
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 | (member.mode & 0o700))
        with data, open(number, "wb", buffering=0) as file:
            shutil.copyfileobj(data, file, _BUFFER)
            os.utime(number, (member.mtime, member.mtime))
        return path

    def _number(self) -> str:
        self._count += 1
        return os.path.join(self._beside, str(self._count))

    def _link(self, box: _Box, parts: Parts, member: tarfile.TarInfo) -> None:
        if parts and _stays_inside(parts, member.linkname):
            box.links[parts] = member.linkname
        else:
            _log.warning("left out the symbolic link %s to %s: it leads outside", member.name, member.linkname)

    def _place_link(self, target: Path, parts: Parts, aim: str) -> None:
        place = target.joinpath(*parts)
        # where earlier links lead to, there may be fewer steps up than the name has
        real = Path(os.path.realpath(place.parent)).relative_to(os.path.realpath(target)).parts
        if not _stays_inside((*real, place.name), aim):
            _log.warning("left out the symbolic link %s to %s: it leads outside", place, aim)
            return
        temporary = self._number()
        os.symlink(aim, temporary)
        os.replace(temporary, place)


def _is_marker(parts: Parts) -> bool:
    return bool(parts) and parts[-1].startswith(MARKER_PREFIX)


def _stays_inside(parts: Parts, aim: str) -> bool:
    """Tell whether a link leads to where the files of its box are: a few steps up, then only down."""
    steps = aim.split("/")
    up = next((count for count, step in enumerate(steps) if step != ".."), len(steps))
    return not aim.startswith("/") and up < len(parts) and ".." not in steps[up:]


def _make(target: Path, parts: Parts | None) -> None:
    """Make a directory in ``target``, for its owner only; for None that above ``target``."""
    directory = target.parent if parts is None else target.joinpath(*parts)
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if parts is not None and not Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(target)):
        raise OSError(f"{directory} leads out of {target}")
