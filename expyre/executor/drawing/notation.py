"""Dependency graphs as text: Mermaid and Graphviz."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from expyre.executor.drawing.graph import DependencyGraph, Node

__all__ = ["STYLES", "Style", "dot", "mermaid", "printable"]


class Style(NamedTuple):
    """How calls in one state look: colours, and whether the border is dashed."""

    fill: str
    line: str
    dashed: bool = False


STYLES = {
    "pending": Style("#f2f2f2", "#7f7f7f", dashed=True),
    "running": Style("#fff1b8", "#b8860b"),
    "done": Style("#d7efdb", "#2e7d32"),
    "failed": Style("#fbd3ce", "#c62828"),
    "cancelled": Style("#e7e0f2", "#6a51a3", dashed=True),
}


def printable(text: str) -> str:
    """Return a text as one line; what cannot be printed becomes a mark of its own."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def _ids(graph: DependencyGraph) -> list[str]:
    return [f"f{place}" if node.number is None else f"c{node.number}" for place, node in enumerate(graph.nodes)]


def _used(graph: DependencyGraph) -> list[str]:
    present = {node.state for node in graph.nodes}
    return [state for state in STYLES if state in present]


def mermaid(graph: DependencyGraph) -> str:
    """Return the graph as a flowchart in the language of Mermaid."""
    ids = _ids(graph)
    lines = ["flowchart LR"]
    lines += [f"    {_mermaid_node(name, node)}" for name, node in zip(ids, graph.nodes, strict=True)]
    lines += [f"    {ids[source]} --> {ids[target]}" for source, target in graph.edges]
    lines += [f"    classDef {state} {_mermaid_style(STYLES[state])}" for state in _used(graph)]
    return "\n".join(lines) + "\n"


def _mermaid_node(name: str, node: Node) -> str:
    label = "".join(map(_mermaid_char, printable(node.label)))
    left, right = ("([", "])") if node.number is None else ("[", "]")
    return f'{name}{left}"{label}"{right}:::{node.state}'


def _mermaid_char(char: str) -> str:
    # all that Mermaid, Markdown or HTML may take for their own goes by its number
    return char if char.isalnum() or char in " _.,:" else f"#{ord(char)};"


def _mermaid_style(style: Style) -> str:
    return f"fill:{style.fill},stroke:{style.line},color:#000" + (",stroke-dasharray:4 3" if style.dashed else "")


def dot(graph: DependencyGraph) -> str:
    """Return the graph in the language of Graphviz."""
    ids = _ids(graph)
    lines = [
        "digraph calls {",
        "    rankdir=LR;",
        '    node [shape=box, style="rounded,filled", fontname="monospace", fontsize=10];',
    ]
    lines += [f"    {name} [{_dot_attributes(node)}];" for name, node in zip(ids, graph.nodes, strict=True)]
    lines += [f"    {ids[source]} -> {ids[target]};" for source, target in graph.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_attributes(node: Node) -> str:
    style = STYLES[node.state]
    attributes = {"label": node.label, "tooltip": node.state, "fillcolor": style.fill, "color": style.line}
    if style.dashed:
        attributes["style"] = "rounded,filled,dashed"
    if node.number is None:
        attributes["shape"] = "ellipse"
    return ", ".join(f"{name}={_dot_quoted(value)}" for name, value in attributes.items())


def _dot_quoted(text: str) -> str:
    # within quotes Graphviz reads backslashes and the entities of HTML
    text = printable(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
