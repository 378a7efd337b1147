"""Where the boxes of a dependency graph go: columns from left to right, few crossings, short lines."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from expyre.executor.drawing.graph import DependencyGraph, Node
from expyre.executor.drawing.notation import printable

__all__ = ["HEIGHT", "Box", "Layout", "boxes_of", "layout"]

HEIGHT = 20.0  # of a box; all lengths are in points
_CHARACTER = 6.7  # width of one, of a monospaced font of 11 points
_LONGEST = 32  # label in characters
_BETWEEN_COLUMNS = 60.0
_MARGIN = 12.0
# least distances between the middles of neighbours in a column: two boxes, a box and a line, two lines
_GAPS = {2: HEIGHT + 8, 1: HEIGHT / 2 + 6, 0: 5.0}
_SWEEPS = 8
_MOST_BENDS = 20_000


@dataclass(frozen=True)
class Box:
    """What is drawn as one box: a call, or several of one function.

    Attributes
    ----------
    label
        What is written into it.
    states
        How many calls in which state.
    inputs
        Positions of boxes, not its own.
    foreign
        Whether it is a future that another executor has made.
    """

    label: str
    states: dict[str, int]
    inputs: tuple[int, ...] = ()
    foreign: bool = False

    @property
    def text(self) -> str:
        """The label, cut if it is too long."""
        label = printable(self.label)
        return label if len(label) <= _LONGEST else f"\N{HORIZONTAL ELLIPSIS}{label[1 - _LONGEST :]}"

    @property
    def width(self) -> float:
        """Width in points."""
        return len(self.text) * _CHARACTER + 14


# ------------------------------------------------------------------------------------------- graphs of many calls


def boxes_of(graph: DependencyGraph, most: int) -> list[Box]:
    """Return the boxes of a graph.

    If there are more calls than ``most``, those of one function become one box where equally long chains lead to
    them; and if there still are more, all those of one function do.
    """
    nodes = graph.nodes
    if len(nodes) <= most:
        return [Box(each.label, {each.state: 1}, each.inputs, each.number is None) for each in nodes]
    together = _together(nodes, list(zip((_kind(node) for node in nodes), _depths(nodes), strict=True)))
    return together if len(together) <= most else _together(nodes, [_kind(node) for node in nodes])


def _kind(node: Node) -> tuple[str, bool]:
    return node.name, node.number is None


class _HasInputs(Protocol):
    @property
    def inputs(self) -> tuple[int, ...]: ...


def _depths(nodes: Sequence[_HasInputs]) -> list[int]:
    """Return of each how many others are in the longest chain that leads to it from earlier ones."""
    found: list[int] = []
    for position, node in enumerate(nodes):
        found.append(1 + max((found[source] for source in node.inputs if source < position), default=-1))
    return found


def _together(nodes: Sequence[Node], kinds: Sequence[object]) -> list[Box]:
    """Return one box for all nodes of each kind."""
    places = {kind: place for place, kind in enumerate(dict.fromkeys(kinds))}
    members: list[list[Node]] = [[] for _ in places]
    for node, kind in zip(nodes, kinds, strict=True):
        members[places[kind]].append(node)
    return [_joined(group, place, places, kinds) for place, group in enumerate(members)]


def _joined(group: list[Node], place: int, places: dict[object, int], kinds: Sequence[object]) -> Box:
    inputs = {places[kinds[source]] for node in group for source in node.inputs} - {place}
    label = group[0].label if len(group) == 1 else f"{group[0].name} \N{MULTIPLICATION SIGN} {len(group)}"
    return Box(label, dict(Counter(node.state for node in group)), tuple(sorted(inputs)), group[0].number is None)


# ---------------------------------------------------------------------------------------------------- the layout


@dataclass(frozen=True)
class Layout:
    """Where everything is, in points from the upper left corner.

    Attributes
    ----------
    width, height
        Size of the picture.
    places
        For each box its left edge and its middle from above.
    curves
        Lines that leave one point to the right and reach the other from the left: start, end, whether a box is there.
    straight
        Level lines, behind boxes of a column: start, end.
    backwards
        Curves as above that run from right to left.
    """

    width: float
    height: float
    places: list[tuple[float, float]]
    curves: list[tuple[tuple[float, float], tuple[float, float], bool]]
    straight: list[tuple[tuple[float, float], tuple[float, float]]]
    backwards: list[tuple[tuple[float, float], tuple[float, float], bool]]


def layout(boxes: Sequence[Box]) -> Layout:
    """Return where the boxes go."""
    return _Columns(boxes).layout()


class _Columns:
    """Boxes, and the bends of lines that pass columns, in columns.

    The lines that leave one box share their bends. Positions up to the number of boxes are boxes, others are bends.
    """

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = boxes
        self._column = _columns(boxes)
        self._left: defaultdict[int, list[int]] = defaultdict(list)
        self._right: defaultdict[int, list[int]] = defaultdict(list)
        self._loose: list[tuple[int, int]] = []  # lines that nothing is moved for
        self._connect()
        self._members: list[list[int]] = [[] for _ in range(max(self._column, default=-1) + 1)]
        for vertex, column in enumerate(self._column):
            self._members[column].append(vertex)
        self._y = [0.0] * len(self._column)

    def _connect(self) -> None:
        column = self._column[:]
        edges = [(source, target) for target, box in enumerate(self._boxes) for source in box.inputs]
        bends = sum(max(0, column[target] - column[source] - 1) for source, target in edges)
        chains: dict[int, list[int]] = {}
        for source, target in edges:
            span = column[target] - column[source]
            if source >= target or (span > 1 and bends > _MOST_BENDS):
                self._loose.append((source, target))
            else:
                self._link(self._end_of_chain(chains, source, span), target)

    def _end_of_chain(self, chains: dict[int, list[int]], source: int, span: int) -> int:
        """Return the last bend of the lines from a box before one that is so many columns to the right."""
        chain = chains.setdefault(source, [source])
        while len(chain) < span:
            bend = len(self._column)
            self._column.append(self._column[chain[-1]] + 1)
            self._link(chain[-1], bend)
            chain.append(bend)
        return chain[span - 1]

    def _link(self, left: int, right: int) -> None:
        self._right[left].append(right)
        self._left[right].append(left)

    # -- up and down

    def _arrange(self) -> None:
        for members in self._members:
            self._spread(members, [0.0] * len(members))
        for sweep in range(_SWEEPS):
            forward = sweep % 2 == 0
            for members in self._members if forward else self._members[::-1]:
                self._sort(members, self._left if forward else self._right)
        for sweep in range(_SWEEPS):
            for members in self._members if sweep % 2 else self._members[::-1]:
                self._spread(members, [self._wanted(vertex) for vertex in members])

    def _sort(self, members: list[int], neighbours: dict[int, list[int]]) -> None:
        wanted = {vertex: self._mean(neighbours.get(vertex, ()), self._y[vertex]) for vertex in members}
        members.sort(key=wanted.__getitem__)
        self._spread(members, [wanted[vertex] for vertex in members])

    def _wanted(self, vertex: int) -> float:
        return self._mean([*self._left.get(vertex, ()), *self._right.get(vertex, ())], self._y[vertex])

    def _mean(self, vertices: Sequence[int], default: float) -> float:
        return sum(self._y[each] for each in vertices) / len(vertices) if vertices else default

    def _spread(self, members: list[int], wanted: list[float]) -> None:
        """Give the members of a column, in order, places as near to what is wanted as their distances allow."""
        offsets = [0.0]
        for above, below in itertools.pairwise(members):
            offsets.append(offsets[-1] + _GAPS[self._is_box(above) + self._is_box(below)])
        level = _isotonic([want - offset for want, offset in zip(wanted, offsets, strict=False)])
        for vertex, base, offset in zip(members, level, offsets, strict=False):
            self._y[vertex] = base + offset

    def _is_box(self, vertex: int) -> bool:
        return vertex < len(self._boxes)

    # -- the result

    def layout(self) -> Layout:
        self._arrange()
        top = min(self._y, default=0.0) - HEIGHT / 2 - _MARGIN
        self._y = [y - top for y in self._y]
        lefts, widths = self._widths()
        return Layout(
            width=max((left + width for left, width in zip(lefts, widths, strict=True)), default=0.0) + _MARGIN,
            height=max(self._y, default=0.0) + HEIGHT / 2 + _MARGIN,
            places=[(lefts[column], y) for column, y in zip(self._column, self._y, strict=True)][: len(self._boxes)],
            curves=[self._curve(a, b, lefts, widths) for a, targets in self._right.items() for b in targets],
            straight=[self._level(v, lefts, widths) for v in range(len(self._boxes), len(self._column))],
            backwards=[self._curve(a, b, lefts, widths) for a, b in self._loose],
        )

    def _widths(self) -> tuple[list[float], list[float]]:
        lefts, widths, x = [], [], _MARGIN
        for members in self._members:
            lefts.append(x)
            widths.append(max((self._boxes[v].width for v in members if self._is_box(v)), default=0.0))
            x += widths[-1] + _BETWEEN_COLUMNS
        return lefts, widths

    def _curve(
        self, source: int, target: int, lefts: list[float], widths: list[float]
    ) -> tuple[tuple[float, float], tuple[float, float], bool]:
        column = self._column[source]
        width = self._boxes[source].width if self._is_box(source) else widths[column]
        start = (lefts[column] + width, self._y[source])
        return start, (lefts[self._column[target]], self._y[target]), self._is_box(target)

    def _level(
        self, bend: int, lefts: list[float], widths: list[float]
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        column, y = self._column[bend], self._y[bend]
        return (lefts[column], y), (lefts[column] + widths[column], y)


def _columns(boxes: Sequence[Box]) -> list[int]:
    """Return the column of each box: to the right of its inputs, and none much higher than the picture is wide."""
    tallest = max(40, math.ceil(math.sqrt(2 * len(boxes))))
    depths = _depths(boxes)
    sizes = Counter(depths)
    first, column = {}, 0
    for depth in sorted(sizes):
        first[depth] = column
        column += math.ceil(sizes[depth] / tallest)
    taken: Counter[int] = Counter()
    found = []
    for depth in depths:
        found.append(first[depth] + taken[depth] // tallest)
        taken[depth] += 1
    return found


def _isotonic(values: list[float]) -> list[float]:
    """Return the numbers that never decrease and are nearest to the given ones, by pooling adjacent violators."""
    pools: list[tuple[float, int]] = []  # sum and number
    for value in values:
        total, number = value, 1
        while pools and pools[-1][0] * number >= total * pools[-1][1]:
            before = pools.pop()
            total, number = total + before[0], number + before[1]
        pools.append((total, number))
    return [total / number for total, number in pools for _ in range(number)]
