"""What workers an executor is to have."""

from __future__ import annotations

from dataclasses import dataclass

from expyre.executor.requests import Request
from expyre.executor.workers.launching import Launcher
from expyre.executor.workers.places import Machine
from expyre.node.serving.messages import Payload

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What workers an executor is to have.

    Attributes
    ----------
    request
        What each asks for, unless the call says otherwise.
    max_workers
        Most at a time.
    machine
        What there is for all of them.
    launcher
        Starts them.
    block
        Whether workers stay for further calls.
    init_payload
        Pickled function that each calls first; None for none.
    restart_limit
        How often a call is tried again whose worker has died.
    """

    request: Request
    max_workers: int
    machine: Machine
    launcher: Launcher
    block: bool = False
    init_payload: Payload | None = None
    restart_limit: int = 0
