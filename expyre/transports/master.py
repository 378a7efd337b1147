"""The one connection of the ssh program that all commands to a host share."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from expyre.errors import TransportError
from expyre.transports.process import unstartable
from expyre.transports.sshconfig import config_words
from expyre.transports.talk import NotStarted
from expyre.transports.tries import Gate, Refused

__all__ = ["LOST_MASTER", "Master", "failure"]

# What a command writes that finds no shared connection: it must not open one of its own and ask for passwords again.
LOST_MASTER = f"no shared connection {secrets.token_hex(8)}"
# Seconds for which an unused connection stays when the script was killed and could not end it.
_PERSIST = 3600
_ALIVE = 15
_GLANCE = 0.1
_LONGEST_PATH = 90
_REFUSALS = (
    "Permission denied (",
    "Permission denied, ",
    "Too many authentication failures",
    "No more authentication methods",
)
_MISTAKES = ("Bad configuration option", "Bad owner or permissions", "terminating,", "Bad port")
_SSH_FAILED = 255
_HOPELESS = (
    "Host key verification failed",
    "REMOTE HOST IDENTIFICATION HAS CHANGED",
    "Name or service not known",
    "nodename nor servname provided",
    *_MISTAKES,
)
_COMMON = (
    "-T",
    "-oIgnoreUnknown=RemoteCommand,SessionType",
    "-oRemoteCommand=none",
    "-oClearAllForwardings=yes",
    "-oForwardX11=no",
    "-oForwardAgent=no",
)


class Master:
    """The shared connection to one host: the user's own where there is one, else a private one.

    Parameters
    ----------
    host
        ``[user@]host``.
    words
        The remote shell command.

    Attributes
    ----------
    path
        The socket of the connection, empty when it is not open.
    """

    def __init__(self, host: str, words: Sequence[str]) -> None:
        self._host = host
        self._words = [*words, *([] if "-F" in words else config_words())]
        self._settings: dict[str, str] | None = None
        self._directory: Path | None = None
        self.path = ""
        self._own = False

    def argv(self, gate: Gate, command: str) -> list[str]:
        """Return the words that run a command over the connection, which is opened if it is not.

        Raises
        ------
        TransportError
            The connection cannot be opened.
        """
        settings = self._asked()
        if not settings:
            gate.check()
            return [*self._words[: self._own_words()], self._host, command]
        if not self.path:
            self._open(settings, gate)
        lost = f"-oProxyCommand=/bin/sh -c 'echo {LOST_MASTER} >&2'"
        shared = ["-S", self.path, "-oControlMaster=no", "-oProxyJump=none", lost]
        return [*self._words, *_COMMON, *shared, self._host, command]

    def forget(self, path: str) -> None:
        """Take note that the connection behind a socket is gone."""
        if self.path == path:
            self.path = ""

    def close(self) -> None:
        """End the connection if it is a private one."""
        if self.path and self._own:
            self._control("exit", self.path)
        self.path = ""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _own_words(self) -> int:
        """Return how many words are the user's own."""
        extra = 0 if not config_words() or self._words[-2:] != config_words() else 2
        return len(self._words) - extra

    def _asked(self) -> dict[str, str]:
        """Return the program's settings for the host; none if it is no ssh."""
        if self._settings is None:
            done = self._quiet([*self._words, "-G", self._host])
            lines = done.splitlines() if "\nhostname " in f"\n{done}" else []
            self._settings = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
        return self._settings

    def _open(self, settings: dict[str, str], gate: Gate) -> None:
        theirs = settings.get("controlpath", "none")
        if theirs != "none" and self._control("check", theirs):
            self.path, self._own = theirs, False
            return
        gate.connect(lambda: self._connect(settings))

    def _connect(self, settings: dict[str, str]) -> None:
        path = str(self._private() / secrets.token_hex(4))
        options = ["-oControlMaster=yes", f"-oControlPath={path}", f"-oControlPersist={_PERSIST}", "-fN"]
        if settings.get("serveraliveinterval", "0") in ("0", "300"):
            options += [f"-oServerAliveInterval={_ALIVE}", "-oServerAliveCountMax=4"]
        if settings.get("connecttimeout", "none") in ("none", "0"):
            options.append("-oConnectTimeout=30")
        asks = _somebody_there()
        if not asks:
            options.append("-oBatchMode=yes")
        said = self._started([*self._words, *_COMMON, *options, self._host], asks)
        if said is not None:
            raise failure(self._host, said)
        self.path, self._own = path, True

    def _started(self, argv: Sequence[str], shown: bool) -> str | None:
        """Start the connection; return None when it is there, else what the program said.

        What it says is shown while it may be asking for something: the questions themselves go to the terminal.
        """
        quiet = subprocess.DEVNULL
        with tempfile.NamedTemporaryFile() as errors:  # no pipe: the connection would keep it open
            try:
                process = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=errors)
            except OSError as error:
                raise unstartable(argv[0], error) from error
            with process, open(errors.name, "rb") as said:
                text = _followed(process, said, shown)
        return None if process.returncode == 0 else text.decode(errors="replace").strip()

    def _private(self) -> Path:
        """Return a directory for the socket that only this user can enter; names of sockets are short."""
        if self._directory is None or not self._directory.is_dir():
            places = [os.environ.get("XDG_RUNTIME_DIR") or "", tempfile.gettempdir(), "/tmp"]
            usable = [place for place in places if 0 < len(place) < _LONGEST_PATH - 30 and os.access(place, os.W_OK)]
            if not usable:
                raise TransportError(f"no directory for a socket among {', '.join(places)}", transient=False)
            self._directory = Path(tempfile.mkdtemp(prefix="xpr-", dir=usable[0]))
        return self._directory

    def _control(self, word: str, path: str) -> bool:
        argv = [*self._words, "-S", path, "-O", word, self._host]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=30).returncode == 0
        return False

    def _quiet(self, argv: Sequence[str]) -> str:
        try:
            done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
        except OSError as error:
            raise unstartable(argv[0], error) from error
        except subprocess.TimeoutExpired:
            return ""
        said = done.stderr.decode(errors="replace")
        if done.returncode == _SSH_FAILED and any(words in said for words in _MISTAKES):
            raise TransportError(f"the configuration of ssh for {self._host}: {said.strip()}", transient=False)
        return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _followed(process: subprocess.Popen[bytes], said: IO[bytes], shown: bool) -> bytes:
    """Return what a program has written to a file when it has ended, shown on the terminal meanwhile or not."""
    text = b""
    ended = False
    while not ended:
        try:
            ended = process.wait(_GLANCE if shown else None) is not None
        except subprocess.TimeoutExpired:
            pass
        except BaseException:
            process.kill()
            raise
        new = said.read()
        text += new
        if shown and new:
            sys.stderr.write(new.decode(errors="replace"))
            sys.stderr.flush()
    return text


def _somebody_there() -> bool:
    """Tell whether there is somebody who can be asked for a password: a terminal that is ours, or a window."""
    if os.environ.get("SSH_ASKPASS") and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def failure(host: str, said: str) -> TransportError:
    """Return what the program's words mean when it has not connected."""
    if any(words in said for words in _REFUSALS):
        return Refused(
            f"{host} refused to let us in and is not asked again by this script: {said}. "
            f"Make `ssh {host}` work in a terminal (keys, agent, password), leave it open if the site asks for a "
            "second factor and shares connections (ControlMaster), and start again"
        )
    hopeless = any(words in said for words in _HOPELESS)
    hint = f". See what `ssh {host}` says in a terminal" if hopeless else ""
    return NotStarted(f"cannot connect to {host}: {said or 'no reason given'}{hint}", transient=not hopeless)
