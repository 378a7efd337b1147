"""Dry runs: what a script would compute and submit, without doing it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .engines.base import number_from_env
from .output import Sink
from .task import name_of

if TYPE_CHECKING:
    import numpy as np

    from wfl.configset import ConfigSet

    from .base import OpCall
    from .remoteinfo import RemoteInfo

__all__ = ["is_dry_run", "plan_call"]

ASSUMED = "results assumed to be like the inputs"


def is_dry_run() -> bool:
    """Return whether calls are to be planned instead of run (environment variable ``EXPYRE_DRY_RUN``)."""
    return os.environ.get("EXPYRE_DRY_RUN", "").strip() not in ("", "0")


def plan_call(
    call: OpCall, remote_info: RemoteInfo | None, rng: np.random.Generator | None = None
) -> ConfigSet | None:
    """Note a call in the plan and pretend that its inputs are its results; nothing is written.

    Returns
    -------
    ConfigSet or None
        The configurations among the inputs, in memory; None where the call would return None.
    """
    from wfl.configset import iter_items

    items = list(iter_items(call.inputs))
    if remote_info is None:
        _plan_here(call, len(items))
    else:
        _plan_jobs(call, remote_info, items, rng)
    waits = remote_info is None or call.wait_for_results
    return _pretended(items) if call.outputs is not None and waits else None


def _plan_here(call: OpCall, n: int) -> None:
    from expyre import plan

    workers = call.info.num_python_subprocesses
    if workers is None:
        workers = number_from_env("WFL_NUM_PYTHON_SUBPROCESSES", "WFL_AUTOPARA_NPOOL")
    plan.note(plan.PlannedCall(name_of(call.op), "pool" if workers else "serial", note=f"{n} items; {ASSUMED}"))


def _plan_jobs(call: OpCall, remote_info: RemoteInfo, items: list[Any], rng: np.random.Generator | None) -> None:
    from expyre import plan
    from expyre.launch import LaunchOptions

    from .remote import cut, make_jobs

    chunks = cut(call, remote_info, _Items(items), rng)
    options = LaunchOptions(
        remote_info.sys_name, remote_info.get_resources(), tuple(remote_info.header_extra), remote_info.exact_fit,
        remote_info.partial_node,
    )
    if chunks:
        jobs = make_jobs(call, remote_info, chunks).jobs
        plan.note_jobs(jobs, options, op=name_of(call.op), key=remote_info.matched_key)


class _Items(Sink):
    """Items that have been read already."""

    def items(self, source: Any) -> Any:
        return iter(self._inputs)


def _pretended(items: list[Any]) -> ConfigSet:
    from wfl.configset import ConfigSet
    from wfl.configset.tree import place_in_tree

    tree: list[Any] = []
    for item in items:
        value = item.value._in_memory().items if hasattr(item.value, "_in_memory") else item.value
        if not hasattr(value, "get_positions") and not isinstance(value, list):
            continue
        if item.path is None:
            tree.append(value)
        else:
            place_in_tree(tree, item.path, value)
    return ConfigSet(tree)
