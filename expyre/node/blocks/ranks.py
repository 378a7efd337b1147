"""The MPI ranks that run the calls of a worker, in place of one process; see `expyre.node.blocks.crew`.

Standard library only, Python 3.9.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Optional  # noqa: UP035  (Python 3.9)

from ..ranks.endings import Ending
from ..ranks.gathered import by_rank
from ..ranks.leading import make_team
from ..ranks.request import Ranks
from ..ranks.team import NotStarted
from ..serving import messages
from ..serving.messages import Message, Payload
from ..starters.base import CannotStart
from .spool import note_of_end

__all__ = ["RankCrew"]


class RankCrew:
    """MPI ranks that serve calls.

    Parameters
    ----------
    ranks
        What they are to be like.
    place
        What they are given of the machine; see `expyre.node.serving.placing.settle`.
    """

    def __init__(self, ranks: Ranks, place: Mapping[str, Any]) -> None:
        self._team = make_team(ranks, **place)

    @property
    def runs(self) -> bool:
        """Whether there are ranks."""
        return self._team.runs

    def start(self) -> Optional[bytes]:  # noqa: UP045  (Python 3.9)
        """Start the ranks; return a message that says why they cannot be."""
        try:
            failed = self._team.start()
        except (NotStarted, CannotStart) as error:
            return note_of_end(0, "WorkerDied", str(error))
        return None if failed is None else _packed(failed)

    def send(self, data: bytes) -> bool:
        """Send a message to all ranks."""
        self._team.send(data)
        return True

    def heard(self, seconds: float) -> bool:
        """Wait so long for the ranks to answer, or for one of them to fail or to end."""
        return self._team.heard(seconds) or self._team.falters

    def receive(self) -> Optional[bytes]:  # noqa: UP045  (Python 3.9)
        """Return the answer of all ranks, or that of one which has failed, waiting for it; None if one is gone."""
        answer = self._team.answer()
        if answer.failure is not None:
            return _packed(answer.failure)
        return None if answer.messages is None else _together(answer.messages)

    def stop(self) -> None:
        """End the ranks; they may finish what was registered to be done at their end."""
        self._team.stop()

    def kill(self) -> None:
        """End the ranks with all that they have started."""
        self._team.kill()

    def reap(self) -> Ending:
        """End what is left of ranks of which some have ended by themselves; return how those have."""
        return self._team.end()


def _packed(message: Message) -> bytes:
    payload = Payload([bytes(message.data)], [])
    return b"".join(messages.pack(message.kind, number=message.number, seconds=message.seconds, payload=payload))


def _together(answers: List[Message]) -> bytes:  # noqa: UP006
    """Return one message with what all ranks have answered."""
    first = answers[0]
    if first.kind != messages.RESULT:
        return _packed(first)
    pieces = messages.pack(
        first.kind,
        token=any(each.token for each in answers),
        number=first.number,
        seconds=max(each.seconds for each in answers),
        payload=messages.dump(by_rank(answers)),
    )
    return b"".join(pieces)
