"""Messages between a script and its workers, and the sockets that carry them.

A message is a header, a pickle, and the buffers that the pickle leaves out (large arrays: they are neither copied into
the pickle nor out of it). Between processes of one machine a message is one packet, so that what a worker has not yet
taken can be taken back whole; one that is too large for a packet lies in memory that is handed over. Elsewhere it is
part of a stream.

Standard library only, Python 3.9; cloudpickle is imported where plain pickle does not do.
"""

from __future__ import annotations

import array
import mmap
import os
import pickle
import socket
import struct
from typing import Any, List, NamedTuple, Optional  # noqa: UP035  (Python 3.9)

SETUP, FUNCTION, FORGET, CALL, STOP = range(1, 6)  # to workers
READY, NOT_READY, RESULT, FAILURE = range(11, 15)  # from workers

PROTOCOL = 5
HEADER = struct.Struct("<BBHIQQd")  # kind, is it elsewhere, buffers, token, number, length of the rest, seconds
LENGTH = struct.Struct("<Q")
MOST_IN_PACKET = 128 * 1024  # bytes
_LEAST_LEFT_OUT = 16 * 1024  # bytes; smaller buffers are copied into the pickle
_MOST_LEFT_OUT = 1000
_FD = array.array("i").itemsize


class Payload(NamedTuple):
    """A pickled value: the pickle, and the buffers that it leaves out."""

    data: bytes
    buffers: List[memoryview]  # noqa: UP006

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)


class Message(NamedTuple):
    """A message that has come."""

    kind: int
    token: int
    number: int
    seconds: float
    data: Any
    buffers: List[Any]  # noqa: UP006

    def load(self) -> Any:
        """Return the value."""
        return pickle.loads(self.data, buffers=self.buffers)


def dump(value: Any) -> Payload:
    """Pickle a value; functions and classes of the script itself, lambdas and closures by value.

    Raises
    ------
    Exception
        What cloudpickle raises for something that has no pickle.
    """
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < _LEAST_LEFT_OUT or len(buffers) >= _MOST_LEFT_OUT:
            return True
        buffers.append(raw)
        return False

    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=keep)
        if b"__main__" not in data:
            return Payload(data, buffers)
    except Exception:
        pass
    import cloudpickle

    buffers.clear()
    data = cloudpickle.dumps(value, PROTOCOL, buffer_callback=keep)
    return Payload(data, buffers)


NOTHING = Payload(b"", [])


def pack(kind: int, *, token: int = 0, number: int = 0, seconds: float = 0.0, payload: Payload = NOTHING) -> list[Any]:
    """Return a message as pieces to be sent one after the other."""
    data, buffers = payload
    if not buffers:
        return [HEADER.pack(kind, 0, 0, token, number, len(data), seconds) + data]
    lengths = b"".join(LENGTH.pack(buffer.nbytes) for buffer in buffers)
    length = len(lengths) + payload.nbytes
    return [HEADER.pack(kind, 0, len(buffers), token, number, length, seconds) + lengths + data, *buffers]


def unpack(header: Any, body: Any) -> Message:
    """Return the message of a header (a tuple) and what follows it; arrays share the memory of the latter."""
    kind, _, count, token, number, length, seconds = header
    if not count:
        return Message(kind, token, number, seconds, body, [])
    view = memoryview(body)
    lengths = struct.unpack_from(f"<{count}Q", view)
    start, end = count * LENGTH.size, length - sum(lengths)
    data, buffers = view[start:end], []
    for size in lengths:
        buffers.append(view[end : end + size])
        end += size
    return Message(kind, token, number, seconds, data, buffers)


class Packets:
    """One end of a socket of which each packet is a message."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._room = bytearray(MOST_IN_PACKET + HEADER.size)
        self._view = memoryview(self._room)

    def send(self, pieces: Any) -> bool:
        """Send a message; False if the socket does not block and has no room now.

        Raises
        ------
        OSError
            The other end is closed.
        """
        size = sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in pieces)
        try:
            if size <= MOST_IN_PACKET:
                self.sock.send(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            else:
                self._send_aside(pieces)
        except BlockingIOError:
            return False
        return True

    def _send_aside(self, pieces: Any) -> None:
        """Put all but the header into memory that is handed over."""
        kind, _, *rest = HEADER.unpack_from(pieces[0])
        memory = os.memfd_create("expyre", os.MFD_CLOEXEC)
        try:
            for piece in (memoryview(pieces[0])[HEADER.size :], *pieces[1:]):
                _write_all(memory, piece)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
            self.sock.sendmsg([HEADER.pack(kind, 1, *rest)], ancillary)
        finally:
            os.close(memory)

    def receive(self, flags: int = 0) -> Optional[Message]:  # noqa: UP045  (Python 3.9)
        """Return the next message; None if the other end is closed.

        Raises
        ------
        BlockingIOError
            The socket does not block, or ``flags`` say so, and there is nothing.
        """
        size, ancillary, _, _ = self.sock.recvmsg_into([self._room], socket.CMSG_LEN(_FD), flags)
        if size == 0:
            return None
        header = HEADER.unpack_from(self._room)
        if not header[1]:
            rest = self._view[HEADER.size : size]
            return unpack(header, bytearray(rest) if header[2] else bytes(rest))
        memory = array.array("i", ancillary[0][2])[0]
        try:
            return unpack(header, mmap.mmap(memory, header[5], mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
        finally:
            os.close(memory)


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
    while view.nbytes:
        view = view[os.write(fd, view) :]


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
