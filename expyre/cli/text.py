"""Text on a terminal: what hostile names are shown as, how wide they are, and how they are made to fit."""

from __future__ import annotations

import unicodedata

__all__ = ["ELLIPSIS", "clean", "crop", "middle", "pad", "width"]

ELLIPSIS = "…"
_WIDE = frozenset("WF")
_ZERO = frozenset({"Mn", "Me", "Cf"})


def clean(text: str) -> str:
    """Return the text with everything that is not printable written as an escape: one line, no terminal codes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _cell(char: str) -> int:
    if unicodedata.category(char) in _ZERO:
        return 0
    return 2 if unicodedata.east_asian_width(char) in _WIDE else 1


def width(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def pad(text: str, columns: int, *, right: bool = True) -> str:
    """Fill the text with blanks to a width; to its left if ``right`` aligned."""
    blanks = " " * (columns - width(text))
    return blanks + text if right else text + blanks


def crop(text: str, columns: int) -> str:
    """Cut the end off a text that is too wide."""
    if width(text) <= columns:
        return text
    return _head(text, columns - 1) + ELLIPSIS if columns > 0 else ""


def middle(text: str, columns: int, *, tail: int | None = None) -> str:
    """Cut the middle out of a text that is too wide, keeping ``tail`` characters of its end (default half)."""
    if width(text) <= columns:
        return text
    if columns < 2:
        return crop(text, columns)
    keep = min(tail if tail is not None else (columns - 1) // 2, columns - 1)
    end = _head(text[::-1], keep)[::-1]
    return _head(text, columns - 1 - width(end)) + ELLIPSIS + end


def _head(text: str, columns: int) -> str:
    if text.isascii():
        return text[: max(columns, 0)]
    taken = 0
    for i, char in enumerate(text):
        taken += _cell(char)
        if taken > columns:
            return text[:i]
    return text
