"""The dependency graph of an executor: what is noted, how it is written and drawn."""

from __future__ import annotations

import gc
import itertools
import re
import threading
import weakref
import xml.etree.ElementTree as ElementTree
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from expyre.errors import InputFailed, RequestError
from expyre.executor import Executor
from expyre.executor.drawing.graph import STATES, DependencyGraph, Node
from expyre.executor.drawing.layout import HEIGHT, boxes_of, layout

SVG = "{http://www.w3.org/2000/svg}"


def add(*values: Any) -> Any:
    return sum(values)


def fail() -> None:
    raise ValueError("no")


class Big:
    """A result that can be weakly referenced."""


def make_big() -> Big:
    return Big()


def wait_for_file(name: str) -> None:
    import time

    while not Path(name).exists():
        time.sleep(0.01)


def numbered(graph: DependencyGraph) -> list[int]:
    """Return the numbers of the calls, which count all calls of this process."""
    return [node.number for node in graph.nodes if node.number is not None]


# ------------------------------------------------------------------------------------------------------ what is noted


def test_calls_and_what_they_need_are_noted() -> None:
    with Executor(max_workers=2, plot_dependency_graph=True) as exe:
        one, two = exe.submit(add, 1), exe.submit(add, 2)
        last = exe.submit(add, one, [], two, one)
        nested = exe.submit(len, [{"a": last}, (one,)])
        wait([last, nested])
        graph = exe.dependency_graph()
    assert [node.name for node in graph.nodes] == ["add", "add", "add", "len"]
    assert graph.edges == [(0, 2), (1, 2), (2, 3), (0, 3)]
    assert graph.nodes[2].state == "failed", "a list cannot be added"
    assert [node.state for node in graph.nodes] == ["done", "done", "failed", "failed"]
    numbers = numbered(graph)
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert repr(graph) == "<DependencyGraph of 4 calls: 2 done, 2 failed>"


def test_numbers_are_those_of_messages() -> None:
    with Executor(max_workers=1, plot_dependency_graph=True) as exe:
        after = exe.submit(add, exe.submit(fail))
        with pytest.raises(InputFailed) as caught:
            after.result()
        number = numbered(exe.dependency_graph())[1]
    assert f"call {number} of add " in str(caught.value)


def test_states(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Executor(max_workers=1, max_cores=1, plot_dependency_graph=True) as exe:
        running = exe.submit(wait_for_file, str(gate))
        while not running.running():
            threading.Event().wait(0.01)
        pending, cancelled = exe.submit(add, running), exe.submit(add, running)
        foreign: Future[int] = Future()
        foreign.set_running_or_notify_cancel()
        waiting = exe.submit(add, foreign, running)
        cancelled.cancel()
        assert [node.state for node in exe.dependency_graph().nodes] == [
            "running", "pending", "cancelled", "running", "pending"
        ]  # fmt: skip
        foreign.set_result(5)
        gate.touch()
        wait([pending, waiting])
        graph = exe.dependency_graph()
    assert graph.counts == {"failed": 2, "cancelled": 1, "done": 1}, "None cannot be added"
    assert [(node.name, node.number) for node in graph.nodes if node.number is None] == [("future", None)]
    assert graph.nodes[4].inputs == (3, 0)


def test_the_state_is_known_as_soon_as_the_result_is() -> None:
    with Executor(max_workers=1, block_allocation=True, plot_dependency_graph=True) as exe:
        for _ in range(200):
            exe.submit(add, 1).result()
            assert exe.dependency_graph().nodes[-1].state == "done"


def test_names_are_short() -> None:
    with Executor(max_workers=1, block_allocation=True, plot_dependency_graph=True) as exe:
        exe.submit(partial(partial(add, 1), 2))
        exe.submit(lambda: 1)
        assert list(exe.map(add, [1, 2, 3], chunksize=2)) == [1, 2, 3]
        names = [node.name for node in exe.dependency_graph().nodes]
    assert names == ["add", "test_names_are_short.<locals>.<lambda>", "add", "add"]


def test_nothing_is_kept_alive() -> None:
    with Executor(max_workers=1, plot_dependency_graph=True) as exe:
        future = exe.submit(make_big)
        result = weakref.ref(future.result())
        handle = weakref.ref(future)
        foreign: Future[Big] = Future()
        foreign.set_result(Big())
        other = weakref.ref(foreign.result())
        exe.submit(type, foreign).result()
        del future, foreign
        exe.submit(add, 1).result()  # whatever the executor's threads had in hand is gone
        gc.collect()
        assert handle() is None
        assert result() is None
        assert other() is None
        assert [node.state for node in exe.dependency_graph().nodes] == ["done"] * 4


def test_a_call_of_which_nobody_waits_keeps_its_state() -> None:
    with Executor(max_workers=1, plot_dependency_graph=True) as exe:
        exe.submit(fail)
    gc.collect()
    assert exe.dependency_graph().counts == {"failed": 1}


def test_without_dependencies_there_are_no_edges() -> None:
    with Executor(max_workers=1, disable_dependencies=True, plot_dependency_graph=True) as exe:
        exe.submit(add, 1).result()
        exe.submit(add, 1).result()
        graph = exe.dependency_graph()
    assert (len(graph.nodes), graph.edges) == (2, [])


def test_nothing_is_noted_unless_asked_for() -> None:
    with Executor(max_workers=1) as exe:
        future = exe.submit(add, 1)
        future.result()
        assert not future._done_callbacks
        with pytest.raises(RequestError, match="plot_dependency_graph=True"):
            exe.dependency_graph()


# --------------------------------------------------------------------------------------------------------------- texts

SMALL = DependencyGraph(
    (
        Node("build", 1, "done"),
        Node("future", None, "running"),
        Node("md", 2, "failed", (0, 1)),
        Node("show", 3, "pending", (2,)),
    )
)


def test_mermaid() -> None:
    assert SMALL.mermaid() == (
        "flowchart LR\n"
        '    c1["build #35;1"]:::done\n'
        '    f1(["future"]):::running\n'
        '    c2["md #35;2"]:::failed\n'
        '    c3["show #35;3"]:::pending\n'
        "    c1 --> c2\n"
        "    f1 --> c2\n"
        "    c2 --> c3\n"
        "    classDef pending fill:#f2f2f2,stroke:#7f7f7f,color:#000,stroke-dasharray:4 3\n"
        "    classDef running fill:#fff1b8,stroke:#b8860b,color:#000\n"
        "    classDef done fill:#d7efdb,stroke:#2e7d32,color:#000\n"
        "    classDef failed fill:#fbd3ce,stroke:#c62828,color:#000\n"
    )


def test_dot() -> None:
    assert SMALL.dot() == (
        "digraph calls {\n"
        "    rankdir=LR;\n"
        '    node [shape=box, style="rounded,filled", fontname="monospace", fontsize=10];\n'
        '    c1 [label="build #1", tooltip="done", fillcolor="#d7efdb", color="#2e7d32"];\n'
        '    f1 [label="future", tooltip="running", fillcolor="#fff1b8", color="#b8860b", shape="ellipse"];\n'
        '    c2 [label="md #2", tooltip="failed", fillcolor="#fbd3ce", color="#c62828"];\n'
        '    c3 [label="show #3", tooltip="pending", fillcolor="#f2f2f2", color="#7f7f7f", '
        'style="rounded,filled,dashed"];\n'
        "    c1 -> c2;\n"
        "    f1 -> c2;\n"
        "    c2 -> c3;\n"
        "}\n"
    )


HOSTILE = 'a"b\\<x>&lt;`$y$ #quot; ]}-->\n\x00\u202eé end'


def test_hostile_names_stay_text() -> None:
    graph = DependencyGraph((Node(HOSTILE, 1, "done"),))
    mermaid = graph.mermaid().splitlines()[1]
    assert re.fullmatch(r'    c1\["(?:[\w .,:]|#\d+;)*"\]:::done', mermaid)
    read_back = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), mermaid)
    assert read_back == '    c1["a"b\\<x>&lt;`$y$ #quot; ]}--> \ufffd\ufffdé end #1"]:::done'
    assert 'label="a\\"b\\\\<x>&amp;lt;`$y$ #quot; ]}--> \ufffd\ufffdé end #1"' in graph.dot()
    document = ElementTree.fromstring(graph.svg())
    assert 'a"b\\<x>&lt;`$y$ #quot; ]}--> \ufffd\ufffdé end #1: done' in [
        each.text for each in document.iter(f"{SVG}title")
    ]


@pytest.mark.parametrize("graph", [DependencyGraph(()), SMALL], ids=["empty", "small"])
def test_notebooks_are_offered_pictures_and_text(graph: DependencyGraph) -> None:
    bundle = graph._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "text/vnd.mermaid"}
    assert bundle["text/plain"] == repr(graph)
    assert bundle["text/vnd.mermaid"] == graph.mermaid()
    assert graph.svg() in bundle["text/html"] == graph._repr_html_()


# ------------------------------------------------------------------------------------------------------------ pictures


def staged(targets: int, samplers: int) -> DependencyGraph:
    """Return a graph of targets, samplers on each of them, and a call that needs all of these."""
    numbers = itertools.count(1)
    nodes = [Node("build", next(numbers), "done") for _ in range(targets)]
    for target in range(targets):
        nodes += [Node("sample", next(numbers), STATES[k % 5], (target,)) for k in range(samplers)]
    return DependencyGraph((*nodes, Node("promote", next(numbers), "pending", tuple(range(targets, len(nodes))))))


def chain(length: int) -> DependencyGraph:
    return DependencyGraph(tuple(Node("step", i + 1, "done", (i - 1,) if i else ()) for i in range(length)))


@pytest.mark.parametrize(
    "graph", [staged(5, 6), staged(40, 8), chain(300), DependencyGraph(tuple(Node("f", i, "done") for i in range(350)))]
)
def test_boxes_do_not_overlap_and_inputs_are_to_the_left(graph: DependencyGraph) -> None:
    boxes = boxes_of(graph, 400)
    assert len(boxes) == len(graph.nodes)
    plan = layout(boxes)
    areas = [(x, x + box.width, y - HEIGHT / 2, y + HEIGHT / 2) for box, (x, y) in zip(boxes, plan.places, strict=True)]
    for (left, right, top, bottom), (left2, right2, top2, bottom2) in itertools.combinations(areas, 2):
        assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
    assert all(
        left >= 0 and right <= plan.width and top >= 0 and bottom <= plan.height for left, right, top, bottom in areas
    )
    assert all(areas[source][1] < areas[target][0] for source, target in graph.edges)
    for start, end in plan.straight:  # where lines pass a column there is no box
        for left, right, top, bottom in areas:
            assert end[0] <= left or right <= start[0] or not top < start[1] < bottom


def test_trees_are_drawn_without_crossings() -> None:
    nodes = [Node("a", i, "done") for i in range(6)]
    nodes += [Node("b", 10 + i, "done", (5 - i % 6,)) for i in range(30)]
    plan = layout(boxes_of(DependencyGraph(tuple(nodes)), 400))
    lines = [(start[1], end[1]) for start, end, _ in plan.curves]
    assert len(lines) == 30
    assert not [1 for (a, b), (c, d) in itertools.combinations(lines, 2) if (a - c) * (b - d) < 0]


def test_many_calls_are_drawn_together() -> None:
    drawn = boxes_of(staged(100, 50), 400)
    assert [box.label for box in drawn] == ["build × 100", "sample × 5000", "promote #5101"]
    assert drawn[1].states == dict.fromkeys(STATES, 1000)
    assert [box.inputs for box in drawn] == [(), (0,), (1,)]
    document = ElementTree.fromstring(staged(100, 50).svg())
    titles = [each.text for each in document.iter(f"{SVG}title")]
    assert titles[1] == "sample × 5000: 1000 pending, 1000 running, 1000 done, 1000 failed, 1000 cancelled"


def test_functions_that_call_for_each_other_are_drawn_together() -> None:
    nodes = [Node(("md", "relax")[i % 2], i + 1, "done", (i - 1,) if i else ()) for i in range(3000)]
    graph = DependencyGraph(tuple(nodes))
    assert [(box.label, box.inputs) for box in boxes_of(graph, 400)] == [("md × 1500", (1,)), ("relax × 1500", (0,))]
    assert len(layout(boxes_of(graph, 400)).backwards) == 1
    ElementTree.fromstring(graph.svg())


def test_a_picture_says_it_all() -> None:
    document = ElementTree.fromstring(SMALL.svg())
    texts = [each.text for each in document.iter(f"{SVG}text")]
    assert texts == ["1 pending", "1 done", "1 failed", "build #1", "future", "md #2", "show #3"]
    assert [each.text for each in document.iter(f"{SVG}title")] == [
        "build #1: done", "future: running", "md #2: failed", "show #3: pending"
    ]  # fmt: skip


def test_pictures_are_made_of_thousands_of_calls(tmp_path: Path) -> None:
    for name, graph in {"chain": chain(20_000), "wide": staged(1000, 20)}.items():
        for ending in ("svg", "mmd", "dot", "png"):
            graph.plot(tmp_path / f"{name}.{ending}")
            assert (tmp_path / f"{name}.{ending}").stat().st_size > 100
        assert len(graph.mermaid().splitlines()) > 2 * len(graph.nodes) - 5


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_pictures_by_matplotlib(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    graph = staged(4, 5)
    graph.plot(tmp_path / f"graph.{ending}")
    if ending == "pdf":
        assert (tmp_path / "graph.pdf").read_bytes().startswith(b"%PDF")
        return
    from matplotlib.image import imread

    image = imread(tmp_path / "graph.png")[..., :3]
    assert min(image.shape[:2]) > 300
    # the colours of states are there, and most is background
    for colour in ((0xD7, 0xEF, 0xDB), (0xFB, 0xD3, 0xCE), (0xFF, 0xF1, 0xB8)):
        assert (abs(image * 255 - colour).max(axis=2) < 2).sum() > 500
    assert (image == 1).all(axis=2).mean() > 0.5


# --------------------------------------------------------------------------------------------------- a file at the end


@pytest.mark.parametrize("ending", ["svg", "png", "mmd", "dot"])
def test_a_file_is_written_at_shutdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.chdir(tmp_path)
    with Executor(max_workers=1, plot_dependency_graph_filename=f"graph.{ending}") as exe:
        exe.submit(add, exe.submit(add, 1))
        monkeypatch.chdir("/")
    assert (tmp_path / f"graph.{ending}").stat().st_size > 100
    assert [path.name for path in tmp_path.iterdir()] == [f"graph.{ending}"]
    if ending == "mmd":
        assert (tmp_path / "graph.mmd").read_text() == exe.dependency_graph().mermaid()
        assert exe.dependency_graph().counts == {"done": 2}


@pytest.mark.parametrize("how", ["shutdown", "forgotten"])
def test_the_file_shows_the_end_also_if_nobody_waits(tmp_path: Path, how: str) -> None:
    gate, file = tmp_path / "gate", tmp_path / "graph.mmd"
    exe = Executor(max_workers=1, plot_dependency_graph_filename=str(file))
    future = exe.submit(wait_for_file, str(gate))
    if how == "shutdown":
        exe.shutdown(wait=False)
    del exe
    gc.collect()
    gate.touch()
    future.result()
    for thread in threading.enumerate():
        if thread.name.startswith("expyre-executor"):
            thread.join()
    assert ":::done" in file.read_text()


def test_mistakes_in_the_file_name_are_reported_when_the_executor_is_made(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        Executor(plot_dependency_graph_filename=str(tmp_path / "graph.sgv"), max_cores=0)
    text = str(caught.value)
    assert "must end with .dot, .mmd, .pdf, .png, .svg" in text
    assert "did you mean .svg?" in text
    assert "max_cores=0" in text
    with pytest.raises(RequestError, match=r"there is no directory .*nowhere"):
        Executor(plot_dependency_graph_filename=str(tmp_path / "nowhere" / "graph.svg"))
    with pytest.raises(ValueError, match="must end with"):
        SMALL.plot(tmp_path / "graph")


def test_a_file_that_cannot_be_written_is_said_and_costs_no_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "plots"
    directory.mkdir()
    with Executor(max_workers=1, plot_dependency_graph_filename=str(directory / "graph.svg")) as exe:
        future = exe.submit(add, 1, 2)
        directory.rmdir()
    assert future.result() == 3
    assert "the dependency graph could not be written to" in caplog.text
