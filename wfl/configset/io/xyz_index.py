"""Where the frames of an XYZ file start: found without reading the atoms, and remembered."""

from __future__ import annotations

import re
import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wfl.configset.io.opening import open_bytes
from wfl.configset.io.xyz_frames import chunks
from wfl.configset.locations import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["FrameTable", "frame_table"]

_LOCATION = re.compile(rb"(?:^|\s)" + KEY.encode() + rb"""\s*=\s*["'{\[]([ /0-9]*)["'}\]]""")
_MAX_TABLES = 16

_tables: OrderedDict[tuple[str, int, int], FrameTable] = OrderedDict()
_lock = threading.Lock()


@dataclass
class FrameTable:
    """The frames of a file.

    Attributes
    ----------
    offsets
        Place in the (decompressed) file where each frame starts, and a last one where the last ends.
    locations
        Location string of each frame, None where it has none.
    """

    offsets: Sequence[int]
    locations: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def frame_table(path: Path) -> FrameTable:
    """Return the table of a file; a file that has not changed since is not scanned again."""
    status = path.stat()
    key = (str(path.absolute()), status.st_size, status.st_mtime_ns)
    with _lock:
        if key in _tables:
            _tables.move_to_end(key)
            return _tables[key]
    table = _scan(path)
    with _lock:
        _tables[key] = table
        while len(_tables) > _MAX_TABLES:
            _tables.popitem(last=False)
    return table


def _scan(path: Path) -> FrameTable:
    offsets = array("q")
    locations: list[str | None] = []
    end = 0
    with open_bytes(path) as file:
        for chunk in chunks(file, path):
            starts = chunk.starts.tolist()
            for frame in chunk.frames:
                offsets.append(chunk.offset + starts[frame.row])
                match = _LOCATION.search(chunk.data, starts[frame.row + 1], starts[frame.row + 2])
                locations.append(match.group(1).decode() if match else None)
            end = chunk.end()
    offsets.append(end)
    return FrameTable(offsets, locations)

