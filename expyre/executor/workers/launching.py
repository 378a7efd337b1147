"""How workers are started: forked from the keeper, or by a command of MPI, Slurm or Flux."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from expyre import node
from expyre.errors import RequestError
from expyre.executor.requests import Request
from expyre.executor.workers.channels import PacketChannel, StreamChannel
from expyre.executor.workers.keeper import Keeper
from expyre.executor.workers.worker import Worker
from expyre.node.serving import ring
from expyre.node.serving.door import Door
from expyre.node.serving.rank import VARIABLE
from expyre.node.starters.base import CannotStart, Starter, python_command

__all__ = ["Launcher"]

_CODE = "from expyre.node.serving.rank import main; main()"
_PATIENCE_WITH_MPI = 300.0  # seconds for ranks to find each other; on a slow file system it takes minutes to load MPI
_PACKETS = sys.platform == "linux"  # elsewhere a worker gets one call at a time, through a stream


class Launcher:
    """Starts workers.

    Parameters
    ----------
    starter
        Knows the command that starts a worker.
    always
        Whether it starts all workers, and gives them cores and GPUs; else only those with several ranks.
    host
        Name of this machine for workers on others; None if there are none.
    """

    def __init__(self, starter: Starter, *, always: bool, host: str | None = None) -> None:
        self._starter = starter
        self._always = always
        self._host = host
        self._door: Door | None = None
        self.keeper: Keeper | None = None

    def forks(self, request: Request) -> bool:
        """Return whether a worker for such requests is forked."""
        return request.cores == 1 and not self._always

    def prepare(self, request: Request) -> None:
        """Raise RequestError if there is no command to start such a worker with."""
        if not self.forks(request):
            self._command(request)

    def _command(self, request: Request) -> list[str]:
        try:
            return self._starter.command(request)
        except CannotStart as error:
            raise RequestError(str(error)) from None

    def gives_packets(self, request: Request) -> bool:
        """Return whether what a worker has not taken can be taken back, so that it may be given more than one call."""
        return _PACKETS and self.forks(request)

    def start_keeper(self) -> Keeper:
        """Start the process that starts workers."""
        self.keeper = Keeper()
        return self.keeper

    @property
    def door(self) -> Door:
        """Where workers come in that a command starts; made when the first one is."""
        if self._door is None:
            self._door = Door(self._host)
        return self._door

    @property
    def has_door(self) -> bool:
        """Whether there is a door."""
        return self._door is not None

    def launch(self, worker: Worker, request: Request) -> None:
        """Start a worker; one that a command starts will come to the door."""
        assert self.keeper is not None
        place: dict[str, Any] = {"threads": request.threads_per_core, "cwd": request.cwd, "cores": worker.place.cores}
        if self.forks(request):
            self._fork(self.keeper, worker, {**place, "gpus": worker.place.gpus})
            return
        task = {
            "address": self.door.address,
            "secret": self.door.secret.hex(),
            "worker": worker.number,
            "size": worker.size,
            "place": {**place, "gpus": None if self._always else worker.place.gpus},
            "path": [path or os.getcwd() for path in sys.path],
            "pythonpath": os.environ.get("PYTHONPATH"),
            "patience": _PATIENCE_WITH_MPI,
            "restored": {name: os.environ[name] for name in self._starter.restored},
        }
        hidden = set(self._starter.hidden)
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        environ = {**kept, VARIABLE: json.dumps(task), "PYTHONPATH": _path_to_package()}
        command = [*self._command(request), *python_command(_CODE)]
        self.keeper.start(worker.number, command, environ, litter=self.door.directory)

    def _fork(self, keeper: Keeper, worker: Worker, place: dict[str, Any]) -> None:
        kind = socket.SOCK_SEQPACKET if _PACKETS else socket.SOCK_STREAM
        mine, theirs = socket.socketpair(socket.AF_UNIX, kind)
        if not _PACKETS:
            keeper.fork(worker.number, [theirs.fileno()], place, packets=False)
            theirs.close()
            worker.channels[0] = StreamChannel(mine)
            return
        memory = [] if worker.once else [ring.make()]
        try:
            keeper.fork(worker.number, [theirs.fileno(), *memory], place, packets=True)
            worker.channels[0] = PacketChannel(mine, theirs, *map(ring.share, memory))
        finally:
            for each in memory:
                os.close(each)

    def close(self) -> None:
        """End all workers, and what is there for them."""
        if self._door is not None:
            self._door.close()
        if self.keeper is not None:
            self.keeper.close()


def _path_to_package() -> str:
    """Return PYTHONPATH with which an interpreter finds this package; the rest of the path is told by message."""
    here = str(Path(node.__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
