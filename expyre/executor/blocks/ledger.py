"""Which calls wait, which are in the spool, and under which ticket."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from expyre.executor.calls import Call

__all__ = ["Ledger", "Placed"]


@dataclass
class Placed:
    """A call in the spool.

    Attributes
    ----------
    call, ticket
        The call, and under which number it is there.
    batch
        With which it got there.
    nbytes
        Its size.
    worker
        Who has claimed it; nothing while it waits.
    """

    call: Call
    ticket: int
    batch: int
    nbytes: int
    worker: str = ""


class Ledger:
    """Keeps account of calls.

    Attributes
    ----------
    ready
        Those that are still here.
    placed
        Those in the spool, by ticket.
    """

    def __init__(self) -> None:
        self.ready: deque[Call] = deque()
        self.placed: dict[int, Placed] = {}
        self._tickets = itertools.count(1)
        self._ticket_of: dict[int, int] = {}
        self._waiting_in: dict[int, int] = {}  # batch -> calls that nobody has claimed
        self.waiting_bytes = 0
        self.waiting = 0

    def __len__(self) -> int:
        return len(self.ready) + len(self.placed)

    def __iter__(self) -> Iterator[Call]:
        yield from self.ready
        yield from (each.call for each in self.placed.values())

    def next_ticket(self) -> int:
        """Return a number that has not been given out before."""
        return next(self._tickets)

    def place(self, call: Call, ticket: int, batch: int, nbytes: int) -> None:
        """Take note that a call goes to the spool."""
        self.placed[ticket] = Placed(call, ticket, batch, nbytes)
        self._ticket_of[call.number] = ticket
        self._waiting_in[batch] = self._waiting_in.get(batch, 0) + 1
        self.waiting += 1
        self.waiting_bytes += nbytes

    def find(self, call: Call) -> Placed | None:
        """Return what is known of a call in the spool; None if it is not there."""
        return self.placed.get(self._ticket_of.get(call.number, 0))

    def claim(self, placed: Placed, worker: str) -> None:
        """Take note that a worker has claimed a call."""
        if not placed.worker:
            self._not_waiting(placed)
        placed.worker = worker

    def of_worker(self, worker: str) -> list[Placed]:
        """Return the calls that a worker has claimed."""
        return [each for each in self.placed.values() if each.worker == worker]

    def remove(self, placed: Placed) -> None:
        """Forget a ticket."""
        del self.placed[placed.ticket]
        self._ticket_of.pop(placed.call.number, None)
        if not placed.worker:
            self._not_waiting(placed)

    def _not_waiting(self, placed: Placed) -> None:
        self._waiting_in[placed.batch] -= 1
        self.waiting -= 1
        self.waiting_bytes -= placed.nbytes

    def spent(self) -> list[int]:
        """Return the batches whose calls have all been claimed; each is told once."""
        found = [batch for batch, count in self._waiting_in.items() if count == 0]
        for batch in found:
            del self._waiting_in[batch]
        return found
