"""Reading extended XYZ files: streaming, by number, and by place."""

from __future__ import annotations

from bisect import bisect_left
from itertools import chain
from typing import TYPE_CHECKING, Any

from wfl.configset.io.base import Span
from wfl.configset.io.names import compression_of
from wfl.configset.io.opening import open_bytes
from wfl.configset.io.through_ase import parse_index
from wfl.configset.io.xyz_frames import chunks
from wfl.configset.io.xyz_index import FrameTable, frame_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase.atoms import Atoms

__all__ = ["XYZReader"]


class XYZReader:
    """Reads an extended XYZ file, compressed or not; spans are measured in bytes of the decompressed file.

    Parameters
    ----------
    path
        The file.
    index
        Which of its frames, in the words of `ase.io.iread`.
    """

    def __init__(self, path: Path, index: Any = ":") -> None:
        self.path = path
        self._index = parse_index(index)

    def frames(self) -> Iterator[Atoms]:
        """Yield all frames in order, streaming."""
        if self._index == slice(None):
            return self._stream(0, None)
        return (atoms for _, atoms in self.read(self.spans(range(self.count()))))

    def count(self) -> int:
        """Return the number of frames."""
        return len(self._selected(frame_table(self.path)))

    def locations(self) -> Sequence[str | None]:
        """Return the location string of each frame."""
        table = frame_table(self.path)
        if self._index == slice(None):
            return table.locations
        return [table.locations[number] for number in self._selected(table)]

    def spans(self, numbers: Sequence[int]) -> tuple[Span, ...]:
        """Return where the frames of these numbers are, neighbours joined."""
        table = frame_table(self.path)
        selected = self._selected(table)
        spans: list[Span] = []
        next_number = -1
        for number in numbers:
            start, stop = table.offsets[selected[number]], table.offsets[selected[number] + 1]
            if spans and number == next_number and spans[-1].stop == start:
                spans[-1] = spans[-1]._replace(stop=stop)
            else:
                spans.append(Span(number, start, stop))
            next_number = number + 1
        return tuple(spans)

    def numbers(self, spans: Sequence[Span]) -> Sequence[int]:
        """Return the numbers of the frames in the spans."""
        offsets = frame_table(self.path).offsets
        lengths = ((span.first, bisect_left(offsets, span.stop) - bisect_left(offsets, span.start)) for span in spans)
        return list(chain.from_iterable(range(first, first + length) for first, length in lengths))

    def read(self, spans: Sequence[Span]) -> Iterator[tuple[int, Atoms]]:
        """Yield number and frame of every frame in the spans."""
        if not spans:
            return
        with open_bytes(self.path) as file:
            for span in spans:
                file.seek(span.start)
                yield from enumerate(self._parsed(file, span.start, span.stop), span.first)

    def _selected(self, table: FrameTable) -> range:
        return range(len(table))[self._index]

    def _stream(self, start: int, stop: int | None) -> Iterator[Atoms]:
        with open_bytes(self.path) as file:
            yield from self._parsed(file, start, stop)

    def _parsed(self, file: Any, start: int, stop: int | None) -> Iterator[Atoms]:
        from wfl.configset.io.xyz_parse import parse_chunk

        for chunk in chunks(file, self.path, offset=start, stop=stop):
            yield from parse_chunk(chunk, self.path)

    def __repr__(self) -> str:
        packed = compression_of(self.path)
        return f"XYZReader({str(self.path)!r}{', ' + packed if packed else ''})"
