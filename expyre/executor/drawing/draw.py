"""Pictures of dependency graphs: SVG by itself, PNG and PDF by matplotlib."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import Any

from expyre.executor.drawing.graph import DependencyGraph
from expyre.executor.drawing.layout import HEIGHT, Box, Layout, boxes_of, layout
from expyre.executor.drawing.notation import STYLES, Style, printable

__all__ = ["check_filename", "svg", "write"]

_MOST = 400  # boxes of single calls in a picture
_LEGEND = 26.0  # height
_MOST_PIXELS = 30_000  # of a side; matplotlib takes 65536
_NEED_MATPLOTLIB = (".png", ".pdf")

Point = tuple[float, float]


def check_filename(filename: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file that a graph can be written to.

    Raises
    ------
    ValueError
        The ending is not known, the directory does not exist, or matplotlib, which is needed, is not there.
    """
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(filename))))
    ending = path.suffix.lower()
    if ending not in _WRITERS:
        near = get_close_matches(ending, _WRITERS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"must end with {', '.join(sorted(_WRITERS))}, which says what is written{hint}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no directory {path.parent}")
    if ending in _NEED_MATPLOTLIB and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{ending} needs matplotlib (pip install matplotlib); .svg, .mmd and .dot need nothing")
    return path


def write(graph: DependencyGraph, path: Path) -> None:
    """Write a graph to a file, in the format that its ending stands for; nobody sees half of it."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        _WRITERS[path.suffix.lower()](graph, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_text(text: Callable[[DependencyGraph], str]) -> Callable[[DependencyGraph, Path], None]:
    def write_it(graph: DependencyGraph, path: Path) -> None:
        path.write_text(text(graph), encoding="utf-8")

    return write_it


# --------------------------------------------------------------------------------------------------------- common


def _style(box: Box) -> Style:
    return STYLES[next(iter(box.states))] if len(box.states) == 1 else Style("#ffffff", "#404040")


def _parts(box: Box) -> list[tuple[str, float, float]]:
    """Return where the bar of a box begins and ends, as parts of its width, for each state if there are several."""
    if len(box.states) == 1:
        return []
    total, done, found = sum(box.states.values()), 0, []
    for state in STYLES:
        if state in box.states:
            found.append((state, done / total, (done + box.states[state]) / total))
            done += box.states[state]
    return found


def _states_of(box: Box) -> str:
    if sum(box.states.values()) == 1:
        return next(iter(box.states))
    return ", ".join(f"{box.states[state]} {state}" for state in STYLES if state in box.states)


def _legend(graph: DependencyGraph) -> list[tuple[str, str]]:
    """Return states and what is said of them."""
    return [(state, f"{number} {state}") for state, number in graph.counts.items()]


def _controls(start: Point, end: Point) -> tuple[Point, Point]:
    """Return the control points of a curve that leaves and arrives level."""
    reach = max(20.0, abs(end[0] - start[0]) / 2)
    return (start[0] + reach, start[1]), (end[0] - reach, end[1])


# ------------------------------------------------------------------------------------------------------------ SVG


def svg(graph: DependencyGraph) -> str:
    """Return the picture as a document of SVG that needs nothing else."""
    boxes = boxes_of(graph, _MOST)
    plan = layout(boxes)
    legend = _svg_legend(graph)
    width, height = max(plan.width, 120.0 * len(graph.counts) + 24), plan.height + _LEGEND
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="11">'
    )
    lines = [f'<g transform="translate(0 {_LEGEND:.0f})">', *_svg_lines(plan), *_svg_boxes(boxes, plan), "</g>"]
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([head, background, *legend, *lines, "</svg>"]) + "\n"


def _svg_legend(graph: DependencyGraph) -> list[str]:
    return [
        f'<g transform="translate({12 + 120 * place} 8)">{_svg_rect(0, 0, 14, 14, STYLES[state])}'
        f'<text x="20" y="11">{text}</text></g>'
        for place, (state, text) in enumerate(_legend(graph))
    ]


def _svg_rect(x: float, y: float, width: float, height: float, style: Style, radius: float = 3) -> str:
    dashes = ' stroke-dasharray="4 3"' if style.dashed else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}" '
        f'fill="{style.fill}" stroke="{style.line}"{dashes}/>'
    )


def _svg_lines(plan: Layout) -> list[str]:
    curves = [_svg_curve(start, end) for start, end, _ in plan.curves]
    level = [f"M{a[0]:.1f} {a[1]:.1f}H{b[0]:.1f}" for a, b in plan.straight]
    back = [_svg_curve(start, end) for start, end, _ in plan.backwards]
    heads = [_svg_head(end) for _, end, at_box in [*plan.curves, *plan.backwards] if at_box]
    return [
        f'<path d="{"".join([*curves, *level])}" fill="none" stroke="#606060" stroke-opacity="0.6"/>',
        f'<path d="{"".join(back)}" fill="none" stroke="#606060" stroke-opacity="0.6" stroke-dasharray="2 3"/>',
        f'<path d="{"".join(heads)}" fill="#606060"/>',
    ]


def _svg_curve(start: Point, end: Point) -> str:
    (x1, y1), (x2, y2) = _controls(start, end)
    return f"M{start[0]:.1f} {start[1]:.1f}C{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f} {end[0]:.1f} {end[1]:.1f}"


def _svg_head(end: Point) -> str:
    return f"M{end[0]:.1f} {end[1]:.1f}l-6 -3v6z"


def _svg_boxes(boxes: list[Box], plan: Layout) -> list[str]:
    return [_svg_box(box, x, y) for box, (x, y) in zip(boxes, plan.places, strict=True)]


def _svg_box(box: Box, x: float, y: float) -> str:
    radius = HEIGHT / 2 if box.foreign else 4
    bar = [
        f'<rect x="{x + left * box.width:.1f}" y="{y + HEIGHT / 2 - 4:.1f}" width="{(right - left) * box.width:.1f}" '
        f'height="4" fill="{STYLES[state].line}"/>'
        for state, left, right in _parts(box)
    ]
    text = f'<text x="{x + box.width / 2:.1f}" y="{y + 3.5:.1f}" text-anchor="middle">{escape(box.text)}</text>'
    title = f"<title>{escape(printable(box.label))}: {_states_of(box)}</title>"
    rect = _svg_rect(x, y - HEIGHT / 2, box.width, HEIGHT, _style(box), radius)
    return f"<g>{title}{rect}{''.join(bar)}{text}</g>"


# ----------------------------------------------------------------------------------------------------- matplotlib


def _write_picture(graph: DependencyGraph, path: Path) -> None:
    """Write the picture as PNG or PDF."""
    from matplotlib.figure import Figure

    boxes = boxes_of(graph, _MOST)
    plan = layout(boxes)
    width, height = max(plan.width, 120.0 * len(graph.counts) + 24), plan.height + _LEGEND
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(plan.height, -_LEGEND))
    axes.set_axis_off()
    _draw_lines(axes, plan)
    for box, place in zip(boxes, plan.places, strict=True):
        _draw_box(axes, box, *place)
    for position, (state, text) in enumerate(_legend(graph)):
        _draw_rect(axes, 12 + 120 * position, 8 - _LEGEND, 14, 14, STYLES[state], 3)
        axes.text(32 + 120 * position, 15 - _LEGEND, text, size=11, va="center", family="monospace")
    figure.savefig(path, dpi=min(144.0, _MOST_PIXELS * 72 / max(width, height)))


def _draw_lines(axes: Any, plan: Layout) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Line

    def add(lines: list[Line], dashes: str) -> None:
        if lines:
            joined = Line.make_compound_path(*lines)
            axes.add_patch(PathPatch(joined, fill=False, edgecolor="#606060", alpha=0.6, linestyle=dashes))

    curve = [Line.MOVETO, Line.CURVE4, Line.CURVE4, Line.CURVE4]
    curves = [Line([a, *_controls(a, b), b], curve) for a, b, _ in plan.curves]
    add(curves + [Line([a, b]) for a, b in plan.straight], "-")
    add([Line([a, *_controls(a, b), b], curve) for a, b, _ in plan.backwards], ":")
    heads = [Line([(x, y), (x - 6, y - 3), (x - 6, y + 3), (x, y)]) for _, (x, y), at_box in plan.curves if at_box]
    if heads:
        axes.add_patch(PathPatch(Line.make_compound_path(*heads), facecolor="#606060", linewidth=0))


def _draw_box(axes: Any, box: Box, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    _draw_rect(axes, x, y - HEIGHT / 2, box.width, HEIGHT, _style(box), HEIGHT / 2 if box.foreign else 4)
    for state, left, right in _parts(box):
        start = (x + left * box.width, y + HEIGHT / 2 - 4)
        axes.add_patch(Rectangle(start, (right - left) * box.width, 4, color=STYLES[state].line, linewidth=0))
    # no mathematics: a dollar is a dollar
    axes.text(
        x + box.width / 2, y, box.text, size=11, ha="center", va="center", family="monospace", parse_math=False
    )  # fmt: skip


def _draw_rect(axes: Any, x: float, y: float, width: float, height: float, style: Style, radius: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    dashes = "--" if style.dashed else "-"
    look: dict[str, Any] = {"facecolor": style.fill, "edgecolor": style.line, "linestyle": dashes}
    axes.add_patch(FancyBboxPatch((x, y), width, height, f"round,pad=0,rounding_size={radius}", **look))


_WRITERS: dict[str, Callable[[DependencyGraph, Path], None]] = {
    ".svg": _write_text(svg),
    ".mmd": _write_text(DependencyGraph.mermaid),
    ".dot": _write_text(DependencyGraph.dot),
    ".png": _write_picture,
    ".pdf": _write_picture,
}
