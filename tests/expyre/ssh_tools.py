"""Ways to the server of `ssh_fixtures`, and a line between that counts, and breaks."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator

import pytest
from clusters.sshd import Sshd

from expyre.transports import OpenSSHTransport, ParamikoTransport
from expyre.transports.remote import RemoteTransport

KINDS = ("paramiko", "openssh")
SHELLS = ("tcsh", "fish", "zsh", "dash")
_NOISE = (
    """echo "Welcome to *the* cluster"; echo "quota: 17%" >&2; printf "\\377\\001<<<>>>"; """
    """sh -c "$SSH_ORIGINAL_COMMAND"; echo "Bye"; echo "logged out" >&2"""
)
LOGINS = {
    "lab": "",
    "noisy": f"ForceCommand {_NOISE}",
    "single": "MaxSessions 1",
    "nobash": 'ForceCommand PATH=@PATH@/tools; export PATH; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"',
    "refusing": "AuthorizedKeysFile none",
    "factors": "PasswordAuthentication yes\nAuthenticationMethods publickey,password",
    **{name: f'ForceCommand exec {name} -c "$SSH_ORIGINAL_COMMAND"' for name in SHELLS},
}


def way(kind: str, host: str = "lab") -> RemoteTransport:
    """Return a new way to a host of the server."""
    return ParamikoTransport(host) if kind == "paramiko" else OpenSSHTransport(host, ["ssh"])


@contextlib.contextmanager
def opened(kind: str, host: str = "lab") -> Iterator[RemoteTransport]:
    """Give a new way to a host and close it in the end."""
    transport = way(kind, host)
    try:
        yield transport
    finally:
        transport.close()


def needs(program: str) -> None:
    """Skip a test when a program is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


class Line:
    """A line between client and server.

    Parameters
    ----------
    port
        Where it leads.

    Attributes
    ----------
    port
        Where it begins.
    sent, received
        Bytes that went over it, seen from the client.
    connections
        How many there have been.
    breaks
        Each connection breaks after as many bytes as the first of these says, which is then used up.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = self.received = self.connections = 0
        self.breaks: list[int] = []
        self._pairs: list[_Pair] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the line down."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        for pair in self._pairs:
            pair.close()

    def cut(self) -> None:
        """Break the connections that there are."""
        for pair in self._pairs:
            pair.close()
        self._pairs.clear()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # nobody is there: hang up
                    client.close()
                    continue
                self._pairs.append(_Pair(self, client, server, self.breaks.pop(0) if self.breaks else None))


class _Pair:
    """One connection over the line."""

    def __init__(self, line: Line, client: socket.socket, server: socket.socket, breaks: int | None) -> None:
        self._line, self._left = line, breaks
        self._sockets = (client, server)
        for sock in self._sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = ((client, server, "sent"), (server, client, "received"))
        self.threads = [threading.Thread(target=self._pump, args=way, daemon=True) for way in ways]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """Break the connection."""
        self._shut()
        for thread in self.threads:
            thread.join(30)
        for sock in self._sockets:
            sock.close()

    def _pump(self, source: socket.socket, target: socket.socket, name: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                setattr(self._line, name, getattr(self._line, name) + len(data))
                if self._left is not None:
                    self._left -= len(data)
                    if self._left <= 0:
                        target.sendall(data[: len(data) + self._left])
                        break
                target.sendall(data)
        self._shut()

    def _shut(self) -> None:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def line_to(server: Sshd, name: str) -> Iterator[Line]:
    """Give a line to the server, which is host ``name`` for clients."""
    with Line(server.port) as line:
        server.host(name, Port=line.port)
        yield line
