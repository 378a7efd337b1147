"""The comment line of an extended XYZ frame: keys with values, typed by what they look like, as ASE types them."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import numpy as np

__all__ = ["DoubtfulComment", "parse_comment"]


class DoubtfulComment(ValueError):
    """Raised for a comment with constructs that are left to ASE's own parser."""


_BARE = r"""([^\s=\\'"{}\[\]]+)"""
_DELIMITED = "|".join(
    rf"{start}(?!{end})([^{end}\\]*(?:\\.[^{end}\\]*)*){end}"
    for start, end in (('"', '"'), ("'", "'"), (r"\{", r"\}"), (r"\[", r"\]"))
)
# A key, perhaps a value, and what else there may be: one character of something that is left to ASE.
_PAIR = re.compile(
    rf"(?:(?:{_BARE}|{_DELIMITED})(?:\s*=\s*(?:{_BARE}|{_DELIMITED}))?(?:\s+|$))|(.)",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)

_TOKEN = re.compile(r"[^\s,]+")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_EXPONENT = "[eE][+-]?[0-9]{1,4}"
_REAL = re.compile(rf"[+-]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:{_EXPONENT})?|[0-9]+{_EXPONENT})")  # not an integer
_NUMERIC = re.compile(r"[0-9.eE+\- ]+")
# One number; or a word that cannot be a number: no nan, no inf, no sign, no digit.
_KIND = re.compile(rf"({_INTEGER.pattern})$|({_REAL.pattern})$|([A-HJ-MO-Za-hj-mo-z_/])")

_SQUARE = frozenset({"Lattice", "virial", "stress"})
_BOOLEANS = dict.fromkeys(("T", "true", "True", "TRUE"), True) | dict.fromkeys(("F", "false", "False", "FALSE"), False)
_UNTYPED = frozenset({"uid"})
_JSON = "_JSON "


def parse_comment(comment: str) -> dict[str, Any]:
    """Return the keys and values of a comment line.

    Raises
    ------
    DoubtfulComment
        The line has constructs of which only ASE's parser knows what they mean.
    ValueError
        A value is not what its key demands.
    """
    result: dict[str, Any] = {}
    for groups in _PAIR.findall(comment.strip()):
        if groups[10]:
            raise DoubtfulComment(comment)
        key = groups[0] or _delimited(groups[1:5])
        result[key] = _typed(key, groups[5] or _delimited(groups[6:10]))
    return result


def _delimited(groups: tuple[str, ...]) -> str:
    """Return the text between quotes or brackets, T if there are none."""
    text = groups[0] or groups[1] or groups[2] or groups[3] or "T"
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _typed(key: str, text: str) -> Any:
    if key in _SQUARE:
        return _square(text).copy(order="K")
    if text[0] == "_" and text.startswith(_JSON) and key.lower() not in _UNTYPED:
        return _from_json(text[len(_JSON) :])
    if len(key) == 3 and key.lower() in _UNTYPED:
        return text
    value = _number_or_word(text)
    kind = type(value)
    return value.copy() if kind is np.ndarray or kind is list else value


@functools.lru_cache(maxsize=64)  # the cell often stays the same
def _square(text: str) -> np.ndarray[Any, Any]:
    value = _number(text)
    if not isinstance(value, np.ndarray) or value.shape != (9,):
        raise ValueError("Lattice, virial and stress need nine numbers")
    return value.reshape(3, 3).T


def _from_json(text: str) -> Any:
    data = json.loads(text)
    array = np.array(data)
    return array if array.dtype.kind in "ifb" else data


@functools.lru_cache(maxsize=1024)
def _number_or_word(text: str) -> Any:
    value = _number(text)
    return _word(text) if value is None else value


def _number(text: str) -> Any:
    """Return the number or array of numbers that a text is, None if it is none."""
    match = _KIND.match(text)
    if match is not None:
        if match.lastindex == 2:
            return np.float64(float(text))
        return None if match.lastindex == 3 else np.int_(int(text))
    if "." in text and _NUMERIC.fullmatch(text):  # not all integers
        try:
            return _unpacked(np.array(list(map(float, text.split()))))
        except ValueError:
            return None
    return _number_by_numpy(_TOKEN.findall(text))


def _number_by_numpy(tokens: list[str]) -> Any:
    for kind in (int, float):
        try:
            return _unpacked(np.array(tokens, dtype=kind))
        except (ValueError, OverflowError):
            continue
    return None


def _unpacked(array: np.ndarray[Any, Any]) -> Any:
    return array[0] if len(array) == 1 else array


def _word(text: str) -> Any:
    if len(text) > 5 and text.isalpha():
        return text
    tokens = _TOKEN.findall(text)
    if not all(token in _BOOLEANS for token in tokens):
        return text
    values = [_BOOLEANS[token] for token in tokens]
    return values[0] if len(values) == 1 else values
