"""The code that a value brings along."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expyre.identity.encoder import Encoder


class CodeCollector:
    """Collects the code units that the values of one key bring along."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.units: dict[str, tuple[bytes, str]] = {}

    def write_function(self, enc: Encoder, function: types.FunctionType) -> None:
        """Append a function."""
        enc.out += b"y"
        enc.reference(function)

    def note_class(self, enc: Encoder, cls: type) -> None:
        """Collect the code of a class."""

    def note_module(self, name: str) -> None:
        """Collect the package a module is from."""

    def note_whole_module(self, name: str) -> None:
        """Collect the code of a whole module."""
