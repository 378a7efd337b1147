"""Ways to hosts."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shlex
import threading
from collections.abc import Sequence

from expyre.errors import ConfigError
from expyre.transports.base import Completed, Transport
from expyre.transports.local import LocalTransport
from expyre.transports.openssh import OpenSSHTransport
from expyre.transports.paramiko import ParamikoTransport
from expyre.transports.remote import RemoteTransport
from expyre.transports.shell import quoted_directory

__all__ = [
    "Completed",
    "LocalTransport",
    "OpenSSHTransport",
    "ParamikoTransport",
    "Transport",
    "close_all",
    "connect",
    "quoted_directory",
]

_KINDS = ("local", "paramiko", "openssh")
_open: dict[tuple[str, ...], RemoteTransport] = {}
_lock = threading.Lock()


def connect(host: str | None, kind: str | None = None, remsh_cmd: str | Sequence[str] | None = None) -> Transport:
    """Return the way to a host; nothing is opened before it is used.

    The same words give the same way, so that a script logs in to a host once.

    Parameters
    ----------
    host
        ``[user@]host``, or None for this machine.
    kind
        ``"local"``, ``"paramiko"`` or ``"openssh"``; None chooses: a remote shell command, given or in the environment
        variable ``EXPYRE_RSH``, means openssh.
    remsh_cmd
        Remote shell command, default ``EXPYRE_RSH``, else ``ssh``.

    Raises
    ------
    ConfigError
        There is no such transport, or it does not go to that host.
    """
    kind = kind or _default_kind(host, remsh_cmd)
    if kind not in _KINDS or (kind == "local") != (host is None):
        target, fitting = ("this machine", ("local",)) if host is None else (host, _KINDS[1:])
        raise ConfigError(f"no transport {kind!r} to {target}; there is: {', '.join(fitting)}")
    if host is None:
        return LocalTransport()
    if host.startswith("-") or not host.strip():
        raise ConfigError(f"{host!r} is not the name of a host")
    if kind == "paramiko" and importlib.util.find_spec("paramiko") is None:
        raise ConfigError('the transport "paramiko" needs the package paramiko; "openssh" needs the program ssh only')
    words = _words(remsh_cmd) if kind == "openssh" else ()
    with _lock:
        key = (host, kind, os.environ.get("EXPYRE_SSH_CONFIG", ""), *words)
        if key not in _open:
            _open[key] = OpenSSHTransport(host, words) if kind == "openssh" else ParamikoTransport(host)
        return _open[key]


def close_all() -> None:
    """End all connections; transports that are used again open them again."""
    with _lock:
        transports = list(_open.values())
    for transport in transports:
        transport.close()


def _default_kind(host: str | None, remsh_cmd: str | Sequence[str] | None) -> str:
    if host is None:
        return "local"
    if remsh_cmd is not None or os.environ.get("EXPYRE_RSH"):
        return "openssh"
    return "paramiko" if importlib.util.find_spec("paramiko") is not None else "openssh"


def _words(remsh_cmd: str | Sequence[str] | None) -> tuple[str, ...]:
    command = os.environ.get("EXPYRE_RSH") or "ssh" if remsh_cmd is None else remsh_cmd
    words = tuple(shlex.split(command) if isinstance(command, str) else command)
    if not words:
        raise ConfigError("the remote shell command (remsh_cmd, EXPYRE_RSH) is empty")
    return words


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


atexit.register(close_all)
os.register_at_fork(after_in_child=_forked)
