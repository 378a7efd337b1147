"""Sockets in which messages follow each other without a gap, between processes anywhere.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import socket
from typing import Any, List, Optional  # noqa: UP035  (Python 3.9)

from .messages import HEADER, Message, unpack


class Stream:
    """One end of a socket in which messages follow each other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def send(self, pieces: Any) -> bool:
        """Send a message, waiting until it is sent."""
        for piece in pieces:
            self.sock.sendall(piece)
        return True

    def receive(self) -> Optional[Message]:  # noqa: UP045  (Python 3.9)
        """Return the next message, waiting for it; None if the other end is closed."""
        head = self._read(HEADER.size)
        if head is None:
            return None
        header = HEADER.unpack(head)
        body = self._read(header[5])
        return None if body is None else unpack(header, body)

    def _read(self, size: int) -> Optional[bytearray]:  # noqa: UP045  (Python 3.9)
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            count = self.sock.recv_into(view[got:])
            if count == 0:
                return None
            got += count
        return data


class Assembler:
    """Makes messages of what comes out of a stream piece by piece, as much as there is."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._header: Any = None

    def feed(self, data: bytes) -> List[Message]:  # noqa: UP006
        """Take in what has come, and return the messages that are complete."""
        self._parts += data
        messages: list[Message] = []
        while len(self._parts) >= self._needed():
            if self._header is None:
                self._header = HEADER.unpack_from(self._take(HEADER.size))
            else:
                messages.append(unpack(self._header, self._take(self._header[5])))
                self._header = None
        return messages

    def _needed(self) -> int:
        return HEADER.size if self._header is None else int(self._header[5])

    def _take(self, size: int) -> bytearray:
        """Return the first bytes of what has come; all of it without a copy."""
        if size == len(self._parts):
            taken, self._parts = self._parts, bytearray()
        else:
            taken = self._parts[:size]
            del self._parts[:size]
        return taken
