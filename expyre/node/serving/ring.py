"""Memory that two processes share, through which large messages pass without going through the kernel.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, Optional, Sequence, Tuple  # noqa: UP035  (Python 3.9)

CAPACITY = 16 * 1024**2  # bytes each way; what does not fit is handed over in memory of its own
_PAGE = 4096
_ALIGNMENT = 64  # bytes


class Ring:
    """One way through shared memory, from one process that puts messages into it to another that takes them in order.

    Where a message lies is told otherwise, in the order in which they were put. Positions count all bytes that there
    ever were. The taker leaves in the memory itself how far it is; nobody else writes that.
    """

    def __init__(self, memory: memoryview) -> None:
        self._done = memory[: 8].cast("Q")
        self._data = memory[_PAGE:]
        self._capacity = len(self._data)
        self._head = self._empty_at = 0

    def put(self, pieces: Sequence[Any], size: int) -> Optional[int]:  # noqa: UP045  (Python 3.9)
        """Put a message and return its position; None if there is no room for it."""
        done = max(self._done[0], self._empty_at)
        if done == self._head:  # from the beginning: that memory is in the processor's cache
            done = self._head = self._empty_at = -(-done // self._capacity) * self._capacity
        start, offset = self._head, self._head % self._capacity
        if offset + size > self._capacity:
            start, offset = start + self._capacity - offset, 0
        if start + size - done > self._capacity:
            return None
        self._head = start + -(-size // _ALIGNMENT) * _ALIGNMENT
        for piece in pieces:
            end = offset + len(piece)
            self._data[offset:end] = piece
            offset = end
        return start

    def retract(self, position: int) -> None:
        """Forget the message at a position, which was not taken, and those after it."""
        self._head = position

    def at(self, position: int, size: int) -> memoryview:
        """Return a message, which is there until `done`."""
        offset = position % self._capacity
        return self._data[offset : offset + size]

    def done(self, position: int, size: int) -> None:
        """Say that a message, and all before it, are needed no more."""
        self._done[0] = position + -(-size // _ALIGNMENT) * _ALIGNMENT


def make() -> int:
    """Return a descriptor of memory for two rings, which takes no room until it is used.

    Raises
    ------
    OSError
        There are too many open files.
    """
    memory = os.memfd_create("expyre", os.MFD_CLOEXEC)
    os.ftruncate(memory, 2 * (_PAGE + CAPACITY))
    return memory


def share(memory: int) -> Tuple[Ring, Ring]:  # noqa: UP006  (Python 3.9)
    """Return the rings in memory by its descriptor, which may be closed then: from the script, and to it."""
    view = memoryview(mmap.mmap(memory, 2 * (_PAGE + CAPACITY)))
    half = len(view) // 2
    return Ring(view[:half]), Ring(view[half:])
