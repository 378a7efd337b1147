"""The cores and GPUs that an executor gives to its workers."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expyre.executor.requests import Request

__all__ = ["Claims", "Machine", "Place"]


@dataclass(frozen=True)
class Place:
    """What a worker was given.

    Attributes
    ----------
    slots
        Number of cores that it takes.
    cores
        Which ones; empty if it is not pinned.
    gpus
        Ids of its GPUs; None where there are none to be given, so that nothing is hidden either.
    """

    slots: int
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] | None = None


class Claims:
    """Cores that this executor has for itself among all executors of the user on this machine.

    A claim is a lock on a file, which the system gives up with the process. Without it, two scripts on one workstation
    would pin their workers to the same few cores and leave the others idle.
    """

    def __init__(self) -> None:
        self._files: list[Any] = []

    def claim(self, count: int) -> list[int]:
        """Return so many cores that nobody else has claimed; none if there are not enough, or none can be pinned."""
        if not hasattr(os, "sched_getaffinity"):
            return []
        usable = sorted(os.sched_getaffinity(0))
        if count > len(usable):
            return []
        try:
            mine = self._lock(usable, count)
        except OSError:  # no place for the files
            mine = []
        if len(mine) < count:
            self.release()
            return []
        return mine

    def _lock(self, usable: Sequence[int], count: int) -> list[int]:
        directory = os.path.join(tempfile.gettempdir(), f"expyre-cores-{os.getuid()}")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if os.lstat(directory).st_uid != os.getuid():
            return []
        mine: list[int] = []
        for core in usable:
            if len(mine) == count:
                break
            file = open(os.path.join(directory, str(core)), "w")  # noqa: SIM115  open as long as it is claimed
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            self._files.append(file)
            mine.append(core)
        return mine

    def release(self) -> None:
        """Give up all claims."""
        for file in self._files:
            file.close()
        self._files.clear()


class Machine:
    """What an executor has to give.

    Parameters
    ----------
    slots
        Number of cores.
    cores
        Which ones, if workers are to be pinned: as many as there are slots; else none.
    gpus
        Ids of GPUs.
    claims
        What keeps others off the cores.
    """

    def __init__(self, slots: int, cores: Sequence[int], gpus: Sequence[str], claims: Claims) -> None:
        self._claims = claims
        self.slots = self.free_slots = slots
        self.gpus = tuple(gpus)
        self._cores = list(cores)
        self._gpus = list(gpus)

    def give(self, request: Request) -> Place | None:
        """Return a place for a worker, None if there is none now."""
        if request.oversubscribe:
            return Place(0, (), tuple(self.gpus[: request.gpus]) if self.gpus else None)
        if request.slots > self.free_slots or request.gpus > len(self._gpus):
            return None
        self.free_slots -= request.slots
        cores = tuple(self._cores.pop(0) for _ in range(request.slots)) if self._cores else ()
        gpus = tuple(self._gpus.pop(0) for _ in range(request.gpus))
        return Place(request.slots, cores, gpus if self.gpus else None)

    def take_back(self, place: Place) -> None:
        """Take back what a worker had."""
        if place.slots:
            self.free_slots += place.slots
            self._cores = sorted([*self._cores, *place.cores])
            self._gpus = sorted([*self._gpus, *(place.gpus or ())], key=self.gpus.index)

    def release(self) -> None:
        """Give up what was claimed of the machine."""
        self._claims.release()
