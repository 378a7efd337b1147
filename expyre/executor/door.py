"""Where workers that commands have started come in."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from expyre.node.serving import handshake

__all__ = ["Door"]

_PATIENCE = 20.0  # seconds for somebody who has connected to say who he is


class Door:
    """A listening socket of which both sides prove that they know a secret.

    Parameters
    ----------
    host
        Name of this machine for the workers, if they may be on others; None if all are on this one, where a socket in a
        directory of the user's own will do and nobody else can even connect.

    Attributes
    ----------
    sock
        Becomes readable when somebody knocks; see `open`.
    address, secret
        What a worker has to know.
    """

    def __init__(self, host: str | None) -> None:
        self.secret = os.urandom(32)
        self._directory: str | None = None
        self.address: Any
        if host is None:
            self._directory = tempfile.mkdtemp(prefix="expyre-")
            self.address = os.path.join(self._directory, "s")
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(self.address)
        else:
            near = host in ("localhost", "127.0.0.1")
            self.sock = socket.create_server(("127.0.0.1" if near else "", 0))
            self.address = [host, self.sock.getsockname()[1]]
        self.sock.listen(1024)
        self.sock.setblocking(False)

    def open(self, welcome: Callable[[int, int, socket.socket], None]) -> None:
        """Let in who knocks, in a thread of its own; ``welcome`` gets worker, rank and socket of one who may enter."""
        with contextlib.suppress(BlockingIOError):
            sock, _ = self.sock.accept()
            threading.Thread(target=self._admit, args=(sock, welcome), daemon=True).start()

    def _admit(self, sock: socket.socket, welcome: Callable[[int, int, socket.socket], None]) -> None:
        try:
            sock.settimeout(_PATIENCE)
            worker, rank, _ = handshake.accept(sock, self.secret)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except (OSError, handshake.NotTrusted):
            sock.close()
        else:
            welcome(worker, rank, sock)

    def close(self) -> None:
        """Let nobody in any more."""
        self.sock.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
