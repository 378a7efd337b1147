"""Messages between a script and its workers, and the sockets that carry them.

A message is a header, a pickle, and the buffers that the pickle leaves out (large arrays: they are neither copied into
the pickle nor out of it). Between processes of one machine a message is one packet, so that what a worker has not yet
taken can be taken back whole; of a large one all but the header lies in a ring that they share, or in memory that is
handed over. Elsewhere it is part of a stream.

Standard library only, Python 3.9; cloudpickle is imported where plain pickle does not do.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import pickle
import socket
import struct
import sys
from typing import Any, List, NamedTuple, Optional, Tuple  # noqa: UP035  (Python 3.9)

from .ring import Ring

SETUP, FUNCTION, FORGET, CALL, STOP = range(1, 6)  # to workers
READY, NOT_READY, RESULT, FAILURE, UNKNOWN = range(11, 16)  # from workers; UNKNOWN: the function was never received
ONCE = 0  # token of a function that is sent again with each call

PROTOCOL = 5
HEADER = struct.Struct("<BBHIQQd")  # kind, where the rest is, buffers, token, number, length of the rest, seconds
LENGTH = struct.Struct("<Q")
MOST_IN_PACKET = 128 * 1024  # bytes
IN_PACKET, HANDED_OVER, IN_RING = range(3)  # where the rest of a message is
POSITION = struct.Struct("<Q")  # in a ring
_LEAST_LEFT_OUT = 16 * 1024  # bytes; smaller buffers are copied into the pickle
_MOST_LEFT_OUT = 1000
_FRAMED = b"\x80\x95"  # how a part of a pickle begins that is no large string of bytes: PROTO or FRAME
_ALIGNMENT = 64  # bytes, of buffers within what follows a header: vector instructions ask for no more
_ROOM_FOR_FD = socket.CMSG_LEN(array.array("i").itemsize)
_DONTWAIT = int(socket.MSG_DONTWAIT)
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))  # an enum takes longer to combine than to receive with


class Payload:
    """A pickled value.

    Attributes
    ----------
    pieces
        The pickle.
    buffers
        What it leaves out.
    by_value
        Whether code may be part of it.
    size
        Size in bytes of the pickle.
    """

    __slots__ = ("buffers", "by_value", "pieces", "size")

    def __init__(
        self, pieces: List[bytes], buffers: List[memoryview], *, by_value: bool = False  # noqa: UP006
    ) -> None:
        self.pieces = pieces
        self.buffers = buffers
        self.by_value = by_value
        self.size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))

    @property
    def data(self) -> bytes:
        """The pickle in one piece."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    @property
    def nbytes(self) -> int:
        """Size in bytes of all."""
        return self.size + sum(map(len, self.buffers))


class Message(NamedTuple):
    """A message that has come; without buffers, its pickle is only there until the next one is received."""

    kind: int
    token: int
    number: int
    seconds: float
    data: Any
    buffers: List[Any]  # noqa: UP006

    def load(self) -> Any:
        """Return the value.

        Raises
        ------
        Exception
            What its pickle raises; OSError if the memory that it lay in could not be taken over.
        """
        if self.data is None:
            raise OSError(errno.EMFILE, "a large value could not be received: too many files are open")
        return pickle.loads(self.data, buffers=self.buffers)


class _Pieces(List[bytes]):  # noqa: UP006  (Python 3.9)
    """Takes what a pickler writes; large strings of bytes come as they are, without a copy."""

    def write(self, piece: Any) -> None:
        self.append(piece if type(piece) is bytes else bytes(piece))  # a bytearray may change before it is sent


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

    pieces = _Pieces()
    try:
        pickle.Pickler(pieces, PROTOCOL, buffer_callback=keep).dump(value)
        if not _names_main(pieces) and not _by_value():
            return Payload(pieces, buffers)
    except Exception:  # cloudpickle may know how
        pass
    import cloudpickle

    buffers.clear()
    return Payload([cloudpickle.dumps(value, PROTOCOL, buffer_callback=keep)], buffers, by_value=True)


def _names_main(pieces: List[bytes]) -> bool:  # noqa: UP006
    """Return whether something of the script itself may be in a pickle, which workers do not find there."""
    for piece in pieces:  # noqa: SIM110  half the time
        if piece[0] in _FRAMED and b"__main__" in piece:
            return True
    return False


def _by_value() -> bool:
    """Return whether there are modules that are to be pickled by value (`cloudpickle.register_pickle_by_value`)."""
    cloudpickle = sys.modules.get("cloudpickle")
    return cloudpickle is not None and bool(cloudpickle.list_registry_pickle_by_value())


NOTHING = Payload([], [])


def pack(kind: int, *, token: int = 0, number: int = 0, seconds: float = 0.0, payload: Payload = NOTHING) -> list[Any]:
    """Return a message as pieces to be sent one after the other."""
    buffers = payload.buffers
    if not buffers:
        return [HEADER.pack(kind, IN_PACKET, 0, token, number, payload.size, seconds), *payload.pieces]
    lengths = (payload.size, *map(len, buffers))
    first = struct.pack(f"<{len(lengths)}Q", *lengths)
    aligned: list[Any] = []
    length = len(first) + payload.size
    for buffer in buffers:
        aligned += [bytes(-length % _ALIGNMENT), buffer]
        length += len(aligned[-2]) + len(buffer)
    header = HEADER.pack(kind, IN_PACKET, len(buffers), token, number, length, seconds)
    return [header + first, *payload.pieces, *aligned]


def unpack(header: Any, body: Any) -> Message:
    """Return the message of a header (a tuple) and what follows it, None if that is lost.

    Arrays share the memory of the latter.
    """
    kind, _, count, token, number, _, seconds = header
    if not count or body is None:
        return Message(kind, token, number, seconds, body, [])
    view = memoryview(body)
    size, *sizes = struct.unpack_from(f"<{count + 1}Q", view)
    end = (count + 1) * LENGTH.size + size
    data, buffers = view[end - size : end], []
    for size in sizes:
        end += -end % _ALIGNMENT
        buffers.append(view[end : end + size])
        end += size
    return Message(kind, token, number, seconds, data, buffers)


class Packets:
    """One end of a socket of which each packet is a message.

    Parameters
    ----------
    sock
        The end.
    outgoing, incoming
        Rings that are shared with the other end, for large messages; None if there are none.
    """

    def __init__(self, sock: socket.socket, outgoing: Optional[Ring] = None, incoming: Optional[Ring] = None) -> None:  # noqa: UP045
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)  # as much as the system allows
        self.sock = sock
        self._outgoing, self._incoming = outgoing, incoming
        self._room = bytearray(MOST_IN_PACKET + HEADER.size)
        self._view = memoryview(self._room)
        self._reading: Optional[Tuple[int, int]] = None  # noqa: UP006, UP045  (Python 3.9)

    def send(self, pieces: Any) -> bool:
        """Send a message; False if the socket does not block and has no room now.

        Raises
        ------
        OSError
            The other end is closed.
        """
        size = sum(map(len, pieces))
        try:
            small = size <= MOST_IN_PACKET and self._send_packet(pieces)
            if not small and not self._send_in_ring(pieces, size - HEADER.size):
                self._send_aside(pieces)
        except BlockingIOError:
            return False
        return True

    def _send_in_ring(self, pieces: Any, size: int) -> bool:
        """Put all but the header into the ring; False if there is no room for it."""
        if self._outgoing is None:
            return False
        position = self._outgoing.put((pieces[0][HEADER.size :], *pieces[1:]), size)
        if position is None:
            return False
        try:
            self.sock.send(_elsewhere(pieces[0], IN_RING) + POSITION.pack(position))
        except BlockingIOError:
            self._outgoing.retract(position)
            raise
        return True

    def _send_packet(self, pieces: Any) -> bool:
        """Send a message as one packet; False if the system has a lower limit for those."""
        try:
            self.sock.sendmsg(pieces)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            return False
        return True

    def _send_aside(self, pieces: Any) -> None:
        """Put all but the header into memory that is handed over."""
        memory = os.memfd_create("expyre", os.MFD_CLOEXEC)
        try:
            for piece in (memoryview(pieces[0])[HEADER.size :], *pieces[1:]):
                _write_all(memory, piece)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
            self.sock.sendmsg([_elsewhere(pieces[0], HANDED_OVER)], ancillary)
        finally:
            os.close(memory)

    def receive(self) -> Optional[Message]:  # noqa: UP045  (Python 3.9)
        """Return the next message; None if the other end is closed.

        Raises
        ------
        BlockingIOError
            The socket does not block, and there is nothing.
        """
        if self._reading is not None:
            assert self._incoming is not None
            self._incoming.done(*self._reading)
            self._reading = None
        size, memory = self._next()
        if size == 0:
            return None
        header = HEADER.unpack_from(self._room)
        if header[1] == HANDED_OVER:
            return unpack(header, None if memory is None else _taken_over(memory, header[5]))
        if header[1] == IN_RING:
            assert self._incoming is not None
            position = POSITION.unpack_from(self._room, HEADER.size)[0]
            self._reading = position, header[5]
            rest = self._incoming.at(position, header[5])
        else:
            rest = self._view[HEADER.size : size]
        return unpack(header, bytearray(rest) if header[2] else rest)

    def _next(self, flags: int = 0) -> Tuple[int, Optional[int]]:  # noqa: UP006, UP045  (Python 3.9)
        """Read a packet; return its size, and the descriptor that came with it if there is one."""
        size, ancillary, _, _ = self.sock.recvmsg_into([self._room], _ROOM_FOR_FD, flags | _CLOEXEC)
        return size, array.array("i", ancillary[0][2])[0] if ancillary else None

    def take_back(self, theirs: socket.socket) -> List[Message]:  # noqa: UP006
        """Return the messages that the other end, which is held here too, has not taken; without their content."""
        end, taken, first = Packets(theirs), [], None
        try:
            while True:
                size, memory = end._next(_DONTWAIT)
                if memory is not None:
                    os.close(memory)
                if size == 0:
                    break
                message = unpack(header := HEADER.unpack_from(end._room), None)
                if header[1] == IN_RING and first is None:
                    first = POSITION.unpack_from(end._room, HEADER.size)[0]
                taken.append(message)
        except (BlockingIOError, ConnectionError):
            pass
        if first is not None:
            assert self._outgoing is not None
            self._outgoing.retract(first)
        return taken


def _elsewhere(first: bytes, where: int) -> bytes:
    """Return the header at the beginning of a message, the rest of which is somewhere else."""
    kind, _, *rest = HEADER.unpack_from(first)
    return HEADER.pack(kind, where, *rest)


def _taken_over(memory: int, size: int) -> Any:
    """Return the content of memory that was handed over, and close its descriptor.

    Before Python 3.13 a map keeps a descriptor as long as it lives, of which a process has few; then it is copied.
    """
    try:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        if sys.version_info >= (3, 13):
            return mmap.mmap(memory, size, flags=mmap.MAP_PRIVATE, prot=access, trackfd=False)
        content = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=access)
        view, got = memoryview(content), 0
        while got < size:
            got += os.preadv(memory, [view[got:]], got)
        return content
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
