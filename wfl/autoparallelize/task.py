"""One operation with everything that is the same for all of its items, and the chunks that it is given."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .rng import PER_ITEM_INFO

__all__ = ["Chunk", "Task", "add_note", "describe_items", "describe_places", "name_of", "takes_per_item_info"]


@dataclass
class Chunk:
    """Consecutive items that travel together: those of one call of the operation, or of several if they are cheap.

    Attributes
    ----------
    first
        Number of its first item over the whole input.
    paths
        Where each item came from (index path, or None).
    values
        The items; emptied once they have been sent off.
    infos
        Per-item information, or None.
    results
        Results that are there from an interrupted run; None if the items are to be worked on.
    """

    first: int
    paths: list[tuple[int, ...] | None]
    values: list[Any]
    infos: list[dict[str, Any]] | None = None
    results: list[Any] | None = None

    @property
    def items(self) -> str:
        """The items' numbers, for messages."""
        return describe_items(self.first, len(self.paths))


def describe_items(first: int, n: int) -> str:
    """Return ``item 3`` or ``items 3-7``."""
    return f"item {first}" if n == 1 else f"items {first}-{first + n - 1}"


def describe_places(numbers: list[int]) -> str:
    """Return ``items 1-3, 7`` for ascending numbers of items."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    words = ", ".join("-".join(map(str, part)) for part in parts)
    return f"item {words}" if len(numbers) == 1 else f"items {words}"


def name_of(function: Any) -> str:
    """Return ``module.name`` of any callable, also of partials, methods and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None) or type(function).__module__
    if name.endswith(".op") and getattr(function, "__name__", "op") != "op":  # the operation of a decorated function
        name = name.removesuffix(".op")
    return f"{module}.{name}"


def takes_per_item_info(op: Callable[..., Any]) -> bool:
    """Return whether the operation has a parameter for per-item information."""
    try:
        return PER_ITEM_INFO in inspect.signature(op).parameters
    except (TypeError, ValueError):  # built-in functions may have no signature
        return False


def add_note(error: BaseException, note: str) -> None:
    """Attach a line to an exception; Python 3.11 shows it below the message."""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Task:
    """An operation and the arguments that are the same for all items. Picklable; sent once to each worker."""

    op: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    iterable_arg: int | str = 0
    initializer: tuple[Any, ...] = (None, [])
    size: int = 1

    @property
    def name(self) -> str:
        """``module.function`` of the operation."""
        return name_of(self.op)

    def initialize(self) -> None:
        """Run the initializer, if there is one."""
        function, *rest = self.initializer
        if function is not None:
            args: Any = rest[0] if rest else ()
            kwargs: Any = rest[1] if len(rest) > 1 else {}
            function(*args, **kwargs)

    def run(
        self,
        first: int,
        values: list[Any],
        infos: list[dict[str, Any]] | None,
        note: Callable[[int], object] | None = None,
    ) -> list[Any]:
        """Return one result for each item (that was worked on), calling the operation on ``size`` items at a time.

        Parameters
        ----------
        first
            Number of the first item, for messages.
        values, infos
            The items and, unless None, their information.
        note
            Told the number of the first item of each call before it is made; to stop before it, it returns True.

        Raises
        ------
        RuntimeError
            The operation returned another number of results than it got items.
        """
        results: list[Any] = []
        call, size = self._caller(), self.size
        for start in range(0, len(values), size):
            if note is not None and note(first + start):
                break
            part = values[start : start + size]
            try:
                found = call(part, None if infos is None else infos[start : start + size])
            except Exception as error:
                where = describe_items(first + start, len(part))
                add_note(error, f"raised by {self.name} for {where} of its input")
                raise
            if type(found) is not list or len(found) != len(part):
                found = self._checked(found, first + start, len(part))
            results += found
        return results

    def _caller(self) -> Callable[[list[Any], list[dict[str, Any]] | None], Any]:
        """Return the operation as a function of the items of a call and, unless None, their information."""
        op, args, kwargs, at = self.op, self.args, self.kwargs, self.iterable_arg
        if isinstance(at, str):
            return lambda values, infos: op(*args, **{**kwargs, at: values}, **_named(infos))
        before, after = args[:at], args[at:]
        return lambda values, infos: (
            op(*before, values, *after, **kwargs)
            if infos is None
            else op(*before, values, *after, **kwargs, **_named(infos))
        )

    def _checked(self, results: Any, first: int, n: int) -> list[Any]:
        if results is None:
            return [None] * n
        where = f"for {describe_items(first, n)} of its input"
        if not isinstance(results, Iterable) or isinstance(results, (str, bytes, Mapping)) or _is_atoms(results):
            raise RuntimeError(
                f"{self.name} returned a {type(results).__name__} {where}; it has to return a list with one element "
                f"(Atoms, a list of Atoms, or None) for each of the {n} items that it gets, or None"
            )
        listed = list(results)
        if len(listed) != n:
            raise RuntimeError(
                f"{self.name} got {n} items and returned {len(listed)} results, {where}; it has to return one "
                "element (Atoms, a list of Atoms, or None) per item"
            )
        return listed


def _is_atoms(value: Any) -> bool:
    return hasattr(value, "get_positions")


def _named(infos: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {} if infos is None else {PER_ITEM_INFO: infos}
