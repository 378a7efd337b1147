"""Logging in with the user's keys."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expyre.transports.sshconfig import Target
from expyre.transports.talk import NotStarted
from expyre.transports.tries import Refused

if TYPE_CHECKING:
    import paramiko

__all__ = ["log_in"]


def log_in(transport: paramiko.Transport, host: Target) -> None:
    """Log in with the first key that the host takes.

    Raises
    ------
    Refused
        It takes none of them; the message says which there were and what else can be done.
    NotStarted
        The connection broke before it has said so.
    """
    with contextlib.closing(_Keys(host)) as keys:
        for name, key in keys:
            keys.tried.append(name)
            if _accepted(transport, host, key, keys.tried):
                return
        raise Refused(_refusal(host, keys))


def _accepted(transport: paramiko.Transport, host: Target, key: paramiko.PKey, tried: list[str]) -> bool:
    """Tell whether the host takes a key; raises Refused when no other key will do either."""
    import paramiko

    try:
        more = transport.auth_publickey(host.user, key)
    except paramiko.BadAuthenticationType as error:
        raise Refused(_other_ways(host, f"it wants {' or '.join(error.allowed_types)} instead of a key")) from error
    except paramiko.AuthenticationException as error:
        if transport.is_active() and "timeout" not in str(error).lower():
            return False
        if len(tried) == 1 or transport.is_active():  # no word of a refusal: the line may have broken
            raise NotStarted(f"the connection to {host} was lost while logging in") from error
        raise Refused(f"{_beginning(host)}: it hung up after {', '.join(tried)}. {_WAY_OUT}") from None
    if more:
        raise Refused(_other_ways(host, f"after the key it wants {' or '.join(more)} too"))
    return True


_WAY_OUT = (
    "Put the right key on the host (ssh-copy-id), name it in ~/.ssh/config (IdentityFile, IdentitiesOnly), or set "
    '"transport": "openssh" for the system'
)


def _beginning(host: Target) -> str:
    return f"{host.user}@{host} refused to let us in and is not asked again by this script"


def _other_ways(host: Target, why: str) -> str:
    return f'{_beginning(host)}: {why}. Set "transport": "openssh" for the system: that way ssh itself asks questions'


def _refusal(host: Target, keys: _Keys) -> str:
    tried = f"it took none of {', '.join(keys.tried)}" if keys.tried else "there is no key to show"
    locked = f"; encrypted and in no agent: {', '.join(keys.locked)} (ssh-add)" if keys.locked else ""
    return f"{_beginning(host)}: {tried}{locked}. {_WAY_OUT}"


class _Keys:
    """The keys for a host in the order in which they are tried: those of its configuration, then the agent's."""

    def __init__(self, host: Target) -> None:
        self._host = host
        self._agent = _connected_agent(host.agent)
        self.tried: list[str] = []
        self.locked: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, paramiko.PKey]]:
        held = {key.asbytes(): key for key in self._agent.get_keys()} if self._agent is not None else {}
        for path in self._host.identity_files:
            public = _public(path)
            if public in held:
                yield f"{path} of the agent", held.pop(public)
            elif (key := self._loaded(path)) is not None:
                yield str(path), key
        if not self._host.identities_only:
            for key in held.values():
                yield f"{key.comment or key.get_name()} of the agent", key

    def close(self) -> None:
        """Let go of the agent."""
        if self._agent is not None:
            self._agent._close()  # type: ignore[attr-defined]

    def _loaded(self, path: Path) -> paramiko.PKey | None:
        import paramiko

        if not path.is_file():
            return None
        try:
            return paramiko.PKey.from_path(path)
        except (TypeError, paramiko.PasswordRequiredException):
            self.locked.append(str(path))
        except (OSError, ValueError, paramiko.SSHException):
            pass  # a kind of key that only the ssh program knows: the message names those that were tried
        return None


def _public(path: Path) -> bytes:
    """Return the public half of a key that lies beside it."""
    import base64

    try:
        return base64.b64decode(path.with_name(f"{path.name}.pub").read_text(errors="replace").split()[1])
    except (OSError, IndexError, ValueError):
        return b""


def _connected_agent(path: str) -> paramiko.agent.AgentSSH | None:
    import paramiko

    if not path:
        return None
    connection = socket.socket(socket.AF_UNIX)
    agent = paramiko.agent.AgentSSH()
    try:
        connection.settimeout(10)
        connection.connect(path)
        agent._connect(connection)  # type: ignore[attr-defined]
    except (OSError, paramiko.SSHException):
        connection.close()
        return None
    return agent
