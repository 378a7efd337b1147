"""Random streams that belong to items, so that results depend neither on chunks nor on where the work runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PER_ITEM_INFO", "InfoSource", "spawn_for_call"]

PER_ITEM_INFO = "_autopara_per_item_info"


def spawn_for_call(rng: np.random.Generator | None) -> np.random.Generator | None:
    """Return the generator of one call, a child of the user's; exactly one is taken for every call.

    Raises
    ------
    TypeError
        ``rng`` is not a ``numpy.random.Generator``.
    """
    if rng is None:
        return None
    spawn: Callable[[int], list[np.random.Generator]] | None = getattr(rng, "spawn", None)
    if spawn is None:
        raise TypeError(f"rng must be a numpy.random.Generator (as from numpy.random.default_rng(seed)), not {rng!r}")
    return spawn(1)[0]


class InfoSource:
    """Gives the per-item information of consecutive items: their numbers and random generators.

    Parameters
    ----------
    wanted
        Whether the operation takes the information; generators are only made if it does.
    rng
        Generator of the call.
    given
        The information of all items, if the caller has it already.
    """

    def __init__(
        self, wanted: bool, rng: np.random.Generator | None = None, given: list[dict[str, Any]] | None = None
    ) -> None:
        self.wanted = wanted
        self._rng = rng
        self._given = given
        self._next = 0

    @property
    def given(self) -> bool:
        """Whether the information is the caller's."""
        return self._given is not None

    def take(self, n: int) -> list[dict[str, Any]] | None:
        """Return the information of the next ``n`` items, None if the operation does not take it."""
        if not self.wanted:
            return None
        start, self._next = self._next, self._next + n
        if self._given is not None:
            return list(self._given[start : start + n])
        infos: list[dict[str, Any]] = [{"item_i": i} for i in range(start, start + n)]
        if self._rng is not None:
            for info, child in zip(infos, self._rng.spawn(n), strict=True):
                info["rng"] = child
        return infos

    def skip(self, n: int) -> None:
        """Pass over ``n`` items, so that those after them get what they would have got."""
        if not self.wanted:
            return
        self._next += n
        if self._given is None and self._rng is not None:
            self._rng.spawn(n)
