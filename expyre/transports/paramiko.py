"""The way to a host without an ssh program: one connection that stays open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from expyre.errors import TransportError
from expyre.transports.reach import Connection, connected
from expyre.transports.remote import RemoteTransport
from expyre.transports.sessions import Sessions
from expyre.transports.talk import Busy, NotStarted, Stale

if TYPE_CHECKING:
    import paramiko

__all__ = ["ParamikoTransport"]

_AT_ONCE = 1 << 18
_PATIENCE = 60.0
# Connections of the parent in a forked child: closing them here would be noticed there.
_INHERITED: list[object] = []


class ParamikoTransport(RemoteTransport):
    """Keeps a connection open; see `expyre.transports.Transport`.

    Names, users, ports, keys and jump hosts are those of the user's configuration of ssh. Only hosts that the user's
    files of known hosts know are connected to.

    Parameters
    ----------
    host
        ``[user@]host``.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self._connection: Connection | None = None
        self._sessions = Sessions()

    def close(self) -> None:
        """End the connection; the next call opens another."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def forked(self) -> None:
        """Forget, in a forked child, the connection that belongs to its parent."""
        super().forked()
        _INHERITED.append(self._connection)
        self._connection = None
        self._sessions = Sessions()

    def _open(self, command: str) -> _Channel:
        self._sessions.enter()
        try:
            channel = self._channel()
        except BaseException:
            self._sessions.leave()
            raise
        self._sessions.accepted()
        return self._started(_Channel(channel, self.where, self._sessions), command)

    def _started(self, channel: _Channel, command: str) -> _Channel:
        try:
            channel.start(command)
        except BaseException:
            channel.release()
            raise
        return channel

    def _channel(self) -> paramiko.Channel:
        import paramiko

        connection, is_new = self._connected()
        try:
            with connection.opening:
                return connection.transport.open_session(timeout=_PATIENCE)
        except paramiko.ChannelException as error:
            refusal = Busy if self._sessions.refused() else NotStarted
            raise refusal(f"{self.where} takes no further session: {error}") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            self._drop(connection)
            kind = NotStarted if is_new else Stale
            raise kind(f"the connection to {self.where} is gone: {error or type(error).__name__}") from error

    def _connected(self) -> tuple[Connection, bool]:
        with self.lock:
            if self._connection is not None and self._connection.alive:
                return self._connection, False
            self.close()
            self._connection = self.gate.connect(lambda: connected(self.where))
            return self._connection, True

    def _drop(self, connection: Connection) -> None:
        with self.lock:
            if self._connection is connection:
                self.close()


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    """Turn the errors of paramiko's own into those of a pipe that is not read any more."""
    import paramiko

    try:
        yield
    except (EOFError, paramiko.SSHException) as error:
        raise BrokenPipeError(str(error)) from error


class _Channel:
    """A stream over a channel of a connection; see `expyre.transports.talk.Stream`."""

    def __init__(self, channel: paramiko.Channel, where: str, sessions: Sessions) -> None:
        self._channel, self._where, self._sessions = channel, where, sessions

    def start(self, command: str) -> None:
        """Start the command; whether it has started is not certain when that fails.

        The answer is not waited for, which would cost the time there and back once more: if it is no, the channel ends.
        """
        import paramiko

        request = paramiko.Message()
        request.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
        request.add_int(self._channel.remote_chanid)
        request.add_string("exec")
        request.add_boolean(True)
        request.add_string(command.encode())
        try:
            self._channel.get_transport()._send_user_message(request)  # type: ignore[attr-defined]
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self.failure(str(error)) from error

    def write(self, data: bytes) -> None:
        """Write all of it."""
        with _as_oserror():
            self._channel.sendall(data)

    def end_input(self) -> None:
        """Tell that there is no more."""
        with _as_oserror():
            self._channel.shutdown_write()

    def read(self, timeout: float | None) -> bytes:
        """Return some output."""
        self._channel.settimeout(timeout)
        return self._channel.recv(_AT_ONCE)

    def read_error(self) -> bytes:
        """Return some of the errors."""
        return self._channel.recv_stderr(_AT_ONCE)

    def stop(self) -> None:
        """Close the channel."""
        self._channel.close()

    def release(self) -> None:
        """Make room for another session."""
        self._channel.close()
        self._sessions.leave()

    def failure(self, said: str) -> TransportError:
        """Return why the stream has ended before its time."""
        return TransportError(f"the connection to {self._where} broke off: {said or 'no reason given'}")
