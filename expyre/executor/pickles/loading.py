"""What workers have sent, as values and exceptions."""

from __future__ import annotations

from typing import Any

from expyre.node.serving.messages import Message
from expyre.pickles.exceptions import load_exception
from expyre.pickles.loading import load

__all__ = ["exception_in", "value_in"]


def value_in(message: Message) -> Any:
    """Return the value in a message, whose token says whether code may be part of it.

    Raises
    ------
    Exception
        What its pickle raises.
    """
    if message.data is None or not message.token:
        return message.load()
    return load(message.data, message.buffers)


def exception_in(message: Message) -> BaseException:
    """Return the exception that a worker has sent, with the traceback there as its cause."""
    data, text = message.load()
    return load_exception(memoryview(data), text)
