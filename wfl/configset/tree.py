"""Nested lists of configurations, addressed by index paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wfl.configset.sources import is_atoms


def count_tree(tree: Sequence[Any]) -> int:
    """Return the number of configurations in a nested list."""
    return sum(count_tree(item) if isinstance(item, (list, tuple)) else item is not None for item in tree)


def part_of_tree(tree: Sequence[Any], positions: range) -> list[Any]:
    """Return a nested list with only some of the leaves, by flat position, and None in place of the others."""
    return _masked(tree, positions, 0)[0]


def _masked(tree: Sequence[Any], positions: range, start: int) -> tuple[list[Any], int]:
    result: list[Any] = []
    for item in tree:
        if is_atoms(item):
            result.append(item if start in positions else None)
            start += 1
        elif item is None:
            result.append(None)
        else:
            part, start = _masked(item, positions, start)
            result.append(part)
    return result, start


def place_in_tree(tree: list[Any], place: Sequence[int], value: Any) -> None:
    """Put a value at an index path of a nested list; missing positions on the way become empty lists."""
    for index in place[:-1]:
        _extend(tree, index)
        if not isinstance(tree[index], list):
            tree[index] = []
        tree = tree[index]
    _extend(tree, place[-1])
    tree[place[-1]] = value


def _extend(tree: list[Any], index: int) -> None:
    tree.extend([] for _ in range(index + 1 - len(tree)))
