"""Cutting an XYZ file into frames, a chunk of bytes at a time."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wfl.configset.io.xyz_errors import format_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Chunk", "Frame", "chunks"]

CHUNK_BYTES = 1 << 18


class Frame(NamedTuple):
    """Where a frame is in its chunk.

    Attributes
    ----------
    row
        Number of its first line within the chunk.
    n_atoms
        Lines of atoms after the header and the comment.
    n_vectors
        ``VEC`` lines after these.
    """

    row: int
    n_atoms: int
    n_vectors: int

    @property
    def stop(self) -> int:
        """Number of the line after its last."""
        return self.row + 2 + self.n_atoms + self.n_vectors


class Chunk(NamedTuple):
    """Whole frames of a file.

    Attributes
    ----------
    data
        Bytes that contain the frames.
    offset
        Place of these bytes in the (decompressed) file.
    line
        Number of their first line in the file, from 1.
    starts
        Place in ``data`` where each line starts, and a last one where the data end; int of shape (lines + 1,).
    frames
        The frames.
    """

    data: bytes
    offset: int
    line: int
    starts: np.ndarray[Any, Any]
    frames: list[Frame]

    def text(self, start: int, stop: int) -> str:
        """Return some lines, by their numbers within the chunk."""
        return self.data[self.starts[start] : self.starts[stop]].decode()

    def end(self) -> int:
        """Return the place in the file where the last frame ends."""
        return self.offset + int(self.starts[self.frames[-1].stop])


def chunks(file: IO[bytes], path: Path, *, offset: int = 0, stop: int | None = None) -> Iterator[Chunk]:
    """Yield the frames of a file up to its end or a blank line where a frame could start, like ASE.

    Parameters
    ----------
    file
        Open file, at a place where a frame starts.
    path
        For messages.
    offset, stop
        Places in the file where to start, which is where the file is, and to stop.

    Raises
    ------
    XYZFormatError
        The file ends within a frame, or a header is not a number of atoms.
    """
    rest, line = b"", 1
    while True:
        wanted = max(CHUNK_BYTES, len(rest))
        if stop is not None:
            wanted = min(wanted, stop - offset - len(rest))
        new = file.read(wanted) if wanted > 0 else b""
        at_end = len(new) == 0
        data = rest + new
        if at_end and data and not data.endswith(b"\n"):
            data += b"\n"
        starts = _line_starts(data)
        frames, rows, ended = _cut(data, starts, at_end, path, line)
        if frames:
            yield Chunk(data, offset, line, starts, frames)
        if ended or at_end:
            if at_end and not ended and rows < len(starts) - 1:
                _complain_of_end(data, starts, rows, path, line)
            return
        rest, offset, line = data[starts[rows] :], offset + int(starts[rows]), line + rows


def _line_starts(data: bytes) -> np.ndarray[Any, Any]:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    starts = np.zeros(len(ends) + 1, np.int64)
    starts[1:] = ends + 1
    return starts


def _cut(
    data: bytes, starts: np.ndarray[Any, Any], at_end: bool, path: Path, line: int
) -> tuple[list[Frame], int, bool]:
    """Return the whole frames in the data, the number of lines they take, and whether the series has ended."""
    places = starts.tolist()
    n_lines = len(places) - 1
    found: list[list[int]] = []
    row = 0
    ended = False
    while row < n_lines:
        header = data[places[row] : places[row + 1]]
        try:
            n_atoms = max(int(header), 0)
        except ValueError:
            if found and header.lstrip().startswith(b"VEC"):
                found[-1][2] += 1
                row += 1
                continue
            if header.strip():
                raise format_error(path, line + row, f"expected a number of atoms, got {_shown(header)}") from None
            ended = True
            break
        # The line after a frame must be there too, for it may be a vector that belongs to the frame.
        if row + 2 + n_atoms + (not at_end) > n_lines:
            break
        found.append([row, n_atoms, 0])
        row += 2 + n_atoms
    if not ended and not at_end and row == n_lines and found:
        row = found.pop()[0]  # its vectors may go on in the next chunk
    return [Frame(*frame) for frame in found], row, ended


def _shown(header: bytes) -> str:
    text = header.decode(errors="replace").strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _complain_of_end(data: bytes, starts: np.ndarray[Any, Any], row: int, path: Path, line: int) -> None:
    n_lines = len(starts) - 1
    n_atoms = max(int(data[starts[row] : starts[row + 1]]), 0)
    have = max(n_lines - row - 2, 0)
    message = f"the file ends within a frame of {n_atoms} atoms that starts here, after {have} of them"
    raise format_error(path, line + row, message)
