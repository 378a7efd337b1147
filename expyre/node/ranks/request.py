"""What the ranks of a call, or of a worker, are to be like.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Tuple  # noqa: UP035  (Python 3.9)

__all__ = ["FILE", "Ranks"]

FILE = "_expyre_ranks"
"""Name of the file in a job's directory that says so."""


class Ranks(NamedTuple):
    """What is asked for; the names are those of `expyre.executor.requests.Request`."""

    cores: int
    threads_per_core: int = 1
    gpus: int = 0
    command_line_argument_lst: Tuple[str, ...] = ()  # noqa: UP006  (Python 3.9)

    @property
    def slots(self) -> int:
        """Cores of all threads of all ranks."""
        return self.cores * self.threads_per_core

    @property
    def oversubscribe(self) -> bool:
        """Whether cores are shared with others: what a job has is its own."""
        return False

    def to_text(self) -> str:
        """Return the content of a file."""
        return json.dumps(self._asdict(), indent=1) + "\n"

    @classmethod
    def read(cls, text: str) -> Ranks:
        """Return what `to_text` has written."""
        found = json.loads(text)
        return cls(**{**found, "command_line_argument_lst": tuple(found["command_line_argument_lst"])})
