"""The way to a host through the user's own ssh program, one connection for all commands."""

from __future__ import annotations

from collections.abc import Sequence

from expyre.errors import TransportError
from expyre.transports.master import LOST_MASTER, Master, failure
from expyre.transports.process import Process
from expyre.transports.remote import RemoteTransport
from expyre.transports.sessions import Sessions
from expyre.transports.talk import Busy, NotStarted, Stale
from expyre.transports.tries import Refused

__all__ = ["OpenSSHTransport"]

_REFUSED_SESSION = "Session open refused by peer"


class OpenSSHTransport(RemoteTransport):
    """Runs a remote shell program; see `expyre.transports.Transport`.

    The first call opens a connection that further calls share, with the user's own configuration, keys, agents and
    questions. Programs that do not know the options of ssh are run once for each call.

    Parameters
    ----------
    host
        ``[user@]host``.
    words
        The remote shell command.
    """

    def __init__(self, host: str, words: Sequence[str]) -> None:
        super().__init__(host)
        self._words = list(words)
        self._sessions = Sessions()
        self._master = Master(host, self._words)

    def close(self) -> None:
        """End the connection; the next call opens another."""
        with self.lock:
            self._master.close()

    def forked(self) -> None:
        """Forget, in a forked child, the connection that belongs to its parent."""
        super().forked()
        self._sessions = Sessions()
        self._master = Master(self.where, self._words)

    def _open(self, command: str) -> Process:
        self._sessions.enter()
        try:
            with self.lock:
                argv = self._master.argv(self.gate, command)
                path = self._master.path
            return Process(argv, lambda said: self._failure(said, path), self._sessions.leave)
        except BaseException:
            self._sessions.leave()
            raise

    def _failure(self, said: str, path: str) -> TransportError:
        """Return what has happened to a command that has not come to its end."""
        if _REFUSED_SESSION in said:
            kind = Busy if self._sessions.refused() else NotStarted
            return kind(f"{self.where} takes no further session: {said}")
        if LOST_MASTER in said:
            with self.lock:
                self._master.forget(path)
            return Stale(f"the connection to {self.where} is gone")
        if not path and isinstance(refusal := failure(self.where, said), Refused):
            self.gate.refused(refusal)
            return refusal
        return TransportError(f"the connection to {self.where} broke off: {said or 'no reason given'}")
