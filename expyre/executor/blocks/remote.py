"""The spool directory as the script reaches it: through the transport of a system, one round trip a round."""

from __future__ import annotations

import json
import secrets
from functools import lru_cache
from typing import Any

from expyre.errors import AuthenticationError, SchedulerError
from expyre.executor.blocks.script import Order, Report, opening_script, pack, read_report, round_script
from expyre.node import runner
from expyre.node.blocks import spool as names
from expyre.node.serving import messages
from expyre.stage.carried import archive, node_sources
from expyre.transports import Completed, Transport, quoted_directory

__all__ = ["PARENT", "RemoteSpool", "note_in"]

PARENT = "_expyre_blocks"
_PACKAGES = ("blocks", "ranks", "serving", "starters")


class RemoteSpool:
    """A spool directory on a host.

    Parameters
    ----------
    transport
        The way there.
    path
        The directory, absolute or relative to the home directory there.
    """

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self.path = path
        self._key = secrets.token_bytes(32)
        self._serial = 0

    def sign(self, pieces: list[Any]) -> bytes:
        """Return a message, signed."""
        return runner.sign(b"".join(pieces), self._key)

    def open(self, setup: messages.Payload | None) -> None:
        """Make the directory, with all that workers need.

        Parameters
        ----------
        setup
            Pickled function that each worker calls first.

        Raises
        ------
        SchedulerError
            It cannot be made.
        TransportError
            The host was not reached.
        """
        files = {f"{names.CODE}/{name}": data for name, data in _sources().items()}
        files[names.KEY] = self._key.hex().encode()
        if setup is not None:
            files[names.SETUP] = self.sign(messages.pack(messages.SETUP, payload=setup))
        self._checked(self._transport.run(opening_script(self.path), pack(files)), "made")

    def round(self, order: Order) -> Report:
        """Carry out an order; return what is there.

        Raises
        ------
        SchedulerError
            The directory is gone or cannot be written; or what has come back is damaged.
        TransportError
            The host was not reached, or the connection broke: the same order may be given again.
        """
        self._serial += 1
        script, stdin = round_script(self.path, order, self._serial)
        done = self._checked(self._transport.run(script, stdin), "used")
        try:
            return read_report(done.stdout)
        except ValueError as error:
            raise SchedulerError(f"{self._place}: {error}") from error

    def stop(self) -> None:
        """Tell the workers to end."""
        self._transport.run(f"cd {quoted_directory(self.path)} && : > {names.STOP}")

    def remove(self) -> None:
        """Remove the directory, out of the way of workers that still write into it."""
        here, away = quoted_directory(self.path), quoted_directory(f"{self.path}.removed")
        self._transport.run(f"mv -T {here} {away} && rm -rf {away} || rm -rf {here} {away}")

    def read(self, data: bytes, name: str) -> bytes:
        """Return the signed part of a result.

        Raises
        ------
        AuthenticationError
            It is damaged, or no worker of this script has written it.
        """
        try:
            return bytes(runner.verify(data, self._key, f"{names.RESULTS}/{name}"))
        except runner.NotAuthentic as error:
            raise AuthenticationError(f"{error}, in {self._place}; nothing was unpickled") from None

    @property
    def _place(self) -> str:
        return f"the spool of workers {self.path} on {self._transport.host or 'this machine'}"

    def _checked(self, done: Completed, what: str) -> Completed:
        if done.returncode != 0:
            raise SchedulerError(f"{self._place} cannot be {what}: {done.error_text or done.returncode}")
        return done


def note_in(data: bytes) -> dict[str, Any]:
    """Return what a worker says of itself; nothing if that is damaged."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=1)
def _sources() -> dict[str, bytes]:
    """Return the files of the program of workers; they import nothing else but the standard library."""
    return {**node_sources(*_PACKAGES), "cloudpickle.zip": archive()[1]}
