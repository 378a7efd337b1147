"""Connections to hosts without the ssh program: sockets, proxies, jump hosts, host keys, log in."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from expyre.errors import TransportError
from expyre.transports.hostkeys import KnownKeys
from expyre.transports.logins import log_in
from expyre.transports.sshconfig import Target, target
from expyre.transports.talk import NotStarted

if TYPE_CHECKING:
    import paramiko

__all__ = ["Connection", "connected"]

# What goes wrong with connections is raised; without this it would also be written to the terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
# Seconds for a loaded host to say the next word of its greeting.
_PATIENCE = 60.0
_MOST_JUMPS = 8
# Seconds after which what the other side does not acknowledge means that the connection is dead.
_DEAD = 60


@dataclass
class Connection:
    """An open connection and those it goes through.

    Attributes
    ----------
    opening
        To be held while a session is opened: paramiko mixes up the refusals of several.
    """

    transport: paramiko.Transport
    through: list[Connection] = field(default_factory=list)
    proxy: subprocess.Popen[bytes] | None = None
    opening: threading.Lock = field(default_factory=threading.Lock)

    @property
    def alive(self) -> bool:
        """Tell whether commands can be sent."""
        return self.transport.is_active()

    def close(self) -> None:
        """Close it, and those it goes through."""
        self.transport.close()
        if self.proxy is not None:
            self.proxy.kill()
            self.proxy.wait()
        for connection in self.through:
            connection.close()


def connected(host: str) -> Connection:
    """Return an open connection on which the user has logged in.

    Parameters
    ----------
    host
        ``[user@]host``.

    Raises
    ------
    TransportError
        There is none; tells whether it is worth another try.
    """
    return _reached(target(host), 0)


def _reached(host: Target, depth: int) -> Connection:
    if depth > _MOST_JUMPS:
        raise TransportError(f"the jump hosts (ProxyJump) before {host} go round in circles", transient=False)
    way: Connection | None = None
    proxy: subprocess.Popen[bytes] | None = None
    with _undone() as undo, _named(host):
        if host.proxy_jump:
            way = _jumped(host.proxy_jump, depth + 1)
            undo.callback(way.close)
            sock: Any = _channel(way, host)
        elif host.proxy_command:
            sock, proxy = _commanded(host.proxy_command)
            undo.callback(proxy.wait)
            undo.callback(proxy.kill)
        else:
            sock = _socket(host)
        undo.callback(sock.close)
        return Connection(_logged_in(sock, host, undo), [way] if way is not None else [], proxy)


@contextlib.contextmanager
def _undone() -> Iterator[contextlib.ExitStack]:
    """Yield a stack that is unwound only when something goes wrong."""
    with contextlib.ExitStack() as stack:
        yield stack
        stack.pop_all()


@contextlib.contextmanager
def _named(host: Target) -> Iterator[None]:
    """Turn all that goes wrong with a connection into errors that name the host."""
    import paramiko

    try:
        yield
    except socket.gaierror as error:
        known = error.errno == socket.EAI_NONAME
        raise NotStarted(f"cannot find {host} ({host.hostname}): {error.strerror}", transient=not known) from error
    except paramiko.ssh_exception.IncompatiblePeer as error:
        message = f'{host} and paramiko have no common way to speak: {error}. Set "transport": "openssh" for the system'
        raise NotStarted(message, transient=False) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        place = f"{host} ({host.hostname} port {host.port})"
        raise NotStarted(f"cannot connect to {place}: {error or type(error).__name__}") from error


def _socket(host: Target) -> socket.socket:
    sock = socket.create_connection((host.hostname, host.port), timeout=host.connect_timeout)
    # Without it every short message waits 40 ms for an acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD * 1000)
    return sock


def _commanded(command: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Return a socket to a command of the user's configuration that goes there."""
    ours, theirs = socket.socketpair()
    with theirs:
        proxy = subprocess.Popen(["/bin/sh", "-c", f"exec {command}"], stdin=theirs.fileno(), stdout=theirs.fileno())
    return ours, proxy


def _jumped(jumps: str, depth: int) -> Connection:
    """Return a connection to the last of some jump hosts, through those before it."""
    *before, last = jumps.rsplit(",", 1)
    host = _jump(last)
    if before:
        host = replace(host, proxy_jump=before[0], proxy_command="")
    return _reached(host, depth)


def _jump(words: str) -> Target:
    """Return a jump host: ``[user@]host[:port]``, also as an address of the kind ``ssh://``."""
    user, _, place = words.removeprefix("ssh://").rpartition("@")
    name, colon, port = place.rpartition(":")
    if not colon or not port.isdigit() or (":" in name and not name.startswith("[")):
        name, port = place, ""
    return target(name.strip("[]")).at(user or None, int(port) if port else None)


def _channel(way: Connection, host: Target) -> paramiko.Channel:
    return way.transport.open_channel(
        "direct-tcpip", (host.hostname, host.port), ("127.0.0.1", 0), timeout=host.connect_timeout
    )


def _logged_in(sock: Any, host: Target, undo: contextlib.ExitStack) -> paramiko.Transport:
    import paramiko

    transport = paramiko.Transport(sock)
    undo.callback(transport.close)
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = _PATIENCE
    known = KnownKeys(host)
    _prefer(transport, known.kinds)
    transport.start_client(timeout=_PATIENCE)
    key = transport.get_remote_server_key()
    known.check(key.get_name(), key.asbytes())
    log_in(transport, host)
    threading.Thread(target=_watch, args=(transport, host), daemon=True).start()
    return transport


def _watch(transport: paramiko.Transport, host: Target) -> None:
    """Ask now and then whether the other side is still there; close the connection when it does not answer."""
    while not _ended(transport, host.alive_interval):
        alarm = threading.Timer(host.alive_interval * host.alive_count, transport.close)
        alarm.daemon = True
        alarm.start()
        transport.global_request("keepalive@openssh.com", wait=True)
        alarm.cancel()


def _ended(transport: paramiko.Transport, seconds: float) -> bool:
    """Wait; tell whether the connection has come to its end meanwhile."""
    transport.join(seconds)
    return not transport.is_active()


def _prefer(transport: paramiko.Transport, kinds: list[str]) -> None:
    """Ask the host first for those of its keys that it is known by."""
    options = transport.get_security_options()
    wanted = {"rsa-sha2-512", "rsa-sha2-256", *kinds} if "ssh-rsa" in kinds else set(kinds)
    options.key_types = tuple(sorted(options.key_types, key=lambda kind: kind not in wanted))
