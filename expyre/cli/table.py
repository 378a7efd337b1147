"""Tables: columns padded to the widest cell, and made to fit a terminal without ever wrapping a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from expyre.cli.text import clean, crop, middle, pad, width

__all__ = ["Column", "fit", "render"]


def _crop_middle(text: str, columns: int) -> str:
    return middle(text, columns)


@dataclass
class Column:
    """One column of a table.

    Attributes
    ----------
    head
        Its heading.
    cells
        Text of every row.
    least
        The column is never made narrower than this (None: never narrower at all).
    shorten
        How a cell is made to fit a width.
    right
        Whether cells are aligned to the right.
    """

    head: str
    cells: list[str]
    least: int | None = None
    shorten: Callable[[str, int], str] = field(default=_crop_middle)
    right: bool = True

    def __post_init__(self) -> None:
        if not "".join(self.cells).isprintable():
            self.cells = [clean(cell) for cell in self.cells]
        self.width = max([width(self.head), *self._widths()])

    def _widths(self) -> list[int]:
        return [len(cell) for cell in self.cells] if self._plain else [width(cell) for cell in self.cells]

    @property
    def _plain(self) -> bool:
        return "".join(self.cells).isascii()

    def narrow(self, columns: int) -> None:
        """Shorten heading and cells to a width."""
        self.head = crop(self.head, columns)
        self.cells = [self.shorten(cell, columns) for cell in self.cells]
        self.width = columns

    def padded(self) -> list[str]:
        """Return the cells, as wide as the column."""
        if self._plain:
            fill = str.rjust if self.right else str.ljust
            return [fill(cell, self.width) for cell in self.cells]
        return [pad(cell, self.width, right=self.right) for cell in self.cells]


def fit(columns: Sequence[Column], total: int) -> bool:
    """Make columns fit a width, the widest of those that may give way first; return whether they do."""
    widths = [column.width for column in columns]
    excess = sum(widths) + len(widths) - 1 - total
    while excess > 0:
        spare = [(widths[i], i) for i, c in enumerate(columns) if c.least is not None and widths[i] > c.least]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
        excess -= 1
    for column, new in zip(columns, widths, strict=True):
        if new < column.width:
            column.narrow(new)
    return excess <= 0


def render(columns: Sequence[Column]) -> list[str]:
    """Return heading and rows: headings left-aligned, one blank between columns."""
    head = " ".join(pad(column.head, column.width, right=False) for column in columns)
    return [head, *map(" ".join, zip(*(column.padded() for column in columns), strict=True))]
