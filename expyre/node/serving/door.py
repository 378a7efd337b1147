"""Where workers that commands have started come in.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tempfile
import threading
import time
from typing import Any, Callable  # noqa: UP035  (Python 3.9)

from . import handshake

__all__ = ["Door"]

_PATIENCE = 20.0  # seconds for somebody who has connected to say who he is
_PAUSE = 0.05  # seconds after it was found that no more files can be open
_MOST_WAITING = 128  # who have not said who they are

Welcome = Callable[[int, int, socket.socket], None]


class Door:
    """A listening socket of which both sides prove that they know a secret.

    However many strangers come, they keep no worker out: who has waited longest without a proof has to go.

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
    directory
        Where the socket is; None for one of the network.
    """

    def __init__(self, host: str | None) -> None:
        self.secret = os.urandom(32)
        self.directory: str | None = None
        self.address: Any
        self._waiting: dict[socket.socket, Door] = {}  # in the order in which they came
        self._lock = threading.Lock()
        if host is None:
            self._bind_to_path()
        else:
            near = host in ("localhost", "127.0.0.1")
            self.sock = socket.create_server(("127.0.0.1" if near else "", 0))
            self.address = [host, self.sock.getsockname()[1]]
        self.sock.listen(1024)
        self.sock.setblocking(False)

    def _bind_to_path(self) -> None:
        """Make a socket in a directory of its own, in one whose name is short enough for the system."""
        for place in (None, "/tmp", "/dev/shm"):
            directory = tempfile.mkdtemp(prefix="expyre-", dir=place)
            self.address = os.path.join(directory, "s")
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.bind(self.address)
            except OSError:  # too long: about 100 characters are allowed
                self.sock.close()
                shutil.rmtree(directory)
                if place == "/dev/shm":
                    raise
            else:
                self.directory = directory
                return

    def open(self, welcome: Welcome) -> None:
        """Let in who knocks, in a thread of its own; ``welcome`` gets worker, rank and socket of one who may enter."""
        try:
            sock, _ = self.sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._send_away()
                time.sleep(_PAUSE)
            return  # whoever it was has gone, or will be let in when there is room
        with self._lock:
            self._waiting[sock] = self
        if len(self._waiting) > _MOST_WAITING:
            self._send_away()
        try:
            threading.Thread(target=self._admit, args=(sock, welcome), daemon=True).start()
        except RuntimeError:  # no more threads; he will come again
            self._stops_waiting(sock)
            sock.close()

    def _send_away(self) -> None:
        """Hang up on who has waited longest."""
        with self._lock:
            first = next(iter(self._waiting), None)
            if first is None:
                return
            del self._waiting[first]
            with contextlib.suppress(OSError):
                first.shutdown(socket.SHUT_RDWR)  # his thread closes it

    def _stops_waiting(self, sock: socket.socket) -> bool:
        """Return whether somebody was still waiting, and was not sent away; he no longer is."""
        with self._lock:
            return self._waiting.pop(sock, None) is not None

    def _admit(self, sock: socket.socket, welcome: Welcome) -> None:
        try:
            sock.settimeout(_PATIENCE)
            worker, rank, _ = handshake.accept(sock, self.secret)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except (OSError, handshake.NotTrusted):
            self._stops_waiting(sock)
            sock.close()
            return
        if self._stops_waiting(sock):
            welcome(worker, rank, sock)
        else:
            sock.close()

    def close(self) -> None:
        """Let nobody in any more."""
        self.sock.close()
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
