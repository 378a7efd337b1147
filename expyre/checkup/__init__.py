"""What a first job needs: facts about a host, what is wrong with them, and the look before the first submission."""

from __future__ import annotations

from expyre.checkup.facts import Facts, examine
from expyre.checkup.finding import FAILURE, OK, WARNING, Finding
from expyre.checkup.findings import findings, unreachable
from expyre.checkup.handshake import forget, handshake
from expyre.checkup.here import Here, look_here

__all__ = [
    "FAILURE",
    "OK",
    "WARNING",
    "Facts",
    "Finding",
    "Here",
    "examine",
    "findings",
    "forget",
    "handshake",
    "look_here",
    "unreachable",
]
