"""Which call of an executor needs the results of which: noted while they are submitted, shown when asked for."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expyre.executor.calls import Call, name_of

__all__ = ["STATES", "DependencyGraph", "Node", "Record", "label_of"]

STATES = ("pending", "running", "done", "failed", "cancelled")
_FOREIGN = "future"  # what a future is called that another executor has made


@dataclass(frozen=True)
class Node:
    """A call, or a future that somebody else has made and a call needs.

    Attributes
    ----------
    name
        Name of the function; of foreign futures ``future``.
    number
        Number of the call, as in messages; None for foreign futures.
    state
        One of ``pending``, ``running``, ``done``, ``failed`` and ``cancelled``.
    inputs
        Positions of the nodes in the graph whose results it needs.
    """

    name: str
    number: int | None
    state: str
    inputs: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """Name and number."""
        return self.name if self.number is None else f"{self.name} #{self.number}"


@dataclass(frozen=True)
class DependencyGraph:
    """Calls and what they need, at one moment.

    Notebooks show it as a picture.

    Attributes
    ----------
    nodes
        In the order of submission, so that inputs come before what needs them.
    """

    nodes: tuple[Node, ...]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Pairs of positions: the second needs the result of the first."""
        return [(source, target) for target, node in enumerate(self.nodes) for source in node.inputs]

    @property
    def counts(self) -> dict[str, int]:
        """How many calls are in each state, those of others not counted; states without any are left out."""
        found = Counter(node.state for node in self.nodes if node.number is not None)
        return {state: found[state] for state in STATES if found[state]}

    def mermaid(self) -> str:
        """Return the graph as a flowchart in the language of Mermaid."""
        from expyre.executor.drawing.notation import mermaid

        return mermaid(self)

    def dot(self) -> str:
        """Return the graph in the language of Graphviz."""
        from expyre.executor.drawing.notation import dot

        return dot(self)

    def svg(self) -> str:
        """Return a picture of the graph: layers from left to right, coloured by state.

        Of more than 400 calls those of one function are drawn as one box where they need equally long chains of
        others; if there are still more, all calls of one function are.
        """
        from expyre.executor.drawing.draw import svg

        return svg(self)

    def plot(self, filename: str | Path) -> None:
        """Write the graph to a file.

        Parameters
        ----------
        filename
            Its ending says what is written: ``.svg``, ``.png`` and ``.pdf`` a picture (the last two by matplotlib,
            extra ``plot``), ``.mmd`` the text of `mermaid`, ``.dot`` that of `dot`.

        Raises
        ------
        ValueError
            Another ending, a directory that does not exist, or no matplotlib.
        """
        from expyre.executor.drawing.draw import check_filename, write

        write(self, check_filename(filename))

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.counts.items())
        return f"<DependencyGraph of {sum(self.counts.values())} calls" + (f": {counts}>" if counts else ">")

    def _repr_html_(self) -> str:
        return f'<div style="overflow: auto; max-height: 50em">{self.svg()}</div>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return what notebooks may show; those that know none of it show the text."""
        return {"text/plain": repr(self), "text/html": self._repr_html_(), "text/vnd.mermaid": self.mermaid()}


class _Noted:
    """A future that was seen; it, and with it its result, may go at any time."""

    __slots__ = ("end", "future", "inputs", "name", "number")

    def __init__(self, name: str, number: int | None, future: Future[Any], inputs: tuple[int, ...]) -> None:
        self.name = name
        self.number = number
        self.inputs = inputs
        self.end: str | None = None
        self.future = weakref.ref(future)
        future.add_done_callback(self.note_end)

    def note_end(self, future: Future[Any]) -> None:
        """Remember how it has ended; called once it has."""
        self.end = _state(future)

    def node(self) -> Node:
        # threads that wait for a result go on before callbacks are called, so the future knows it first
        future = self.future()
        state = self.end or (_state(future) if future is not None else "pending")
        return Node(self.name, self.number, state, self.inputs)


def _state(future: Future[Any]) -> str:
    if not future.done():
        return "running" if future.running() else "pending"
    if future.cancelled():
        return "cancelled"
    return "done" if future.exception() is None else "failed"


class Record:
    """Notes calls as they are submitted, without keeping them or their results alive."""

    def __init__(self) -> None:
        self._noted: list[_Noted] = []
        self._positions: weakref.WeakKeyDictionary[Future[Any], int] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def add(self, call: Call, name: str, inputs: Iterable[Future[Any]]) -> None:
        """Note a call, and the futures that it needs."""
        with self._lock:
            positions = tuple([self._position(future) for future in inputs])
            self._note(call.future, name, call.number, positions)

    def _position(self, future: Future[Any]) -> int:
        found = self._positions.get(future)
        return self._note(future, _FOREIGN, None, ()) if found is None else found

    def _note(self, future: Future[Any], name: str, number: int | None, inputs: tuple[int, ...]) -> int:
        self._positions[future] = position = len(self._noted)
        self._noted.append(_Noted(name, number, future, inputs))
        return position

    def graph(self) -> DependencyGraph:
        """Return what is known now."""
        with self._lock:
            noted = self._noted[:]
        return DependencyGraph(tuple([each.node() for each in noted]))


def label_of(function: Callable[..., Any]) -> str:
    """Return a short name of whatever was submitted."""
    while isinstance(function, functools.partial):
        function = function.func
    return name_of(function) if hasattr(function, "__qualname__") else type(function).__qualname__
