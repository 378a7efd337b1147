"""What an engine sees of its inputs: values, each with the place its results belong to."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from wfl.configset.inputs import ConfigSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Item", "iter_items"]


class Item(NamedTuple):
    """One input of an operation.

    Attributes
    ----------
    path
        Index path of the place of its results; None if they are to be appended in order.
    value
        The input: `Atoms`, a `ConfigSet` from :meth:`ConfigSet.groups`, or anything else.
    """

    path: tuple[int, ...] | None
    value: Any


_item = partial(tuple.__new__, Item)  # half the time of the constructor


def iter_items(inputs: Iterable[Any]) -> Iterator[Item]:
    """Yield the inputs of an operation in order, streaming files, and without writing into the caller's objects.

    Parameters
    ----------
    inputs
        A `ConfigSet` gives its configurations with their locations; a single `Atoms` is an iterable of one; of any
        other iterable each value is one input, without a location unless it is a `ConfigSet` from `groups()`.
    """
    if isinstance(inputs, ConfigSet):
        for path, atoms in inputs._walk():
            yield _item((path, atoms))
    elif hasattr(inputs, "get_positions"):
        yield Item(None, inputs)
    else:
        for value in inputs:
            yield _item((value._enclosing if isinstance(value, ConfigSet) else None, value))
