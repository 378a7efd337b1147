"""The table of atoms: from lines of text to columns, for many frames at once where all lines are laid out alike.

A file made by a program has its numbers right-aligned under each other, in fixed point. Such a table is read as a
matrix of characters: whether it is one is checked character by character, its numbers are sums of digits times powers
of ten, which are exact below 2**53, divided by a power of ten, which rounds correctly, so that each number is the same
as that of `float`. Any other table is read token by token.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wfl.configset.io.xyz_layout import Layout

__all__ = ["Columns", "columns_of_matrix", "columns_of_rows"]

Array = np.ndarray[Any, Any]

_SPACE, _MINUS, _DIGIT, _DOT, _OTHER = range(5)
_CLASS = np.full(256, _OTHER, np.uint8)
_CLASS[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = _SPACE
_CLASS[ord("-")] = _MINUS
_CLASS[ord(".")] = _DOT
_CLASS[ord("0") : ord("9") + 1] = _DIGIT

_MAX_DIGITS = 15  # fewer than 2**53
_HALF = 9  # digits that fit in 32 bits
_LOGICAL = {"T": True, "F": False, "True": True, "False": False}


class Columns(NamedTuple):
    """The columns of a table: for each property of the layout an array, or for strings a list.

    Chemical symbols may be given as atomic numbers.
    """

    values: list[Any]

    def part(self, start: int, stop: int) -> Columns:
        """Return the columns of some of the rows."""
        return Columns([value[start:stop] for value in self.values])


def columns_of_rows(lines: Sequence[str], layout: Layout) -> Columns:
    """Return the columns of a table read token by token.

    Raises
    ------
    ValueError, OverflowError
        A line has too few tokens, or a token is not of its column's kind.
    """
    rows = [line.split() for line in lines]
    width = len(layout.kinds)
    if rows and min(map(len, rows)) < width:
        raise ValueError(f"fewer than {width} columns")
    columns = list(zip(*rows, strict=False)) if rows else [()] * width
    values: list[Any] = []
    for prop in layout.properties:
        mine = [_converted(prop.kind, columns[prop.start + i]) for i in range(prop.columns)]
        values.append(mine[0] if prop.columns == 1 else np.array(mine).T.reshape(len(rows), prop.columns))
    return Columns(values)


def _converted(kind: str, tokens: Sequence[str]) -> Any:
    if kind == "R":
        return np.array(list(map(float, tokens)), float)
    if kind == "I":
        return np.array(list(map(int, tokens)), "i")
    if kind == "L":
        return np.array([_LOGICAL.get(token) for token in tokens], bool)
    return list(tokens)


class _Field(NamedTuple):
    """A column of the table: its characters and their classes, uint8 of shape (characters, lines)."""

    text: Array
    classes: Array


def columns_of_matrix(rows: Array, layout: Layout) -> Columns | None:
    """Return the columns of a table whose lines are laid out alike, None if they are not.

    Parameters
    ----------
    rows
        Characters, uint8 of shape (lines, characters per line).
    layout
        The columns.
    """
    text = np.ascontiguousarray(rows.T)
    classes = _CLASS[text]
    fields = _fields(classes)
    if len(fields) != len(layout.kinds):
        return None
    columns: list[Any] = []
    for number, (kind, (start, stop)) in enumerate(zip(layout.kinds, fields, strict=True)):
        read = _symbols if number == layout.symbols else _READERS[kind]
        column = read(_Field(text[start:stop], classes[start:stop]))
        if column is None:
            return None
        columns.append(column)
    mine = [columns[prop.start : prop.start + prop.columns] for prop in layout.properties]
    return Columns([some[0] if len(some) == 1 else np.stack(some, axis=1) for some in mine])


def _fields(classes: Array) -> list[tuple[int, int]]:
    """Return start and end of each stretch of characters that is not blank in all lines."""
    occupied = np.zeros(len(classes) + 2, bool)
    occupied[1:-1] = classes.any(axis=1)  # a space is 0
    edges = np.flatnonzero(occupied[1:] != occupied[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _real(field: _Field) -> Array | None:
    """Return a column of numbers with a decimal point, None if it is not one."""
    dots = np.flatnonzero(field.classes[:, 0] == _DOT)
    if len(dots) != 1 or len(field.text) - 1 > _MAX_DIGITS:
        return None
    dot = int(dots[0])
    lead, fraction = field.classes[:dot], field.classes[dot + 1 :]
    if not ((field.classes[dot] == _DOT).all() and (fraction == _DIGIT).all() and _is_integer(lead)):
        return None
    values = _integer_value(_Field(field.text[:dot], lead))
    values *= 10.0 ** len(fraction)
    values += _integer_value(_Field(field.text[dot + 1 :], fraction))
    values /= 10.0 ** len(fraction)
    return np.negative(values, out=values, where=(lead == _MINUS).any(axis=0))


def _integer(field: _Field) -> Array | None:
    """Return a column of integers, None if it is not one."""
    if len(field.text) > _HALF or not _is_integer(field.classes):
        return None
    values = _integer_value(field).astype("i")
    return np.negative(values, out=values, where=(field.classes == _MINUS).any(axis=0))


def _integer_value(field: _Field) -> Array:
    """Return the numbers without sign that the digits of each line make, as floats."""
    digits = (field.text - ord("0")) * (field.classes == _DIGIT)
    result = np.zeros(digits.shape[1])
    for start in range(0, len(digits), _HALF):
        part = digits[start : start + _HALF]
        value = part[0].astype(np.uint32)
        for digit in part[1:]:
            value *= 10
            value += digit
        if start:
            result *= 10.0 ** len(part)
        result += value
    return result


def _logical(field: _Field) -> Array | None:
    """Return a column of T and F, None if it is not one."""
    true = field.text[0] == ord("T")
    return true if len(field.text) == 1 and (true | (field.text[0] == ord("F"))).all() else None


def _words(field: _Field) -> list[str] | None:
    """Return a column of words, None if it is not one, or not plain ASCII."""
    filled = field.classes != _SPACE
    begins = filled[0] + (filled[1:] & ~filled[:-1]).sum(axis=0)
    if not (begins == 1).all() or field.text.max() > 126 or not field.text.all():
        return None
    raw = np.ascontiguousarray(field.text.T).view(f"S{len(field.text)}").ravel().tolist()
    meaning = {word: word.decode("ascii").split()[0] for word in set(raw)}
    return [meaning[word] for word in raw]


def _symbols(field: _Field) -> Array | list[str] | None:
    """Return atomic numbers for a column of chemical symbols, words where they are not short, None if it is neither."""
    if len(field.text) > 2:
        return _words(field)
    codes = field.text[0].astype(np.uint16) << 8
    codes |= field.text[1] if len(field.text) == 2 else ord(" ")
    values = _number_of_code()[codes]
    return values if (values >= 0).all() else None


@functools.cache
def _number_of_code() -> Array:
    """Return the atomic number of each two characters, -1 where they are no chemical symbol in any case of letters."""
    from ase.data import chemical_symbols

    table = np.full(1 << 16, -1)
    for number, symbol in enumerate(chemical_symbols):
        for text in (symbol, symbol.lower(), symbol.upper(), symbol.swapcase()):
            for padded in {text.ljust(2), text.rjust(2)}:
                table[ord(padded[0]) << 8 | ord(padded[1])] = number
    return table


def _is_integer(classes: Array) -> bool:
    """Whether each line is blanks, perhaps one minus, and at least one digit, in that order."""
    if len(classes) == 0 or classes.max() > _DIGIT or not (classes[-1] == _DIGIT).all():
        return False
    return bool((classes[1:] >= classes[:-1]).all()) and bool(((classes == _MINUS).sum(axis=0) <= 1).all())


_READERS: dict[str, Callable[[_Field], Any]] = {"R": _real, "I": _integer, "L": _logical, "S": _words}
