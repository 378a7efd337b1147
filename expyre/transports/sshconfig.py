"""What the user's configuration of ssh says about a host."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expyre.errors import TransportError

__all__ = ["Target", "config_words", "target"]

_KEY_NAMES = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True)
class Target:
    """A host as ssh would go to it; paths and commands have no tokens left.

    Attributes
    ----------
    name
        What the user calls it.
    hostname, port, user
        Where to connect.
    identity_files, identities_only, agent
        Keys; ``agent`` is a socket, empty for none.
    proxy_jump, proxy_command
        The way there, empty for the direct one.
    known_as
        Its name in files of known hosts.
    known_hosts
        Those files.
    alive_interval, connect_timeout
        In seconds.
    alive_count
        How many intervals without an answer mean that the connection is dead.
    """

    name: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    identities_only: bool
    agent: str
    proxy_jump: str
    proxy_command: str
    known_as: str
    known_hosts: tuple[Path, ...]
    alive_interval: float
    connect_timeout: float
    alive_count: int

    def at(self, user: str | None, port: int | None) -> Target:
        """Return the same host with another user or port."""
        known_as = known_name(self.hostname, port) if port and self.known_as.endswith(self.hostname) else self.known_as
        return replace(self, user=user or self.user, port=port or self.port, known_as=known_as)

    def __str__(self) -> str:
        return self.name


def config_words() -> list[str]:
    """Return the words that make ssh read ``EXPYRE_SSH_CONFIG`` rather than the user's own file."""
    path = os.environ.get("EXPYRE_SSH_CONFIG")
    return ["-F", path] if path else []


def known_name(hostname: str, port: int) -> str:
    """Return how a host is called in files of known hosts."""
    return hostname if port == 22 else f"[{hostname}]:{port}"


def target(host: str) -> Target:
    """Return a host as the configuration describes it.

    Parameters
    ----------
    host
        ``[user@]host``.

    Raises
    ------
    TransportError
        The configuration cannot be read.
    """
    settings = _asked(host) if shutil.which("ssh") else _read(host)
    return _Settings(host, settings).target()


def _asked(host: str) -> dict[str, list[str]]:
    """Return what the ssh program says it would do; it knows every way to write a configuration."""
    done = subprocess.run(
        ["ssh", *config_words(), "-G", host], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise TransportError(f"the configuration of ssh for {host} cannot be used: {said}", transient=False)
    settings: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="surrogateescape").splitlines():
        key, _, value = line.partition(" ")
        settings.setdefault(key.lower(), []).append(value)
    return settings


def _read(host: str) -> dict[str, list[str]]:
    """Return what the configuration file says, as far as it can be understood without the ssh program."""
    import paramiko

    path = Path(os.environ.get("EXPYRE_SSH_CONFIG") or Path.home() / ".ssh" / "config")
    user, _, name = host.rpartition("@")
    config = paramiko.SSHConfig()
    try:
        if path.exists():
            config = paramiko.SSHConfig.from_path(str(path))
        found = config.lookup(name)
    except (OSError, paramiko.SSHException) as error:
        raise TransportError(f"{path} cannot be used: {error}", transient=False) from error
    settings = {key: value if isinstance(value, list) else [value] for key, value in found.items()}
    return {**settings, **({"user": [user]} if user else {})}


class _Settings:
    """Settings by their names in lower case, each with its values."""

    def __init__(self, host: str, settings: dict[str, list[str]]) -> None:
        self._settings = settings
        self._name = host.rpartition("@")[2]
        self._hostname = self._one("hostname", self._name)
        self._port = int(self._one("port", "22"))
        self._user = self._one("user", _login())

    def target(self) -> Target:
        """Return the host."""
        alias = self._one("hostkeyalias")
        files = [*self._words("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")]
        files += self._words("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")
        return Target(
            name=self._name,
            hostname=self._hostname,
            port=self._port,
            user=self._user,
            identity_files=tuple(self._path(file) for file in self._identities() if file != "none"),
            identities_only=self._one("identitiesonly") in ("yes", "true"),
            agent=self._agent(),
            proxy_jump=self._one("proxyjump"),
            proxy_command=self._expanded(self._one("proxycommand")),
            known_as=alias or known_name(self._hostname, self._port),
            known_hosts=tuple(self._path(file) for file in files if file not in ("none", "/dev/null")),
            alive_interval=self._seconds("serveraliveinterval") or 15.0,
            connect_timeout=self._seconds("connecttimeout") or 30.0,
            alive_count=int(self._seconds("serveralivecountmax")) or 3,
        )

    def _one(self, key: str, default: str = "") -> str:
        value = self._settings.get(key, [default])[0]
        return default if value == "none" else value

    def _words(self, key: str, default: str) -> list[str]:
        """Return the words of a list of files; the program writes blanks inside of names without any sign."""
        text = self._settings.get(key, [default])[0]
        return shlex.split(text) if '"' in text else text.split()

    def _seconds(self, key: str) -> float:
        text = self._one(key, "0")
        return float(text) if text.replace(".", "", 1).isdigit() else 0.0

    def _identities(self) -> Sequence[str]:
        return self._settings.get("identityfile") or [f"~/.ssh/{name}" for name in _KEY_NAMES]

    def _agent(self) -> str:
        text = self._settings.get("identityagent", ["SSH_AUTH_SOCK"])[0]
        if text == "SSH_AUTH_SOCK":
            return os.environ.get("SSH_AUTH_SOCK", "")
        return "" if text == "none" else os.path.expandvars(str(self._path(text)))

    def _path(self, text: str) -> Path:
        return Path(os.path.expanduser(self._expanded(text)))

    def _expanded(self, text: str) -> str:
        tokens = {
            "%": "%",
            "d": str(Path.home()),
            "h": self._hostname,
            "i": str(os.getuid()),
            "k": self._one("hostkeyalias", self._name),
            "L": socket.gethostname().partition(".")[0],
            "l": socket.gethostname(),
            "n": self._name,
            "p": str(self._port),
            "r": self._user,
            "u": _login(),
        }
        return re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), text)


def _login() -> str:
    import getpass

    return getpass.getuser()
