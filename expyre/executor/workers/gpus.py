"""The GPUs that an executor gives to its workers, and how it waits for those that other executors have."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence

from expyre.executor.workers.claims import Claims
from expyre.node.family import ancestors

__all__ = ["Gpus"]

_PAUSE = 0.25  # seconds until a GPU is looked at again that another executor has
_COURTESY = 0.6  # seconds for which a GPU is left to others who wait for one
_LONG = 10.0  # seconds of waiting that are worth a word

logger = logging.getLogger(__name__)


class Gpus:
    """GPUs, each of which one worker has for itself, or several who share.

    What this executor gives to a worker is claimed as long as the worker is there, so that executors of one user wait
    for each other. They are in different processes, or do not know of each other: who waits looks again from time to
    time, and who has given a GPU back while somebody waits does not take it again at once.

    Parameters
    ----------
    ids
        Of the GPUs.
    claims
        What keeps other executors off them; None where the queue assigns them.
    """

    def __init__(self, ids: Sequence[str], claims: Claims | None) -> None:
        self.ids = tuple(ids)
        self._claims = claims
        self._users = dict.fromkeys(self.ids, 0)
        self._order = {gpu: i for i, gpu in enumerate(self.ids)}.__getitem__
        self._free = list(self.ids)  # those that no worker here has for itself
        self._not_before: dict[str, float] = {}
        self._lacks = self._said = False
        self._since: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def begin(self) -> None:
        """Note that who still lacks something now is going to ask."""
        self._lacks = False

    def take(self, count: int) -> tuple[str, ...] | None:
        """Return so many GPUs for a worker of its own, None if there are not enough now."""
        if not count:
            return ()
        if count > len(self._free):
            return None
        now = time.monotonic()
        able = [gpu for gpu in self._free if self._not_before.get(gpu, 0.0) <= now]
        mine: list[str] = []
        for gpu in sorted(able, key=self._users.__getitem__) if len(able) >= count else []:
            if len(mine) == count:
                break
            if self._claim(gpu):
                mine.append(gpu)
            else:  # not all at the same time: two who want the same would hinder each other for ever
                self._not_before[gpu] = now + _PAUSE * random.uniform(0.8, 1.2)
        if len(mine) < count:
            self._lacks = True
            self._unclaim(mine)
            return None
        mine.sort(key=self._order)
        for gpu in mine:
            self._free.remove(gpu)
            self._users[gpu] += 1
        return tuple(mine)

    def share(self, count: int) -> tuple[str, ...]:
        """Return so many GPUs that the worker shares with others: those that the fewest workers use."""
        least = sorted(self.ids, key=self._users.__getitem__)[:count]
        for gpu in least:
            self._users[gpu] += 1
        return tuple(sorted(least, key=self._order))

    def take_back(self, gpus: Sequence[str], *, shared: bool) -> None:
        """Take back what a worker had."""
        for gpu in gpus:
            self._users[gpu] -= 1
        if shared or not gpus:
            return
        self._unclaim(gpus)
        self._free = sorted([*self._free, *gpus], key=self._order)
        if self.are_wanted():
            self._not_before.update(dict.fromkeys(gpus, time.monotonic() + _COURTESY))

    @property
    def claimed(self) -> bool:
        """Whether other executors may wait for what this one has."""
        return self._claims is not None

    def are_wanted(self) -> bool:
        """Return whether another executor waits for GPUs."""
        return self._claims is not None and self._claims.others_wait()

    def patience(self) -> float | None:
        """Return after how many seconds to ask again for what others have; None if nothing was lacking.

        Others are told whether something is.
        """
        if self._claims is not None:
            self._claims.wait_in_line(self._lacks)
        if not self._lacks:
            self._since, self._said = None, False
            return None
        now = time.monotonic()
        self._since = self._since or now
        if not self._said and now - self._since > _LONG:
            self._say()
        return max(0.01, min((self._not_before.get(gpu, now) for gpu in self._free), default=now + _PAUSE) - now)

    def _say(self) -> None:
        self._said = True
        assert self._claims is not None
        owners = {owner for gpu in self._free if (owner := self._claims.owner(gpu))}
        logger.warning(
            "Calls have been waiting for %.0f s for GPUs that other executors of yours have (processes: %s); they "
            "start when these are given back. To share GPUs, say oversubscribe=True",
            _LONG, ", ".join(sorted(owners)) or "not known",
        )  # fmt: skip

    def _claim(self, gpu: str) -> bool:
        if self._claims is None:
            return True
        try:
            return self._claims.claim(gpu) or self._is_given_to_us(gpu)
        except OSError as error:
            logger.warning("GPUs cannot be claimed, other executors may use the same ones: %s", error)
            self._claims = None
            return True

    def _is_given_to_us(self, gpu: str) -> bool:
        """Return whether a process has claimed a GPU for which this one works: this executor is part of a call."""
        assert self._claims is not None
        return self._claims.owner(gpu) in map(str, ancestors())

    def _unclaim(self, gpus: Sequence[str]) -> None:
        if self._claims is not None:
            self._claims.release(gpus)

    def release(self) -> None:
        """Give up all claims."""
        if self._claims is not None:
            self._claims.release()
