"""Messages between a script and its workers.

A message is a header, a pickle, and the buffers that the pickle leaves out (large arrays: they are neither copied into
the pickle nor out of it).

Standard library only, Python 3.9; cloudpickle is imported where plain pickle does not do.
"""

from __future__ import annotations

import errno
import pickle
import struct
import sys
from typing import Any, List, NamedTuple  # noqa: UP035  (Python 3.9)

SETUP, FUNCTION, FORGET, CALL, STOP = range(1, 6)  # to workers
READY, NOT_READY, RESULT, FAILURE, UNKNOWN = range(11, 16)  # from workers; UNKNOWN: the function was never received
ONCE = 0  # token of a function that is sent again with each call

PROTOCOL = 5
HEADER = struct.Struct("<BBHIQQd")  # kind, where the rest is, buffers, token, number, length of the rest, seconds
LENGTH = struct.Struct("<Q")
HERE, HANDED_OVER, IN_RING = range(3)  # where the rest of a message is: behind its header, or as `packets` says
_LEAST_LEFT_OUT = 16 * 1024  # bytes; smaller buffers are copied into the pickle
_MOST_LEFT_OUT = 1000
_FRAMED = b"\x80\x95"  # how a part of a pickle begins that is no large string of bytes: PROTO or FRAME
_ALIGNMENT = 64  # bytes, of buffers within what follows a header: vector instructions ask for no more


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
        return [HEADER.pack(kind, HERE, 0, token, number, payload.size, seconds), *payload.pieces]
    lengths = (payload.size, *map(len, buffers))
    first = struct.pack(f"<{len(lengths)}Q", *lengths)
    aligned: list[Any] = []
    length = len(first) + payload.size
    for buffer in buffers:
        aligned += [bytes(-length % _ALIGNMENT), buffer]
        length += len(aligned[-2]) + len(buffer)
    header = HEADER.pack(kind, HERE, len(buffers), token, number, length, seconds)
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
