"""What came of a call, from the file that a worker has left."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from expyre.errors import AuthenticationError, ExPyReJobDiedError, OutOfMemory, TimedOut, WorkerDied
from expyre.executor.pickles.loading import exception_in, value_in
from expyre.node.blocks.spool import ENDED
from expyre.node.serving import messages
from expyre.node.serving.messages import Message
from expyre.node.serving.streams import Assembler

__all__ = ["Answer", "death", "read_answer"]

_REASONS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (AuthenticationError, OutOfMemory, TimedOut, WorkerDied)
}
_KINDS = (messages.RESULT, messages.FAILURE, messages.NOT_READY, ENDED)


class Answer(NamedTuple):
    """What came of a call.

    Attributes
    ----------
    ok, value
        Whether there is a value; the value or an exception.
    died
        Whether it may be tried again: its worker has died, the call itself did nothing wrong.
    """

    ok: bool
    value: Any
    died: bool = False


def read_answer(data: bytes, ticket: int, what: object) -> Answer:
    """Return what came of a call.

    Parameters
    ----------
    data
        Content of the result, whose signature has been verified.
    ticket
        Of the call; 0 for what is said about setting a worker up.
    what
        The call, for messages.
    """
    found = Assembler().feed(data)
    if len(found) != 1 or found[0].kind not in _KINDS or found[0].number != ticket:
        return Answer(False, AuthenticationError(f"{what}: its result is that of something else"))
    try:
        return _read(found[0], what)
    except Exception as error:  # of classes that cannot be imported here
        return Answer(False, error)


def _read(message: Message, what: object) -> Answer:
    if message.kind == messages.RESULT:
        return Answer(True, value_in(message))
    if message.kind != ENDED:
        return Answer(False, exception_in(message))
    told = json.loads(bytes(message.data))
    error = _REASONS.get(told["reason"], ExPyReJobDiedError)(f"{what}: {told['text']}")
    return Answer(False, error, died=isinstance(error, ExPyReJobDiedError) and not isinstance(error, TimedOut))


def death(what: object, error: BaseException | None) -> Answer:
    """Return what has come of a call whose worker's job has ended under it, with an error or without."""
    named = isinstance(error, ExPyReJobDiedError) and type(error) is not ExPyReJobDiedError
    kind: Any = type(error) if named else WorkerDied
    died: BaseException = kind(f"{what}: the job of its worker has ended. {error or ''}".rstrip())
    died.__cause__ = error
    return Answer(False, died, died=True)
