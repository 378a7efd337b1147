"""Both ends of a socket prove to each other that they know a secret, without saying it.

Each sends random bytes; each answers with an HMAC-SHA256 of both, under the secret, with its own role in it, so that an
answer cannot be sent back as one's own. Standard library only, Python 3.9.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct

__all__ = ["NotTrusted", "accept", "connect"]

_SIZE = 32
_NUMBERS = struct.Struct("<QII")  # worker, rank, size


class NotTrusted(Exception):
    """Raised when the other end does not know the secret, or does not speak like a worker."""


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise NotTrusted("the other end hung up")
        data += more
    return data


def _proof(secret: bytes, role: bytes, *what: bytes) -> bytes:
    return hmac.new(secret, b"expyre " + role + b"".join(what), hashlib.sha256).digest()


def connect(sock: socket.socket, secret: bytes, worker: int, rank: int, size: int) -> None:
    """Introduce a rank of a worker to the script.

    Raises
    ------
    NotTrusted
        The other end is not the script.
    """
    theirs = _exactly(sock, _SIZE)
    mine, numbers = os.urandom(_SIZE), _NUMBERS.pack(worker, rank, size)
    sock.sendall(mine + numbers + _proof(secret, b"worker", theirs, mine, numbers))
    if not hmac.compare_digest(_exactly(sock, _SIZE), _proof(secret, b"script", mine, theirs)):
        raise NotTrusted("the script that this worker was started for is not there")


def accept(sock: socket.socket, secret: bytes) -> tuple[int, int, int]:
    """Return worker, rank and number of ranks of who has connected.

    Raises
    ------
    NotTrusted
        The other end is no worker of this script.
    """
    mine = os.urandom(_SIZE)
    sock.sendall(mine)
    answer = _exactly(sock, _SIZE + _NUMBERS.size + _SIZE)
    theirs, numbers, proof = answer[:_SIZE], answer[_SIZE:-_SIZE], answer[-_SIZE:]
    if not hmac.compare_digest(proof, _proof(secret, b"worker", mine, theirs, numbers)):
        raise NotTrusted("somebody connected who is no worker of this script")
    sock.sendall(_proof(secret, b"script", theirs, mine))
    worker, rank, size = _NUMBERS.unpack(numbers)
    return worker, rank, size
