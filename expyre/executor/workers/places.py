"""The cores and GPUs that an executor gives to its workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from expyre.executor.requests import Request
from expyre.executor.workers.claims import Claims
from expyre.executor.workers.gpus import Gpus

__all__ = ["Machine", "Place", "free_cores"]


@dataclass(frozen=True)
class Place:
    """What a worker was given.

    Attributes
    ----------
    slots
        Number of cores that it takes; 0 if it shares what it uses.
    cores
        Which ones; empty if it is not pinned.
    gpus
        Ids of its GPUs; None where there are none to be given, so that nothing is hidden either.
    """

    slots: int
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] | None = None


def free_cores(count: int, claims: Claims) -> list[int]:
    """Return so many cores that nobody else has claimed; none if there are not enough, or none can be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    mine: list[int] = []
    if count <= len(usable):
        try:
            mine = list(islice((core for core in usable if claims.claim(str(core))), count))
        except OSError:  # no place for the files
            mine = []
    if len(mine) < count:
        claims.release()
        return []
    return mine


class Machine:
    """What an executor has to give.

    Parameters
    ----------
    slots
        Number of cores.
    cores
        Which ones, if workers are to be pinned: as many as there are slots; else none.
    gpus
        The GPUs.
    claims
        What keeps others off the cores.
    """

    def __init__(self, slots: int, cores: Sequence[int], gpus: Gpus, claims: Claims) -> None:
        self._claims = claims
        self.slots = self.free_slots = slots
        self.gpus = gpus
        self._cores = list(cores)

    def give(self, request: Request) -> Place | None:
        """Return a place for a worker, None if there is none now."""
        if request.oversubscribe:
            return Place(0, (), self.gpus.share(request.gpus) if self.gpus else None)
        if request.slots > self.free_slots:
            return None
        gpus = self.gpus.take(request.gpus)
        if gpus is None:
            return None
        self.free_slots -= request.slots
        cores = tuple(self._cores.pop(0) for _ in range(request.slots)) if self._cores else ()
        return Place(request.slots, cores, gpus if self.gpus else None)

    def take_back(self, place: Place) -> None:
        """Take back what a worker had."""
        self.free_slots += place.slots
        self._cores = sorted([*self._cores, *place.cores])
        self.gpus.take_back(place.gpus or (), shared=not place.slots)

    def release(self) -> None:
        """Give up what was claimed of the machine."""
        self._claims.release()
        self.gpus.release()
