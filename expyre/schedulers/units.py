"""What one submit command hands to a queue: a job, or an array of jobs that ask for the same; and its files.

Beside the jobs' directories on the host lies ``_expyre_submit``. Each submission of many jobs makes one *batch*
directory there, and in it one directory per *unit*, that is per submit command::

    _expyre_submit/<batch>/members                  job token, batch, unit, index; one line per job
                           tokens, settled          what other batches are searched for, and what not to mind there
                           pid                      node and process id of the submitting shell
                           <unit>/ticket            made by whoever decides the unit: "submit" or "void"
                                  pid answer error status    process, outputs and exit code of the submit command
                                  script            of arrays: runs the member's own job script
                                  <i>.dir <i>.out <i>.err    links to a member's directory and its output files
"""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_hex
from typing import Final

from expyre.schedulers.base import Submission

__all__ = ["QUEUE_ID_FILE", "ROOT", "Batch", "Limits", "Unit", "make_batch", "place_of", "token_word"]

ROOT: Final = "_expyre_submit"
QUEUE_ID_FILE: Final = "_expyre_queue_id"
"""File into which a job writes its remote id when it starts."""

_BATCH_DIGITS = 6


@dataclass(frozen=True)
class Limits:
    """What a queue takes at most; None for what has no limit or is not known.

    Attributes
    ----------
    array_size
        Members of one array.
    submitted
        Jobs of the user in the queue, members of arrays counted each.
    """

    array_size: int | None = None
    submitted: int | None = None

    @property
    def unit_size(self) -> int | None:
        """Most members of a unit that the queue can ever take."""
        known = [limit for limit in (self.array_size, self.submitted) if limit is not None]
        return max(1, min(known)) if known else None


@dataclass(frozen=True)
class Unit:
    """One submit command.

    Attributes
    ----------
    token
        16 hexadecimal digits by which the queue can be asked for the unit.
    subs
        The jobs, more than one only in an array.
    is_array
        Whether it is submitted as an array.
    first_index
        Index of the first member.
    max_running
        Most members to run at the same time.
    """

    token: str
    subs: tuple[Submission, ...]
    is_array: bool = False
    first_index: int = 0
    max_running: int | None = None

    @property
    def indices(self) -> range:
        """Indices of the members."""
        return range(self.first_index, self.first_index + len(self.subs))

    @property
    def last_index(self) -> int:
        """Index of the last member."""
        return self.indices[-1]

    @property
    def name(self) -> str:
        """What the members' ids have in common, for people."""
        ids = [sub.id for sub in self.subs]
        return posixpath.commonprefix(ids).rstrip("_-.=+") or ids[0]


@dataclass(frozen=True)
class Batch:
    """Units that are submitted together.

    Attributes
    ----------
    token
        Name of the batch's directory.
    place
        The directory that holds the directories of the jobs.
    units
        The units.
    settled
        Beginnings of lines in other batches' ``members`` that are known to mean nothing any more.
    scripts
        Array scripts by token of the unit.
    job_scripts
        Job scripts, by id of the job, of jobs whose directories have none yet.
    """

    token: str
    place: str
    units: tuple[Unit, ...]
    settled: tuple[str, ...] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    job_scripts: Mapping[str, str] = field(default_factory=dict)

    @property
    def subs(self) -> list[Submission]:
        """All jobs."""
        return [sub for unit in self.units for sub in unit.subs]

    def unit_directory(self, unit: Unit) -> str:
        """Directory of a unit on the host; relative to the home if the place is."""
        return posixpath.join(self.place, ROOT, self.token, unit.token)

    def archive(self) -> bytes:
        """Return the compressed tar archive of the batch's directory."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1, format=tarfile.GNU_FORMAT) as archive:
            for entry, content in self._entries():
                entry.mtime = int(time.time())
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    def _entries(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        for unit in self.units:
            yield _directory(unit.token), b""
            if unit.token in self.scripts:
                yield _file(f"{unit.token}/script", self.scripts[unit.token])
            for index, sub in zip(unit.indices, unit.subs, strict=True):
                yield from _member(f"{unit.token}/{index}", sub)
                if sub.id in self.job_scripts:
                    yield _file(f"{unit.token}/{index}.new", self.job_scripts[sub.id])
        yield _file("settled", "".join(f"{line}\n" for line in (f" {self.token} ", *self.settled)))
        yield _file("tokens", "".join(f"{token_word(sub.token)}\n" for sub in self.subs))
        # the last: what others see of a batch is complete
        yield _file("members", "".join(self._members()))

    def _members(self) -> Iterator[str]:
        for unit in self.units:
            for index, sub in zip(unit.indices, unit.subs, strict=True):
                yield f"{token_word(sub.token)} {self.token} {unit.token} {index}\n"


def place_of(directory: str) -> str:
    """Return the directory in which a job's directory lies."""
    return posixpath.split(directory.rstrip("/"))[0]


def token_word(token: str) -> str:
    """Return a job's token as a word of hexadecimal digits that is no part of another one."""
    if re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{32}", token):
        return token
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def make_batch(
    place: str,
    keyed: Iterable[tuple[Hashable, Submission]],
    *,
    array_size: int | None = None,
    first_index: int = 0,
    max_running: int | None = None,
    as_array: Callable[[Submission], bool] = lambda sub: False,
) -> Batch:
    """Divide jobs into units.

    Parameters
    ----------
    place
        The directory that holds the jobs' directories.
    keyed
        Jobs, each with what it asks for; those of equal requests share an array. Without a request (None) a job is
        a unit of its own.
    array_size
        Most members of an array; None for any number, 1 for no arrays.
    first_index
        Index of the first member of an array.
    max_running
        Most members of an array to run at the same time.
    as_array
        Whether a job must be a member of an array even if it is the only one.
    """
    token = token_hex(_BATCH_DIGITS)
    units: list[Unit] = []
    for subs in _divide(keyed, array_size):
        number = f"{token}{len(units):04x}"
        units.append(Unit(number, tuple(subs), len(subs) > 1 or as_array(subs[0]), first_index, max_running))
    return Batch(token, place, tuple(units))


def _divide(keyed: Iterable[tuple[Hashable, Submission]], size: int | None) -> Iterator[Sequence[Submission]]:
    groups: dict[Hashable, list[Submission]] = {}
    for number, (key, sub) in enumerate(keyed):
        groups.setdefault(("alone", number) if key is None else ("together", key), []).append(sub)
    for group in groups.values():
        step = size or len(group)
        yield from (group[start : start + step] for start in range(0, len(group), step))


def _member(stem: str, sub: Submission) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    # from the unit's directory up to the place
    target = "../../../" + posixpath.basename(sub.directory.rstrip("/"))
    yield _link(f"{stem}.dir", target), b""
    yield _link(f"{stem}.out", f"{target}/job.{sub.id}.stdout"), b""
    yield _link(f"{stem}.err", f"{target}/job.{sub.id}.stderr"), b""


def _directory(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o700
    return entry


def _link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    return entry


def _file(name: str, text: str) -> tuple[tarfile.TarInfo, bytes]:
    content = text.encode("utf-8", "surrogateescape")
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    return entry, content
