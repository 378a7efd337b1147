"""The journal of an unfinished output: how many leading inputs have their results in the files, and up to where."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wfl.configset.record import CallRecord

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Checkpoint", "Journal", "read_journal"]

_VERSION = 1


@dataclass
class Checkpoint:
    """A state of the output that can be returned to.

    Attributes
    ----------
    items
        Number of leading inputs whose results are all in the files.
    digest
        Digest of these inputs.
    auto
        Number of results that were given places in order.
    sizes
        Bytes of each temporary file, by the index of the file.
    end
        Bytes of the journal up to and with this checkpoint.
    """

    items: int
    digest: str
    auto: int
    sizes: dict[int, int] = field(default_factory=dict)
    end: int = 0


@dataclass
class JournalContent:
    """What a journal says: the call, all its checkpoints, and whether the output was complete and being renamed."""

    call: CallRecord
    checkpoints: list[Checkpoint]
    closing: bool


class Journal:
    """Appends checkpoints to a journal file, one line of JSON each.

    Parameters
    ----------
    path
        The journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def start(self, call: CallRecord) -> None:
        """Begin a new journal."""
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._append({"wfl_journal": _VERSION, "call": call.to_dict()})

    def resume(self, end: int) -> None:
        """Go on with an old journal after its first ``end`` bytes."""
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._file, end)

    def add(self, items: int, digest: str, auto: int, sizes: dict[int, int]) -> None:
        """Append a checkpoint; ``sizes`` holds the files that have changed since the one before."""
        self._append({"items": items, "digest": digest, "auto": auto, "sizes": sizes})

    def add_closing(self) -> None:
        """Note that all files are complete and about to get their final names."""
        self._append({"closing": True})
        os.fsync(self._file)

    def close(self, *, remove: bool = False) -> None:
        """Close the journal, and with ``remove`` delete it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if remove:
            self.path.unlink(missing_ok=True)

    def _append(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read_journal(path: Path) -> JournalContent | None:
    """Return what a journal says up to its first damaged line; None if there is none or its head is damaged."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        head = json.loads(lines[0])
        if head["wfl_journal"] != _VERSION:
            return None
        content = JournalContent(CallRecord.from_dict(head["call"]), [], False)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    _read_checkpoints(content, lines)
    return content


def _read_checkpoints(content: JournalContent, lines: list[bytes]) -> None:
    sizes: dict[int, int] = {}
    end = len(lines[0])
    for raw in lines[1:]:
        end += len(raw)
        line = _parse_line(raw)
        if line is None:
            return
        if line.get("closing"):
            content.closing = True
            continue
        sizes = {**sizes, **{int(index): size for index, size in line["sizes"].items()}}
        content.checkpoints.append(Checkpoint(line["items"], line["digest"], line["auto"], sizes, end))


def _parse_line(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    known = isinstance(line, dict) and ("closing" in line or {"items", "sizes", "digest", "auto"} <= set(line))
    return line if known else None
