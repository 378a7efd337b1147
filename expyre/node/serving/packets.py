"""Sockets between processes of one machine: each message is one packet, which can be taken back before it is read.

Of a large message the packet is only the header; the rest lies in a ring that both ends share or, if there is none or
no room in it, in memory that is handed over. Linux only; standard library, Python 3.9.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import socket
import struct
import sys
from typing import Any, List, Optional, Tuple  # noqa: UP035  (Python 3.9)

from .messages import HANDED_OVER, HEADER, IN_RING, Message, unpack
from .ring import Ring

MOST_IN_PACKET = 128 * 1024  # bytes
_POSITION = struct.Struct("<Q")  # in a ring
_ROOM_FOR_FD = socket.CMSG_LEN(array.array("i").itemsize)
_DONTWAIT = int(socket.MSG_DONTWAIT)  # to combine members of an enum takes longer than to receive
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))


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
            self.sock.send(_elsewhere(pieces[0], IN_RING) + _POSITION.pack(position))
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
            position = _POSITION.unpack_from(self._room, HEADER.size)[0]
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
                    first = _POSITION.unpack_from(end._room, HEADER.size)[0]
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
