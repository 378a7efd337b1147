"""Odds and ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ase import Atoms

__all__ = ["MissingRngError", "atoms_to_list", "chunks", "describe_failure", "dict_tuple_keys_to_str"]

T = TypeVar("T")

_MAX_TEXT = 500


class MissingRngError(ValueError, AssertionError):
    """Raised when an operation needs random numbers and was given no generator."""


def chunks(arr: Sequence[T], n: int) -> Iterator[Sequence[T]]:
    """Consecutive pieces of `arr` with `n` elements each, the last one perhaps with fewer."""
    for start in range(0, len(arr), n):
        yield arr[start : start + n]


def atoms_to_list(atoms: Atoms | Iterable[Atoms]) -> list[Atoms]:
    """One configuration or several, as a list in both cases."""
    return [atoms] if isinstance(atoms, Atoms) else list(atoms)


def dict_tuple_keys_to_str(d: dict[Any, Any]) -> dict[Any, Any]:
    """Copy of a dict, keys that are tuples written as `(a,b)`, so that it can be stored as JSON; also inside."""
    return {_key(key): dict_tuple_keys_to_str(value) if isinstance(value, dict) else value for key, value in d.items()}


def _key(key: Any) -> Any:
    return f"({','.join(str(part) for part in key)})" if isinstance(key, tuple) else key


def describe_failure(exc: BaseException) -> str:
    """Type and message of an exception on one line, short enough for an info entry."""
    text = " ".join(f"{type(exc).__name__}: {exc}".split())
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
