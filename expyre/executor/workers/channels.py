"""The script's ends of the connections to workers; none of them ever makes the script wait."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from expyre.node.serving.messages import HEADER, Message, unpack
from expyre.node.serving.packets import Packets
from expyre.node.serving.ring import Ring
from expyre.node.serving.streams import Assembler

__all__ = ["Channel", "PacketChannel", "StreamChannel"]

_READ = 256 * 1024


class Channel(Protocol):
    """A connection to a worker, or to one of its ranks."""

    sock: socket.socket

    @property
    def waits(self) -> bool:
        """Whether something waits for room to be sent."""
        ...

    def send(self, pieces: list[Any]) -> None:
        """Send a message, as soon as there is room; nothing happens if there is nobody.

        Raises
        ------
        OSError
            It cannot be sent, for want of memory.
        """
        ...

    def flush(self) -> None:
        """Send what waits, as far as there is room now.

        Raises
        ------
        OSError
            It cannot be sent, for want of memory.
        """
        ...

    def messages(self) -> Iterator[Message]:
        """Yield what has come, until there is nothing now.

        Raises
        ------
        EOFError
            Nothing will ever come.
        """
        ...

    def take_back(self) -> list[Message]:
        """Return the messages that the worker has not taken, in order, and now never will; without their content."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class PacketChannel:
    """A connection on this machine. What the worker has not read can be taken back, since its end is held here too."""

    def __init__(self, mine: socket.socket, theirs: socket.socket, rings: tuple[Ring, Ring] | None = None) -> None:
        mine.setblocking(False)
        self.sock = mine
        self._end = Packets(mine, *(rings or ()))
        self._theirs = theirs
        self._waiting: deque[list[Any]] = deque()

    @property
    def waits(self) -> bool:
        """Whether something waits for room to be sent."""
        return bool(self._waiting)

    def send(self, pieces: list[Any]) -> None:
        """Send a message, as soon as there is room."""
        if self._waiting or not self._sent(pieces):
            self._waiting.append(pieces)

    def _sent(self, pieces: list[Any]) -> bool:
        try:
            return self._end.send(pieces)
        except ConnectionError:
            return True

    def flush(self) -> None:
        """Send what waits, as far as there is room now."""
        while self._waiting and self._sent(self._waiting[0]):
            self._waiting.popleft()

    def messages(self) -> Iterator[Message]:
        """Yield what has come; that the worker has ended is told by its keeper."""
        try:
            while (message := self._end.receive()) is not None:
                yield message
        except (BlockingIOError, ConnectionError):
            return

    def take_back(self) -> list[Message]:
        """Return the messages that the worker has not taken, in order, and now never will."""
        taken = self._end.take_back(self._theirs)
        taken += [unpack(HEADER.unpack_from(pieces[0]), None) for pieces in self._waiting]
        self._waiting.clear()
        return taken

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
        self._theirs.close()


class StreamChannel:
    """A connection to a rank that a command has started, or to a worker where there are no packets."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._assembler = Assembler()
        self._waiting: deque[memoryview] = deque()

    @property
    def waits(self) -> bool:
        """Whether something waits for room to be sent."""
        return bool(self._waiting)

    def send(self, pieces: list[Any]) -> None:
        """Send a message, as soon as there is room."""
        self._waiting.extend(memoryview(piece).cast("B") for piece in pieces)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room now."""
        try:
            while self._waiting:
                rest = self._waiting[0][self.sock.send(self._waiting[0]) :]
                if rest.nbytes:
                    self._waiting[0] = rest
                else:
                    self._waiting.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._waiting.clear()

    def messages(self) -> Iterator[Message]:
        """Yield what has come, until there is nothing now."""
        while True:
            try:
                data = self.sock.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                raise EOFError
            yield from self._assembler.feed(data)

    def take_back(self) -> list[Message]:
        """Return nothing: what has been sent cannot be taken back."""
        return []

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
