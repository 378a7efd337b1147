"""Running an operation over its inputs on this machine, and keeping what is done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .batching import Chunks
from .deadline import Guard, PartialResults, guard_of_job, results_of
from .engines import Done, choose_engine
from .output import ItemResults, Sink, open_output
from .rng import PER_ITEM_INFO, InfoSource
from .task import Task, add_note, takes_per_item_info

if TYPE_CHECKING:
    import numpy as np

    from wfl.configset import ConfigSet, OutputSpec

__all__ = ["do_in_pool"]


def do_in_pool(
    num_python_subprocesses: int | None = None,
    num_inputs_per_python_subprocess: int = 1,
    iterable: Iterable[Any] | None = None,
    outputspec: OutputSpec | ItemResults | None = None,
    op: Callable[..., Any] | None = None,
    iterable_arg: int | str = 0,
    skip_failed: bool = True,
    initializer: Sequence[Any] = (None, []),
    rng: np.random.Generator | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    executor: Any = None,
    unkeyed_kwargs: Mapping[str, Any] | None = None,
) -> ConfigSet | list[Any] | PartialResults | None:
    """Run an operation over all inputs, in this process, in worker processes or on an executor.

    Parameters
    ----------
    num_python_subprocesses
        Worker processes; 0: this process; None: environment variable ``WFL_NUM_PYTHON_SUBPROCESSES``, else 0.
    num_inputs_per_python_subprocess
        Items per call of the operation.
    iterable
        The inputs.
    outputspec
        Where the results go; None if only the side effects of the operation are wanted.
    op
        The operation, ``op(items, *args, **kwargs) -> one result per item, or None``.
    iterable_arg
        Position or keyword of the operation's list of items.
    skip_failed
        Leave out results that are None.
    initializer
        ``(callable or None, list of arguments)``, called in each process before the operation.
    rng
        Generator of this call; each item gets a child of it.
    args, kwargs
        Further arguments of the operation.
    executor
        A ``concurrent.futures.Executor`` that carries the chunks.
    unkeyed_kwargs
        Still further keywords of the operation, which do not make a queued job another job.

    Returns
    -------
    ConfigSet or None
        The results, None without ``outputspec``; a plain list with one entry per item for ``ItemResults``, or
        PartialResults if these may be partial and the time limit of the job is too near for the rest.

    Raises
    ------
    Exception
        Whatever the operation raises, with a note that names the items.
    WorkerDied
        A worker process was killed; all other chunks were finished first.
    """
    if op is None:
        raise TypeError("do_in_pool needs an operation: op=...")
    given = {**(kwargs or {}), **(unkeyed_kwargs or {})}
    infos = given.pop(PER_ITEM_INFO, None)
    task = Task(op, tuple(args), given, iterable_arg, tuple(initializer), num_inputs_per_python_subprocess)
    engine = choose_engine(num_python_subprocesses, executor)
    announce = getattr(engine, "announcement", None)
    if announce:
        sys.stderr.write(f"Running {task.name} with {announce}, "
                         f"num_inputs_per_python_subprocess={num_inputs_per_python_subprocess}\n")
    source = InfoSource(takes_per_item_info(op), rng, infos)
    guard = guard_of_job() if isinstance(outputspec, ItemResults) and outputspec.may_be_partial else None
    with open_output(outputspec, task, iterable if iterable is not None else (), rng) as sink:
        items = sink.items(source)
        chunks = Chunks(
            items, num_inputs_per_python_subprocess, source, sink.done, sink.keeper, own_values=sink.reads_files,
            guard=guard,
        )
        with _watching(guard), contextlib.closing(engine.run(task, chunks)) as finished:  # type: ignore[type-var]
            _store(finished, sink)
    return sink.value() if guard is None else results_of(sink.value(), chunks.count_all())


def _watching(guard: Guard | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if guard is None else guard.watching()


def _store(finished: Iterator[Done], sink: Sink) -> None:
    """Put finished chunks into the output; raise at the end if the workers of some have died."""
    failed: list[Done] = []
    for done in finished:
        if done.error is not None:
            failed.append(done)
        elif failed:
            sink.put_late(done)
        else:
            sink.put(done)
    if failed:
        raise _summary(failed)


def _summary(failed: list[Done]) -> BaseException:
    first = failed[0].error
    assert first is not None
    for other in failed[1:]:
        add_note(first, f"also: {other.error}")
    return first
