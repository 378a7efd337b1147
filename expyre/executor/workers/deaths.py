"""How workers ended that should not have, in words and as errors."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from expyre.errors import ExPyReJobDiedError, OutOfMemory, WorkerDied
from expyre.node.family import how_it_ended, kills_for_memory

__all__ = ["Deaths", "how"]


class Deaths:
    """Tells what a worker died of."""

    def __init__(self) -> None:
        self._out_of_memory = kills_for_memory()

    def error(self, what: object, note: Mapping[str, Any]) -> ExPyReJobDiedError:
        """Return the error for a call whose worker has ended.

        Parameters
        ----------
        what
            What the worker was doing.
        note
            What the keeper says of it.
        """
        kills, before = kills_for_memory(), self._out_of_memory
        self._out_of_memory = kills
        if note["status"] == -signal.SIGKILL and kills > before:
            return OutOfMemory(f"{what}: the system killed its worker because memory had run out; use fewer workers")
        return WorkerDied(f"{what}: its worker {how(note)}")


def how(note: Mapping[str, Any]) -> str:
    """Return how a process ended, in words, and what it said last."""
    said = f"; it said:\n{note['words']}" if note.get("words") else ""
    if not note.get("why"):
        return how_it_ended(note["status"]) + said
    return (f"did not start: {note['why']}" if note["status"] == 127 else str(note["why"])) + said
