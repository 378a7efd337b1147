"""What may run at the same time, and who is next.

Jobs start in the order they came. One that does not fit now is overtaken by later ones that do, so that nothing lies
idle; but only for a while: once it has been overtaken for longer than the queue's patience, what it needs is kept free
for it, and it starts as soon as enough of the others have ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """What a job needs: cores, memory in kB (0: says nothing), GPUs, cores of its partition (None: no limit)."""

    id: int
    cores: int
    mem: int = 0
    gpus: int = 0
    partition: str = ""
    cap: int | None = None


@dataclass
class Free:
    """What is free: of the machine, and used of each partition."""

    cores: int
    mem: int
    gpus: int
    used: dict[str, int]

    @classmethod
    def after(cls, cores: int, mem: int, gpus: int, running: Iterable[Demand]) -> Free:
        """Return what running jobs leave of a machine."""
        free = cls(cores, mem, gpus, {})
        for demand in running:
            free.take(demand)
        return free

    def take(self, demand: Demand) -> None:
        """Take away what a job needs."""
        self.cores -= demand.cores
        self.mem -= demand.mem
        self.gpus -= demand.gpus
        self.used[demand.partition] = self.used.get(demand.partition, 0) + demand.cores

    def reserve(self, demand: Demand) -> None:
        """Keep free what a waiting job needs: of the machine only if that is what it waits for."""
        if demand.cores > self.cores or demand.mem > self.mem or demand.gpus > self.gpus:
            self.take(demand)
        else:
            self.used[demand.partition] = self.used.get(demand.partition, 0) + demand.cores

    def lacks(self, demand: Demand) -> list[str]:
        """Return what is missing for a job, in words; empty if it fits."""
        lacking = []
        if demand.cap is not None and self.used.get(demand.partition, 0) + demand.cores > demand.cap:
            free = max(0, demand.cap - self.used.get(demand.partition, 0))
            lacking.append(f"{demand.cores} cores of partition {demand.partition}: {free} of {demand.cap} free")
        if demand.cores > self.cores:
            lacking.append(f"{demand.cores} cores: {max(0, self.cores)} free")
        if demand.mem > max(0, self.mem):
            lacking.append(f"{demand.mem} kB of memory: {max(0, self.mem)} kB free")
        if demand.gpus > max(0, self.gpus):
            lacking.append(f"{demand.gpus} GPUs: {max(0, self.gpus)} free")
        return lacking


def choose(
    queued: Iterable[Demand], free: Free, overtaken: MutableMapping[int, float], now: float, patience: float
) -> list[Demand]:
    """Return the jobs to start now, in order.

    Parameters
    ----------
    queued
        Waiting jobs in the order they came; read only as far as needed.
    free
        What is free; changed.
    overtaken
        Since when a job has been overtaken, by id; changed.
    now, patience
        The time, and for how long a job may be overtaken, in s.
    """
    chosen: list[Demand] = []
    waiting: list[int] = []
    for demand in queued:
        if free.cores <= 0:
            break
        if not free.lacks(demand):
            free.take(demand)
            chosen.append(demand)
            for other in waiting:
                overtaken.setdefault(other, now)
        else:
            waiting.append(demand.id)
            if _impatient(demand.id, overtaken, now, patience):
                free.reserve(demand)
    return chosen


def _impatient(id: int, overtaken: Mapping[int, float], now: float, patience: float) -> bool:
    return id in overtaken and now - overtaken[id] >= patience
