"""Calls go to the spool and their results come back, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from expyre.errors import ExPyReError, RequestError
from expyre.executor.blocks.answers import Answer, death, read_answer
from expyre.executor.blocks.jobs import Ended
from expyre.executor.blocks.ledger import Ledger, Placed
from expyre.executor.blocks.remote import RemoteSpool
from expyre.executor.blocks.script import Order, Report
from expyre.executor.blocks.settings import Settings
from expyre.executor.calls import Call
from expyre.executor.pickles.pickling import Pickles
from expyre.node.blocks import spool as names
from expyre.node.blocks.spool import Label
from expyre.node.serving import messages

__all__ = ["Found", "Rounds"]

_MOST_AHEAD = 64 * 1024**2  # bytes of calls in the spool that nobody has claimed, and in one round
_LEAST_AHEAD = 4  # calls for each worker that are there in any case


class Found(NamedTuple):
    """What was in a report.

    Attributes
    ----------
    moved
        Whether there was anything new.
    answered
        Whether there was the result of a call.
    broken
        What ``init_function`` has raised; None if it has not.
    """

    moved: bool
    answered: bool
    broken: BaseException | None


class Rounds:
    """Takes calls through a spool.

    An order whose answer was lost is given again as it was, since nobody knows what has become of it.

    Parameters
    ----------
    spool
        Where calls and results lie.
    settings
        What workers there are to be.
    setup
        Pickled function that each worker calls first; None for none.

    Attributes
    ----------
    ledger
        The calls that have not ended.
    pickles
        Their pickles.
    opened
        Whether there is a spool.
    """

    def __init__(self, spool: RemoteSpool, settings: Settings, setup: messages.Payload | None = None) -> None:
        self.ledger = Ledger()
        self.pickles = Pickles()
        self.opened = False
        self._spool = spool
        self._setup = setup
        self._restart_limit = settings.restart_limit
        self._least = _LEAST_AHEAD * settings.max_workers
        self._order = Order(1)
        self._sent: set[int] = set()  # functions
        self._tried = False  # whether the order was given before, and it is not known what has become of it
        self._doubtful: set[int] = set()  # batches that were given more than once

    # -- there

    def prepare(self) -> bool:
        """Put calls into the order, as many as are to lie ready for the workers; return whether there are any in it."""
        if not self.opened:
            self._spool.open(self._setup)
            self.opened = True
        if self._tried:
            self._doubtful.add(self._order.number)
        else:
            self._fill()
        return bool(self._order.calls)

    def give(self) -> Report:
        """Have the order carried out, and begin a new one."""
        self._tried = True
        report = self._spool.round(self._order)
        self._order, self._tried = Order(self._order.number + 1), False
        return report

    def _fill(self) -> None:
        ledger = self.ledger
        while ledger.ready and (ledger.waiting < self._least or ledger.waiting_bytes < _MOST_AHEAD):
            call = ledger.ready.popleft()
            if call.future.cancelled():
                call.begin()  # who waits for it is told
                self.pickles.done(call)
                continue
            try:
                self._place(call)
            except RequestError as error:
                call.fail(error)

    def _place(self, call: Call) -> None:
        self.pickles.now(call)
        assert call.pickled is not None
        assert call.payload is not None
        (token, function), ticket = call.pickled, self.ledger.next_ticket()
        pieces = messages.pack(messages.CALL, token=token, number=ticket, payload=call.payload)
        nbytes = call.payload.nbytes
        if token == messages.ONCE:
            pieces = messages.pack(messages.FUNCTION, token=token, number=ticket, payload=function) + pieces
            nbytes += function.nbytes
        elif token not in self._sent:
            self._order.functions[token] = self._spool.sign(
                messages.pack(messages.FUNCTION, token=token, payload=function)
            )
            self._sent.add(token)
        self._order.calls[ticket] = self._spool.sign(pieces)
        self.ledger.place(call, ticket, self._order.number, nbytes)

    def withdraw(self, call: Call) -> None:
        """See to it that nobody begins a call that was cancelled."""
        placed = self.ledger.find(call)
        if placed is not None:
            self._order.withdrawn.append((placed.batch, placed.ticket))
            call.begin()  # who waits for it is told
            self._forget(placed)

    def fail(self, error: BaseException) -> None:
        """End all calls with an error."""
        for call in list(self.ledger):
            call.fail(error)
        self.ledger, self._order = Ledger(), Order(self._order.number + 1)

    # -- and back

    def heed(self, report: Report, gone: Sequence[Ended]) -> Found:
        """Act upon a report.

        Parameters
        ----------
        report
            What a round has found.
        gone
            Workers that had ended before it.
        """
        moved = self._heed_claims(report)
        answered, broken = False, None
        for name, data in report.results.items():
            if name.startswith(names.SETUP):
                broken = self._answer(name, data, 0, "a worker").value
                self.fail(broken)
            else:
                answered |= self._heed_result(name, data)
            self._order.seen.append(name)
        for ended in gone:
            self._bury(ended, report)
        # what was given twice stays, so that even a very late first try finds it
        self._order.spent = [batch for batch in self.ledger.spent() if batch not in self._doubtful]
        return Found(moved or bool(report.results), answered, broken)

    def _heed_claims(self, report: Report) -> bool:
        moved = False
        for name in [*report.claimed, *report.begun]:
            placed, worker = self._placed(name), name.partition("@")[2]
            if placed is None or placed.worker == worker:
                continue
            moved = True
            if placed.call.begin():
                self.ledger.claim(placed, worker)
            else:  # it was cancelled while a worker claimed it
                self._forget(placed)
        return moved

    def _heed_result(self, name: str, data: bytes) -> bool:
        """End the call that a result is of; False if it is not waited for any more."""
        placed = self._placed(name)
        if placed is not None:
            self._settle(placed, self._answer(name, data, placed.ticket, placed.call))
        return placed is not None

    def _placed(self, name: str) -> Placed | None:
        """Return the call that a file is about; None if it is not waited for."""
        label = Label.read(name)
        return None if label is None else self.ledger.placed.get(label.ticket)

    def _answer(self, name: str, data: bytes, ticket: int, what: object) -> Answer:
        try:
            return read_answer(self._spool.read(data, name), ticket, what)
        except ExPyReError as error:
            return Answer(False, error)

    def _bury(self, ended: Ended, report: Report) -> None:
        """Find out, in a round after the end of a worker, what has become of its calls."""
        for name in report.claimed:
            if name.partition("@")[2] == ended.worker:
                self._order.returned.append(name)
        for name in report.begun:
            if name.partition("@")[2] == ended.worker:
                self._order.forgotten.append(name)
                placed = self._placed(name)
                if placed is not None:
                    self._settle(placed, death(placed.call, ended.error))

    def _settle(self, placed: Placed, answer: Answer) -> None:
        """End a call, or try it again if its worker has died."""
        call = placed.call
        if answer.died:
            call.tries += 1
            if call.tries <= self._restart_limit and not call.future.cancelled():
                self.ledger.remove(placed)
                self.ledger.ready.appendleft(call)
                return
        if call.begin():
            call.end(answer.ok, answer.value)
        self._forget(placed)

    def _forget(self, placed: Placed) -> None:
        """Have no more to do with a call that has ended."""
        self.ledger.remove(placed)
        self.pickles.done(placed.call)
