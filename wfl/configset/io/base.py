"""What every reader and every writer of files of configurations can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ase.atoms import Atoms


class Span(NamedTuple):
    """Neighbouring frames of a file.

    Attributes
    ----------
    first
        Number of the first frame.
    start, stop
        Where they are, in units that only the reader knows: bytes, or frame numbers.
    """

    first: int
    start: int
    stop: int


class Reader(Protocol):
    """Reads the configurations of one file; the frames are numbered from 0 in the order that ``index`` selects."""

    path: Path

    def frames(self) -> Iterator[Atoms]:
        """Yield all frames in order, streaming."""

    def count(self) -> int:
        """Return the number of frames."""

    def locations(self) -> Sequence[str | None]:
        """Return the location string that each frame carries, None where it carries none."""

    def spans(self, numbers: Sequence[int]) -> tuple[Span, ...]:
        """Return where the frames of these numbers are, neighbours joined."""

    def numbers(self, spans: Sequence[Span]) -> Sequence[int]:
        """Return the numbers of the frames in the spans."""

    def read(self, spans: Sequence[Span]) -> Iterator[tuple[int, Atoms]]:
        """Yield number and frame of every frame in the spans."""


class Writer(Protocol):
    """Appends configurations to one file."""

    resumable: bool

    @property
    def offset(self) -> int:
        """Bytes of the file when all that was written arrives, -1 if that is not known without :meth:`position`."""

    def write(self, atoms: Atoms, info: dict[str, Any]) -> None:
        """Append one configuration with this ``info`` instead of its own."""

    def flush(self) -> None:
        """Hand what was written to the operating system."""

    def position(self) -> int:
        """Make everything written so far readable up to an offset, and return that offset."""

    def close(self) -> None:
        """Finish and close the file."""
