"""The ring that large messages lie in: none is overwritten before it is taken, and its memory is used again."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expyre.node.serving import ring
from expyre.node.serving.ring import Ring

PAGE = 4096
CAPACITY = 1024


@pytest.fixture
def ends() -> tuple[Ring, Ring]:
    memory = memoryview(bytearray(PAGE + CAPACITY))
    return Ring(memory), Ring(memory)


@given(st.lists(st.one_of(st.integers(1, 700), st.sampled_from(["take", "retract", "retract all"])), max_size=200))
@settings(deadline=None)
def test_what_is_put_is_found(steps: list[int | str]) -> None:
    memory = memoryview(bytearray(PAGE + CAPACITY))
    mine, theirs = Ring(memory), Ring(memory)
    there: list[tuple[int, bytes]] = []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            content = bytes([number % 251]) * step
            position = mine.put([content[:10], memoryview(content)[10:]], step)
            if position is not None:
                there.append((position, content))
            else:
                assert there, "an empty ring has room"
        elif step == "take" and there:
            position, content = there.pop(0)
            theirs.done(position, len(content))
        elif step != "take" and there:
            first = 0 if step == "retract all" else len(there) - 1
            mine.retract(there[first][0])
            del there[first:]
        for position, content in there:
            assert theirs.at(position, len(content)) == content


def test_a_message_that_is_too_large_is_refused(ends: tuple[Ring, Ring]) -> None:
    assert ends[0].put([bytes(CAPACITY + 1)], CAPACITY + 1) is None
    assert ends[0].put([bytes(CAPACITY)], CAPACITY) is not None
    assert ends[0].put([b"x"], 1) is None


def test_an_empty_ring_begins_anew(ends: tuple[Ring, Ring]) -> None:
    """So that what is passed one by one always lies in the same memory."""
    for _ in range(5):
        position = ends[0].put([bytes(300)], 300)
        assert position is not None
        assert position % CAPACITY == 0
        ends[1].done(position, 300)


def test_two_processes_share_memory() -> None:
    memory = ring.make()
    to_worker, to_script = ring.share(memory)
    assert to_worker.put([b"hello"], 5) == 0
    if (pid := os.fork()) == 0:
        from_script, from_worker = ring.share(memory)
        heard = bytes(from_script.at(0, 5))
        from_script.done(0, 5)
        os._exit(0 if heard == b"hello" and from_worker.put([b"wor", b"ld!"], 6) == 0 else 1)
    os.close(memory)
    assert os.waitpid(pid, 0)[1] == 0
    assert to_script.at(0, 6) == b"world!"
    position = to_worker.put([b"again"], 5)
    assert position is not None
    assert to_worker.at(position, 5) == b"again"
