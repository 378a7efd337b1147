"""Ways to hosts."""

from __future__ import annotations

from collections.abc import Sequence

from expyre.errors import ConfigError
from expyre.transports.base import Completed, Transport
from expyre.transports.local import LocalTransport

__all__ = ["Completed", "LocalTransport", "Transport", "connect"]


def connect(host: str | None, kind: str | None = None, remsh_cmd: str | Sequence[str] | None = None) -> Transport:
    """Return the way to a host; nothing is opened before it is used.

    Parameters
    ----------
    host
        ``[user@]host``, or None for this machine.
    kind
        Name of the transport; None chooses by host and remote shell.
    remsh_cmd
        Remote shell command, for transports that run one.

    Raises
    ------
    ConfigError
        There is no such transport, or it does not go to that host.
    """
    if host is None and kind in (None, "local"):
        return LocalTransport()
    raise ConfigError(f"no transport {kind or 'for remote hosts'} to {host or 'this machine'}; known are: local")
