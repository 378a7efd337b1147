"""Dry runs: what a script would compute and submit, without doing it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wfl.configset import ConfigSet

    from .base import OpCall
    from .remoteinfo import RemoteInfo

__all__ = ["is_dry_run", "plan_call"]


def is_dry_run() -> bool:
    """Return whether calls are to be planned instead of run (environment variable ``EXPYRE_DRY_RUN``)."""
    return bool(os.environ.get("EXPYRE_DRY_RUN", "").strip())


def plan_call(call: OpCall, remote_info: RemoteInfo | None) -> ConfigSet | None:
    """Note a call in the plan and pretend that its inputs are its results."""
    raise NotImplementedError
