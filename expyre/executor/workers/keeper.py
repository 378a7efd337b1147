"""The script's handle on the process that starts its workers and ends them with it (`expyre.node.serving.keeper`)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from expyre.node.serving import keeper
from expyre.node.starters.base import python_command

__all__ = ["Keeper"]

_CODE = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from expyre.node.serving.keeper import main; main(int(sys.argv[1]), int(sys.argv[3]))"
)
_PATIENCE = 10.0  # seconds


def _path() -> list[str]:
    """Return where modules are looked for, of use in any directory."""
    return [path or os.getcwd() for path in sys.path if isinstance(path, str)]


class Keeper:
    """Starts and ends worker processes through a process of its own.

    Attributes
    ----------
    sock
        Becomes readable when there is a note; see `notes`.
    """

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        command = python_command(_CODE, str(theirs.fileno()), json.dumps(_path()), str(os.getpid()))
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.sock = mine

    def fork(self, worker: int, fds: Sequence[int], place: Mapping[str, Any], *, packets: bool) -> None:
        """Start a worker that serves one end of a socket; memory for rings may come with that."""
        place = {**place, "cwd": place["cwd"] or os.getcwd()}
        request = {
            "worker": worker, "place": place, "packets": packets,
            "environ": dict(os.environ), "path": _path(), "argv": [*map(str, sys.argv)],
        }  # fmt: skip
        self._ask(request, fds)

    def start(self, worker: int, command: Sequence[str], environ: Mapping[str, str], *, litter: str | None) -> None:
        """Start a command that starts a worker; a directory that a killed script would leave is removed in the end."""
        request = {"worker": worker, "command": list(command), "environ": dict(environ), "cwd": os.getcwd()}
        self._ask({**request, "litter": litter})

    def kill(self, worker: int, *, gently: bool = False) -> None:
        """End a worker with all that it has started; a command first gets a chance to clean up."""
        self._ask({"kill": worker, "gently": gently})

    def _ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            keeper.send(self.sock, request, fds)
        except OSError:
            return  # it is gone, and so are the workers; seen at the next note

    def note(self) -> dict[str, Any] | None:
        """Return the next note, waiting for it: who has started, who has ended and how; None if the keeper is gone."""
        try:
            found = keeper.receive(self.sock)
        except (OSError, EOFError):
            return None
        return None if found is None else found[0]

    @property
    def pid(self) -> int:
        """Process id of the keeper."""
        return self._process.pid

    def close(self) -> None:
        """End all workers that there still are, and the keeper."""
        self.sock.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
