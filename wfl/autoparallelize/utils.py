"""Helpers of autoparallelized operations, also for use on their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from .remoteinfo import RemoteInfo
from .rng import PER_ITEM_INFO, InfoSource
from .routing import get_remote_info
from .task import takes_per_item_info

if TYPE_CHECKING:
    import numpy as np

    from wfl.configset import ConfigSet

__all__ = [
    "ConfigSet",
    "RemoteInfo",
    "get_remote_info",
    "grouper",
    "items_inputs_generator",
    "set_autopara_per_item_info",
]

T = TypeVar("T")


def grouper(n: int, iterable: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Yield consecutive values in tuples of ``n``, the last one shorter if need be."""
    iterator = iter(iterable)
    while group := tuple(islice(iterator, n)):
        yield group


def items_inputs_generator(
    iterable: Iterable[Any],
    num_inputs_per_python_subprocess: int = 1,
    rng: np.random.Generator | None = None,
    op: Any = None,
) -> Iterator[tuple[list[tuple[Any, tuple[int, ...] | None]], int, list[dict[str, Any]] | None]]:
    """Yield the chunks that an operation gets: pairs of item and location, first item's number, per-item information.

    Parameters
    ----------
    iterable
        Inputs; locations come from a ConfigSet.
    num_inputs_per_python_subprocess
        Items per chunk.
    rng
        Generator of the call; each item gets a child of it.
    op
        The operation; there is per-item information only if it has a parameter for it.
    """
    from wfl.configset import iter_items

    from .batching import Chunks

    source = InfoSource(op is not None and takes_per_item_info(op), rng)
    chunks = Chunks(iter_items(iterable), num_inputs_per_python_subprocess, source)
    while (chunk := chunks.take()) is not None:
        yield list(zip(chunk.values, chunk.paths, strict=True)), chunk.first, chunk.infos


def set_autopara_per_item_info(
    kwargs: dict[str, Any], op: Any, inherited_per_item_info: list[dict[str, Any]] | None, rng_list: list[Any],
    item_i_list: list[int],
) -> None:
    """Put the per-item information of a chunk into the keywords of an operation that takes it.

    Parameters
    ----------
    kwargs
        Keywords of the operation; changed.
    op
        The operation.
    inherited_per_item_info
        Information of all items if there is one already; the chunk's part is taken.
    rng_list
        Random generators of the chunk's items; None or empty without.
    item_i_list
        Numbers of the chunk's items over the whole input.
    """
    if not takes_per_item_info(op):
        return
    if inherited_per_item_info is not None:
        kwargs[PER_ITEM_INFO] = [inherited_per_item_info[i] for i in item_i_list]
        return
    infos: list[dict[str, Any]] = [{"item_i": i} for i in item_i_list]
    for info, rng in zip(infos, rng_list or [], strict=False):
        if rng is not None:
            info["rng"] = rng
    kwargs[PER_ITEM_INFO] = infos


def __getattr__(name: str) -> Any:
    if name == "ConfigSet":
        from wfl.configset import ConfigSet

        return ConfigSet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
