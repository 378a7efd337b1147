"""Running an operation as queued jobs, one per chunk of items, and bringing the results home."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from expyre.steps import step

from .batching import Chunks
from .jobs import FAILED_KEY, LOCATION_KEY, Jobs
from .output import ItemResults, open_output
from .rng import PER_ITEM_INFO, InfoSource
from .task import Chunk, name_of, takes_per_item_info

if TYPE_CHECKING:
    import numpy as np

    from expyre.calls import Call
    from expyre.func import ExPyRe
    from wfl.configset import ConfigSet

    from .base import OpCall
    from .output import Sink
    from .remoteinfo import RemoteInfo

__all__ = ["FAILED_KEY", "chunk_calls", "do_remotely", "make_jobs"]

_log = logging.getLogger(__name__)

# What the key of a job does not depend on: where its results are put, and how many processes it uses.
_NOT_IN_KEY = ("outputspec", "num_python_subprocesses", "num_inputs_per_python_subprocess", "unkeyed_kwargs")


# ---------------------------------------------------------------------------------------------------- calls


def _plain(value: Any) -> Any:
    """Return an item as it goes to a job: without its place in the input, so that equal items give equal jobs."""
    if hasattr(value, "_in_memory"):
        from wfl.configset import ConfigSet

        plain = ConfigSet(_plain_tree(value._in_memory().items))
        plain.read_kwargs = dict(value.read_kwargs)
        return plain
    return _plain_atoms(value) if hasattr(value, "get_positions") else value


def _plain_tree(value: Any) -> Any:
    return [_plain_tree(v) for v in value] if isinstance(value, (list, tuple)) else _plain(value)


def _plain_atoms(atoms: Any) -> Any:
    if LOCATION_KEY not in atoms.info and FAILED_KEY not in atoms.info:
        return atoms
    from wfl.configset.locations import shallow_copy

    new = shallow_copy(atoms)
    for key in (LOCATION_KEY, FAILED_KEY):
        new.info.pop(key, None)
    return new


def _by_keyword(call: OpCall, names: set[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the operation's arguments with those of these names among the keywords, where that is possible."""
    try:
        known = inspect.signature(call.op).parameters.values()
        parameters = [p.name for p in known if p.kind is p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):
        parameters = []
    at = call.info.iterable_arg
    if isinstance(at, int):
        parameters = parameters[:at] + parameters[at + 1 :]
    named = parameters[: len(call.args)]
    first = next((i for i, name in enumerate(named) if name in names), len(call.args))
    if (isinstance(at, int) and first < at) or len(named) < len(call.args):
        return call.args, call.kwargs
    return call.args[:first], {**dict(zip(named[first:], call.args[first:], strict=True)), **call.kwargs}


def _env_vars(call: OpCall, remote_info: RemoteInfo) -> list[str]:
    """Return the variables of the jobs, among them the number of subprocesses if nothing says it otherwise."""
    name = "WFL_NUM_PYTHON_SUBPROCESSES"
    given = any(var.split("=", 1)[0].strip() == name for var in remote_info.env_vars)
    if given or call.info.num_python_subprocesses is not None:
        return list(remote_info.env_vars)
    return [*remote_info.env_vars, f"{name}=${{EXPYRE_NUM_CORES_PER_NODE}}"]


def chunk_calls(
    call: OpCall, remote_info: RemoteInfo, chunks: Mapping[int, Chunk], *, suffix: str = ""
) -> list[Call]:
    """Return one call per chunk; its key depends on the items and the operation, not on the chunk's number."""
    from expyre.func import Call

    from .pool import do_in_pool

    ignore = set(remote_info.hash_ignore)
    args, kwargs = _by_keyword(call, ignore)
    info = call.info
    common = {
        "op": call.op,
        "args": list(args),
        "iterable_arg": info.iterable_arg,
        "skip_failed": info.skip_failed,
        "initializer": tuple(info.initializer),
        "num_python_subprocesses": info.num_python_subprocesses,
        "num_inputs_per_python_subprocess": info.num_inputs_per_python_subprocess,
        "unkeyed_kwargs": {name: value for name, value in kwargs.items() if name in ignore},
    }
    keyed = {name: value for name, value in kwargs.items() if name not in ignore}
    return [
        Call(
            f"{remote_info.job_name}_chunk_{number}{suffix}",
            do_in_pool,
            kwargs={
                **common,
                "iterable": [_plain(value) for value in chunk.values],
                "outputspec": ItemResults(may_be_partial=True),
                "kwargs": keyed if chunk.infos is None else {**keyed, PER_ITEM_INFO: chunk.infos},
            },
            input_files=remote_info.input_files,
            output_files=remote_info.output_files,
            env_vars=_env_vars(call, remote_info),
            pre_run_commands=remote_info.pre_cmds,
            post_run_commands=remote_info.post_cmds,
            hash_ignore=(*_NOT_IN_KEY, *(name for name in remote_info.hash_ignore)),
            scope=remote_info.job_name,
        )
        for number, chunk in chunks.items()
    ]


# ---------------------------------------------------------------------------------------------------- the run


def make_jobs(call: OpCall, remote_info: RemoteInfo, chunks: list[Chunk]) -> Jobs:
    """Find or create the jobs of all chunks."""
    from expyre.func import create_jobs

    _log.info("Creating %d jobs for %s", len(chunks), name_of(call.op))
    jobs = create_jobs(chunk_calls(call, remote_info, dict(enumerate(chunks))))
    for chunk in chunks:
        if not remote_info.ignore_failed_jobs:
            chunk.values = []
        chunk.infos = None

    def more(rest: dict[int, Chunk]) -> list[ExPyRe]:
        return create_jobs(chunk_calls(call, remote_info, rest, suffix="_rest"))

    return Jobs(remote_info, name_of(call.op), chunks, jobs, more)


def cut(call: OpCall, remote_info: RemoteInfo, sink: Sink, rng: np.random.Generator | None) -> list[Chunk]:
    """Return the chunks of a call that are still to be done."""
    kwargs = call.kwargs
    source = InfoSource(takes_per_item_info(call.op), rng, kwargs.pop(PER_ITEM_INFO, None))
    size = remote_info.items_per_job(call.info.num_inputs_per_python_subprocess)
    items = sink.items(source)
    chunks = Chunks(items, size, source, sink.done)
    return list(iter(chunks.take, None))


def do_remotely(remote_info: RemoteInfo, call: OpCall, rng: np.random.Generator | None = None) -> ConfigSet | None:
    """Run a call as queued jobs and return its results; None if it is not waited for.

    Parameters
    ----------
    remote_info
        How the jobs are queued.
    call
        The call.
    rng
        Generator of this call.

    Raises
    ------
    Exception
        What the operation raised in the first (in the order of the input) of the jobs that failed, with notes on all
        of them. Results of other jobs are kept and collected by the next run.
    ExPyReJobDiedError
        The same for a job that ended without result or exception.
    ExPyReTimeoutError
        The same for a job that is not done in time; it goes on.
    """
    if not call.wait_for_results:
        from .output import Sink

        make_jobs(call, remote_info, cut(call, remote_info, Sink(call.inputs), rng)).start()
        return None
    with open_output(call.outputs, call.task, call.inputs, rng, journal=False) as sink:
        jobs = make_jobs(call, remote_info, cut(call, remote_info, sink, rng))
        if jobs.jobs:
            _collect(jobs, sink)
        step("store.2")
    step("store.3")
    jobs.mark_processed()
    step("store.4")
    return sink.value()


def _collect(jobs: Jobs, sink: Sink) -> None:
    jobs.start()
    with contextlib.closing(jobs.finished()) as finished:  # type: ignore[type-var]
        for done in finished:
            if not jobs.failures:
                sink.put(done)
                step("store.1")
    jobs.raise_failures()
