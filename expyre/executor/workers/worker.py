"""The script's view of a worker: its place, its connections, the calls it has been given."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from expyre.errors import TimedOut, WorkerDied
from expyre.executor.calls import Call
from expyre.executor.pickles.functions import Pickled
from expyre.executor.pickles.loading import exception_in, value_in
from expyre.executor.workers.channels import Channel
from expyre.executor.workers.places import Place
from expyre.node.serving import messages
from expyre.node.serving.messages import Message, Payload, pack

__all__ = ["Answer", "Worker"]

_GRACE = 2.0  # seconds that the other ranks have to answer once one has failed or gone
_LAST_WORDS = 10.0  # seconds that a worker of one call has to end after it


class Answer:
    """What came of a call, or of setting a worker up.

    Attributes
    ----------
    ok
        Whether there is a value.
    value
        The value, or the exception; a list by rank if there are several ranks.
    seconds
        Run time.
    unknown
        Whether the call was not run because its function had been taken back.
    """

    __slots__ = ("ok", "seconds", "unknown", "value")

    def __init__(self, ok: bool, value: Any, seconds: float, *, unknown: bool = False) -> None:
        self.ok = ok
        self.value = value
        self.seconds = seconds
        self.unknown = unknown


def _read(message: Message) -> Answer:
    try:
        if message.kind in (messages.FAILURE, messages.NOT_READY):
            return Answer(False, exception_in(message), message.seconds)
        if message.kind == messages.RESULT:
            return Answer(True, value_in(message), message.seconds)
        return Answer(True, None, message.seconds, unknown=message.kind == messages.UNKNOWN)
    except BaseException as error:  # raised by a class of the user, or there is none here
        return Answer(False, error, message.seconds)


class Worker:
    """A worker of one or several ranks.

    Attributes
    ----------
    number
        Distinguishes it from the others of the executor.
    size
        Number of ranks.
    calls
        Those given to it, oldest first: the first one may be running.
    since
        When the first one became the first, in s of the monotonic clock.
    reserved, once
        The call that it is to get as soon as it is connected; whether it is there for a single call.
    ready
        Whether it is set up.
    stopping
        Whether it was told to end when it is done.
    faltering_since
        When a rank failed or ended before the others, in s of the monotonic clock; 0 if none has.
    doomed
        Why it is going to be killed, as an exception; None if it is not.
    """

    def __init__(self, number: int, place: Place, size: int, reserved: Call | None = None) -> None:
        self.number = number
        self.place = place
        self.size = size
        self.reserved = reserved
        self.once = reserved is not None
        self.pid = 0
        self.calls: deque[Call] = deque()
        self.since = time.monotonic()
        self.ready = False
        self.stopping = False
        self.faltering_since = 0.0
        self.doomed: BaseException | None = None
        self.channels: dict[int, Channel] = {}
        self._answers: dict[int, Answer] = {}
        self._functions: set[int] = set()
        self._generation = 0

    @property
    def connected(self) -> bool:
        """Whether all ranks are connected."""
        return len(self.channels) == self.size

    @property
    def able(self) -> bool:
        """Whether it takes calls."""
        return self.ready and not self.stopping and self.doomed is None

    @property
    def under_way(self) -> list[Call]:
        """The calls that it has, or will get when it is there."""
        return [*self.calls] if self.reserved is None else [self.reserved, *self.calls]

    def _send(self, pieces: list[Any]) -> None:
        for channel in self.channels.values():
            channel.send(pieces)

    def set_up(self, function: Payload | None) -> None:
        """Have the worker call a function before anything else; without one it is ready."""
        self.ready = function is None
        if function is not None:
            self._send(pack(messages.SETUP, payload=function))

    def give(self, call: Call, generation: int) -> None:
        """Give the worker a call, which has been pickled."""
        assert call.pickled is not None
        assert call.payload is not None
        self._introduce(call.pickled, generation)
        self._send(pack(messages.CALL, token=call.pickled.token, number=call.number, payload=call.payload))
        if not self.calls:
            self.since = time.monotonic()
        self.calls.append(call)

    def _introduce(self, pickled: Pickled, generation: int) -> None:
        """Send a function that the worker does not have."""
        if generation != self._generation:
            self._generation = generation
            self._functions.clear()
            self._send(pack(messages.FORGET))
        if pickled.token not in self._functions:
            self._send(pack(messages.FUNCTION, token=pickled.token, payload=pickled.payload))
            if pickled.token != messages.ONCE:
                self._functions.add(pickled.token)

    def give_back(self) -> Call:
        """Return the first call, which the worker could not run because it does not have the function."""
        call = self.calls.popleft()
        if call.pickled is not None:
            self._functions.discard(call.pickled.token)
        return call

    def stop(self) -> None:
        """Have the worker end when it has done what it was given."""
        self.stopping = True
        self._send(pack(messages.STOP))

    def receive(self, rank: int, message: Message) -> Answer | None:
        """Take in a message; return the answer once all ranks have sent theirs."""
        answer = _read(message)
        if self.size == 1 or message.kind == messages.NOT_READY:
            return self._settled(message, answer)
        self._answers[rank] = answer
        if not answer.ok and not self.faltering_since:
            self.faltering_since = time.monotonic()
        if len(self._answers) < self.size:
            return None
        self.faltering_since = 0.0
        answers, self._answers = [self._answers[i] for i in range(self.size)], {}
        failed = [each for each in answers if not each.ok]
        if failed:
            return self._settled(message, failed[0])
        return self._settled(message, Answer(True, [each.value for each in answers], max(a.seconds for a in answers)))

    def _settled(self, message: Message, answer: Answer) -> Answer:
        if message.kind == messages.READY:
            self.ready = True
        self.since = time.monotonic()
        return answer

    @property
    def failure_in_part(self) -> BaseException | None:
        """The exception of a rank that has failed while others have not answered; they may wait for it for ever."""
        return next((answer.value for answer in self._answers.values() if not answer.ok), None)

    def lose(self, rank: int) -> None:
        """Note that a rank has hung up."""
        if self.calls and not self.faltering_since:
            self.faltering_since = time.monotonic()

    def due(self) -> tuple[float, BaseException] | None:
        """Return when the worker has to be ended, and with which error, if nothing is heard of it; None for never."""
        if self.doomed is not None:
            return None
        if self.faltering_since:
            what = self.calls[0] if self.calls else "a worker"
            error = self.failure_in_part or WorkerDied(f"{what}: one of its ranks has ended")
            return self.faltering_since + _GRACE, error
        if self.calls and (limit := self.calls[0].request.max_time) is not None:
            return self.since + limit, TimedOut(f"{self.calls[0]} reached its time limit of {limit:g} s and was ended")
        if self.once and self.ready and not self.calls:
            return self.since + _LAST_WORDS, WorkerDied("a worker did not end")
        return None

    def take_back(self) -> list[Call]:
        """Return the calls that the worker has not taken, and forget them."""
        untaken: set[int] = set()
        for channel in self.channels.values():
            for message in channel.take_back():
                if message.kind == messages.CALL:
                    untaken.add(message.number)
                elif message.kind == messages.FUNCTION:
                    self._functions.discard(message.token)
                elif message.kind == messages.FORGET:
                    self._functions.clear()
        back = [call for call in self.calls if call.number in untaken]
        if back:
            self.calls = deque(call for call in self.calls if call.number not in untaken)
        return back

    def read(self, rank: int, handle: Callable[[Worker, Answer], None]) -> bool:
        """Handle what a rank has sent; False if it will never send anything again."""
        try:
            for message in self.channels[rank].messages():
                answer = self.receive(rank, message)
                if answer is not None:
                    handle(self, answer)
        except EOFError:
            return False
        return True

    def end_group(self) -> None:
        """Kill what there is of the worker's process group, if nobody else does."""
        if self.pid:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the connections."""
        for channel in self.channels.values():
            channel.close()
