"""What the ranks of a call have returned, put together without being unpickled.

Who unpickled it here would need what the function needs, and might load MPI into a process that is no rank.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any, Callable, Sequence, Tuple  # noqa: UP035  (Python 3.9)

from ..serving.messages import Message

__all__ = ["Pickled", "by_rank"]


class Pickled:
    """A value in pickled form; becomes the value when it is itself pickled and unpickled."""

    def __init__(self, message: Message) -> None:
        self._data = bytes(message.data)
        self._buffers = message.buffers

    def __reduce__(self) -> Tuple[Callable[..., Any], Tuple[Any, ...]]:  # noqa: UP006
        if not self._buffers:
            return pickle.loads, (self._data,)
        return partial(pickle.loads, buffers=[pickle.PickleBuffer(buffer) for buffer in self._buffers]), (self._data,)


def by_rank(messages: Sequence[Message]) -> list[Pickled]:
    """Return the values in messages."""
    return [Pickled(message) for message in messages]
