"""The spool directory in which a script leaves calls, and workers in queue jobs leave results.

All that changes hands changes it by renaming a file, which only one process can do::

    calls/BATCH/LABEL     waits to be claimed; a batch appears at one stroke
    calls/back/LABEL      the same, after a worker has given it back
    claimed/LABEL@WORKER  a worker has it and has not begun
    begun/LABEL@WORKER    a worker has begun it
    results/TICKET        what came of it
    functions/TOKEN       functions, each once for all calls
    workers/WORKER        a worker's last word about itself, JSON
    setup, key, alive, stop

A label is the ticket of a call, and if it ran before without getting done, a dash and for how many seconds. A ticket is
given out once: a call that is given away a second time has another one, so that a late result is known as such. Calls,
functions and results are messages of `expyre.node.serving.messages`, signed with the key of the block; a function that
is to be sent with each call (`ONCE`) stands in the file of the call, before it.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence  # noqa: UP035  (Python 3.9)

from .. import runner
from ..serving import messages

CALLS, CLAIMED, BEGUN, RESULTS, FUNCTIONS, WORKERS = "calls", "claimed", "begun", "results", "functions", "workers"
DIRECTORIES = (CALLS, CLAIMED, BEGUN, RESULTS, FUNCTIONS, WORKERS)
BACK = "back"  # the batch of calls that were given back
BATCH = "batch"  # a file in each other batch, so that it is never empty and no second one can take its name
SETUP, KEY, ALIVE, STOP, CODE = "setup", "key", "alive", "stop", "code"

ENDED = 21  # kind of message: the call has ended without a result; its data is JSON with reason and text

_AT_RANDOM = 8  # calls among which workers choose that have met others, so that they seldom want the same one again


class Label(NamedTuple):
    """What the name of a call's file says: its ticket, and for how many seconds it ran before in vain."""

    ticket: int
    seconds: int = 0

    def __str__(self) -> str:
        return f"{self.ticket:012d}-{self.seconds}" if self.seconds else f"{self.ticket:012d}"

    @classmethod
    def read(cls, name: str) -> Optional[Label]:  # noqa: UP045  (Python 3.9)
        """Return what a name says; None if it is not that of a call."""
        ticket, _, seconds = name.partition("@")[0].partition("-")
        if not (ticket.isdigit() and (seconds or "0").isdigit()):
            return None
        return cls(int(ticket), int(seconds or 0))


class Waiting(NamedTuple):
    """A call that waits: in which batch it lies, and its label."""

    batch: str
    label: Label


def result_name(ticket: int) -> str:
    """Return the name of the file with the result of a call."""
    return f"{ticket:012d}"


def note_of_end(ticket: int, reason: str, text: str, seconds: float = 0.0) -> bytes:
    """Return the message that says that a call has ended without a result.

    Parameters
    ----------
    ticket
        Of the call.
    reason
        Name of the error that it comes to.
    text
        What happened.
    seconds
        Run time.
    """
    payload = messages.Payload([json.dumps({"reason": reason, "text": text}).encode()], [])
    return b"".join(messages.pack(ENDED, number=ticket, seconds=seconds, payload=payload))


class Spool:
    """The spool directory as a worker uses it.

    Parameters
    ----------
    path
        The directory.
    worker
        Name of the worker.
    """

    def __init__(self, path: str, worker: str) -> None:
        self.path = path
        self.worker = worker
        with open(self._at(KEY), "rb") as file:
            self._key = bytes.fromhex(file.read().decode("ascii").strip())

    def _at(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    # -- claiming ------------------------------------------------------------------------------------------------

    def waiting(self) -> List[Waiting]:  # noqa: UP006
        """Return the calls that wait, oldest first, those that were given back before all others."""
        found = [Waiting(batch, label) for batch in self._names(CALLS) for label in self._labels(CALLS, batch)]
        return sorted(found, key=lambda each: (each.batch != BACK, each.label))

    def claim(self, line: List[Waiting]) -> Optional[Label]:  # noqa: UP006, UP045
        """Claim the first call of a line, or one of the next if others have got that; None if they have got all.

        Those that were tried are taken out of the line.
        """
        missed = False
        while line:
            each = line.pop(random.randrange(min(len(line), _AT_RANDOM)) if missed else 0)
            missed = True
            if self._move((CALLS, each.batch, str(each.label)), (CLAIMED, self._mine(each.label))):
                return each.label
        return None

    def begin(self, label: Label) -> bool:
        """Take note that a claimed call begins; False if somebody has taken it back."""
        return self._move((CLAIMED, self._mine(label)), (BEGUN, self._mine(label)))

    def give_back(self, label: Label, seconds: int = 0) -> None:
        """Put a claimed call back in the line.

        Parameters
        ----------
        label
            The call.
        seconds
            For how long it ran without getting done; 0 if that says nothing.
        """
        new = Label(label.ticket, max(seconds, label.seconds))
        try:
            os.mkdir(self._at(CALLS, BACK), 0o700)  # not its parents: a spool that was removed stays so
        except OSError:
            pass
        for state in (BEGUN, CLAIMED):
            if self._move((state, self._mine(label)), (CALLS, BACK, str(new))):
                return

    def own(self, state: str) -> List[Label]:  # noqa: UP006
        """Return the calls that this worker has claimed or begun."""
        return [label for label in self._labels(state) if os.path.exists(self._at(state, self._mine(label)))]

    def _mine(self, label: Label) -> str:
        return f"{label}@{self.worker}"

    def _labels(self, *parts: str) -> Iterable[Label]:
        return (label for name in self._names(*parts) if (label := Label.read(name)) is not None)

    def _names(self, *parts: str) -> List[str]:  # noqa: UP006
        try:
            return os.listdir(self._at(*parts))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _move(self, source: Sequence[str], target: Sequence[str]) -> bool:
        try:
            os.rename(self._at(*source), self._at(*target))
        except FileNotFoundError:
            return False
        return True

    # -- reading and writing -------------------------------------------------------------------------------------

    def call(self, label: Label) -> bytes:
        """Return the message of a call that has begun, behind that of its function if it brings that along.

        Raises
        ------
        NotAuthentic
            It is damaged or was not signed by the script.
        """
        return self._read(os.path.join(BEGUN, self._mine(label)), messages.CALL, messages.FUNCTION, number=label.ticket)

    def function(self, token: int) -> bytes:
        """Return the message that brings a function; see `call`."""
        return self._read(os.path.join(FUNCTIONS, str(token)), messages.FUNCTION, token=token)

    def setup(self) -> Optional[bytes]:  # noqa: UP045
        """Return the message that sets a worker up, None if there is none; see `call`."""
        return self._read(SETUP, messages.SETUP) if os.path.exists(self._at(SETUP)) else None

    def _read(self, name: str, *kinds: int, number: int = 0, token: Optional[int] = None) -> bytes:  # noqa: UP045
        try:
            with open(self._at(name), "rb") as file:
                data = bytes(runner.verify(file.read(), self._key, name))
        except OSError as error:
            raise runner.NotAuthentic(f"{name} cannot be read: {error.strerror}") from error
        found = messages.HEADER.unpack_from(data)
        if found[0] not in kinds or found[4] != number or (token is not None and found[3] != token):
            raise runner.NotAuthentic(f"{name} is the file of something else")
        return data

    def finish(self, label: Label, data: bytes) -> None:
        """Leave the result of a call; it appears at one stroke."""
        self.leave(result_name(label.ticket), data)
        try:
            os.unlink(self._at(BEGUN, self._mine(label)))
        except FileNotFoundError:
            pass  # the script has seen the result already

    def leave(self, name: str, data: bytes) -> None:
        """Write a signed file among the results."""
        temporary = self._at(RESULTS, f".{name}.{self.worker}")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.write(runner.trailer(len(data), hashlib.sha256(data).digest(), self._key))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self._at(RESULTS, name))
        except OSError:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def note(self, **words: Any) -> None:
        """Leave word about this worker."""
        temporary = self._at(WORKERS, f".{self.worker}")
        with open(temporary, "w") as file:
            json.dump({**words, "time": time.time()}, file)
        os.rename(temporary, self._at(WORKERS, self.worker))

    # -- the script ----------------------------------------------------------------------------------------------

    def is_stopped(self) -> bool:
        """Return whether workers are to end: the script has said so, or the spool is gone."""
        return os.path.exists(self._at(STOP)) or not os.path.exists(self._at(KEY))

    def pulse(self) -> str:
        """Return what changes as long as the script lives."""
        try:
            with open(self._at(ALIVE)) as file:
                return file.read()
        except OSError:
            return ""
