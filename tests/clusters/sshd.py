"""A private SSH server on this machine, with as many odd ports as tests need."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clusters.places import Place, free_ports

SCRIPT = Path(__file__).with_name("sshd.sh")


def missing() -> str:
    """Say what is missing for a server; nothing if there can be one."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    programs = [name for name in ("sshd", "ssh", "ssh-keygen") if shutil.which(name, path=places) is None]
    return f"needs {', '.join(programs)}" if programs else ""


class Sshd:
    """A server and what clients have to know of it.

    Parameters
    ----------
    path
        Directory of its own.
    first_port
        The first of as many free ports as there are kinds of logins.
    logins
        Name of each kind of login (a host for clients), and the settings of the server that only hold for it;
        ``@PATH@`` in them is the directory.
    """

    def __init__(self, path: Path, first_port: int, logins: Mapping[str, str]) -> None:
        self.path = path
        self.ports = {name: first_port + number for number, name in enumerate(logins)}
        self.port = first_port
        self.config = path / "ssh_config"
        self.known_hosts = path / "known_hosts"
        self._logins = dict(logins)
        self._hosts: dict[str, dict[str, object]] = {name: {"Port": port} for name, port in self.ports.items()}

    def start(self) -> None:
        """Start the server if it does not run."""
        first = not (self.path / "sshd_config").exists()
        if first:
            (self.path / "sshd_config").write_text(self._server())
            self._write_client()
        self._script("start")
        if first:
            kind, key = (self.path / "host_key.pub").read_text().split()[:2]
            self.known_hosts.write_text("".join(f"[127.0.0.1]:{port} {kind} {key}\n" for port in self.ports.values()))

    def repair(self, seconds: float = 15.0) -> None:
        """Let the server run and answer, whatever has been done to it.

        Raises
        ------
        OSError
            It does not, even when started again.
        """
        self.start()
        if not _answers(self.port, seconds):
            self.stop()
            self.start()
            self.check()

    def check(self) -> None:
        """Raise an OSError if the server does not answer on all its ports."""
        if silent := [port for port in self.ports.values() if not _answers(port)]:
            raise OSError(f"the SSH server of {self.path} does not answer on its ports {silent}: {self.log[-1000:]}")

    def stop(self) -> None:
        """Kill the server and all its connections."""
        self._script("stop")

    def host(self, name: str, **settings: object) -> str:
        """Make one more host for clients: the first login, but for these settings of ssh_config."""
        self._hosts[name] = {"Port": self.port, "HostKeyAlias": f"[127.0.0.1]:{self.port}", **settings}
        self._write_client()
        return name

    @property
    def log(self) -> str:
        """What the server has written."""
        return (self.path / "log").read_text(errors="replace")

    def _script(self, command: str) -> None:
        environment = {**os.environ, "SSHD_PORT": str(self.port)}
        words = ["timeout", "60", "bash", SCRIPT, command, self.path]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(done.stderr.strip() or f"{SCRIPT} {command} failed")

    def _server(self) -> str:
        own = "".join(
            f"Match LocalPort {self.ports[name]}\n{text}\n" for name, text in self._logins.items() if text.strip()
        )
        ports = "".join(f"Port {port}\n" for port in self.ports.values())
        return ports + _SERVER.format(path=self.path, user=getpass.getuser()) + own.replace("@PATH@", str(self.path))

    def _write_client(self) -> None:
        blocks = [
            f"Host {name}\n" + "".join(f"    {key} {value}\n" for key, value in settings.items())
            for name, settings in self._hosts.items()
        ]
        self.config.write_text("".join(blocks) + _CLIENT.format(path=self.path, user=getpass.getuser()))


@contextmanager
def private_sshd(logins: Mapping[str, str]) -> Iterator[Sshd]:
    """Give a running server for whoever runs the tests.

    Raises
    ------
    OSError
        It does not start; says why.
    """
    server, place = _started(logins)
    try:
        yield server
    finally:
        place.close()


def _started(logins: Mapping[str, str], tries: int = 3) -> tuple[Sshd, Place]:
    place = Place("sshd", ["bash", str(SCRIPT), "stop"])
    try:
        with free_ports(len(logins), place) as first:
            server = Sshd(place.path, first, logins)
            server.start()
            server.check()
            return server, place
    except OSError:
        place.close()
        if tries <= 1:
            raise
    return _started(logins, tries - 1)


def _answers(port: int, seconds: float = 15.0) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


# With SHLVL bash takes itself for an inner shell and leaves out ~/.bashrc, which may take long.
_SERVER = """\
ListenAddress 127.0.0.1
HostKey {path}/host_key
PidFile {path}/pid
AuthorizedKeysFile {path}/user_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers {user}
KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org
UsePAM no
UseDNS no
StrictModes no
PrintMotd no
PrintLastLog no
LogLevel VERBOSE
MaxSessions 100
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv SHLVL=5
"""

_CLIENT = """\
Host *
    HostName 127.0.0.1
    User {user}
    IdentityFile {path}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {path}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""
