"""`Executor`, a ``concurrent.futures.Executor`` whose calls ask for resources and take futures as arguments."""

from __future__ import annotations

import concurrent.futures
import itertools
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from expyre.errors import RequestError
from expyre.executor.backends import Options
from expyre.executor.calls import Call
from expyre.executor.choice import make_backend
from expyre.executor.drawing.graph import DependencyGraph, Record, label_of
from expyre.executor.lifecycle import Service
from expyre.executor.options import read_options
from expyre.executor.requests import Mistakes, Request

__all__ = ["Executor"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Executor(concurrent.futures.Executor):
    """Runs calls in other processes: as many as there are cores, GPUs or workers for, on this machine or on a queue.

    Parameters
    ----------
    max_workers
        Most calls (with ``block_allocation``: workers) at a time. Default: as many as ``max_cores`` has room for.
    backend
        ``local``: processes of this machine; ``mpi``: the same; ``slurm``: steps of the job that the script runs in,
        by ``srun``; ``flux``: jobs of the Flux instance that it runs in; or the name of a system of ``config.json``,
        on which each call is a job, found again when the script is run again. Default: ``flux`` or ``slurm`` within
        such a job, else ``local``.
    max_cores
        Cores for all calls together. Default: those of this machine, or of the job of Slurm.
    cores_per_worker
        Cores of each call. More than one: the function runs as so many MPI ranks, and the result is the list of what
        they have returned.
    threads_per_core
        Threads of each core; the variables by which OpenMP, BLAS libraries and numexpr are told are set.
    gpus_per_worker
        GPUs of each call, in ``CUDA_VISIBLE_DEVICES`` and ``ROCR_VISIBLE_DEVICES``; no two calls at a time share one,
        also not those of other executors of the user on this machine, for which a call waits.
    oversubscribe
        Let calls share cores and GPUs.
    cwd
        Directory to work in, made if it is not there. Default: that of the script.
    executor
        Another executor of ``concurrent.futures``, whose workers run the calls instead of the backend. That of
        Flux, which runs no functions, stands for ``backend="flux"``.
    hostname_localhost
        Let workers reach the script as ``localhost``, not by the name of the machine.
    block_allocation
        Keep worker processes for further calls, so that a call costs no new process.
    init_function
        With ``block_allocation``: called once by each worker; returns a dict whose values are used for parameters
        that a call leaves out.
    command_line_argument_lst
        Further words for ``srun``, ``mpiexec`` or ``flux run``.
    disable_dependencies
        Do not look for futures among arguments.
    refresh_rate
        On a system of ``config.json``: least time in s between two looks at the queue or at results, with
        ``block_allocation`` at least 0.05. Nothing else is looked at, results announce themselves.
    restart_limit
        How often a call is tried again whose worker has died.
    max_time
        Longest run time of a call, in s or as a time such as ``10m``; then it is ended.
    cache, cache_directory
        Keep results of calls, by values and code like those of jobs, and use them again, also in later scripts.
    plot_dependency_graph, plot_dependency_graph_filename
        Remember which call needs which (`dependency_graph`), and write that to a file once all calls are done: as a
        picture or a text, by its ending (``.svg``, ``.png``, ``.pdf``, ``.mmd`` for Mermaid, ``.dot`` for Graphviz).
    resource_dict
        Resources as in ``submit``, for all calls.

    Raises
    ------
    RequestError
        A ValueError; lists everything that is wrong with what is asked for.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        backend: str | None = None,
        *,
        max_cores: int | None = None,
        cores_per_worker: int = 1,
        threads_per_core: int = 1,
        gpus_per_worker: int = 0,
        oversubscribe: bool = False,
        cwd: str | None = None,
        executor: concurrent.futures.Executor | None = None,
        hostname_localhost: bool | None = None,
        block_allocation: bool = False,
        init_function: Callable[[], dict[str, Any]] | None = None,
        command_line_argument_lst: Iterable[str] | None = None,
        disable_dependencies: bool = False,
        refresh_rate: float = 0.01,
        restart_limit: int = 0,
        max_time: float | str | None = None,
        cache: bool = False,
        cache_directory: str | None = None,
        plot_dependency_graph: bool = False,
        plot_dependency_graph_filename: str | None = None,
        resource_dict: Mapping[str, Any] | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        mistakes = Mistakes("Executor")
        self._options: Options = read_options(given, mistakes)
        self._record = Record() if self._options.graph else None
        write = None if self._record is None else _writer(self._record, self._options.graph_file)
        carrier = make_backend(self._options, mistakes)
        self._service = Service(carrier, disable_dependencies=disable_dependencies, at_end=write)
        self._finalizer = weakref.finalize(self, self._service.shut_down)  # what was submitted is finished
        self._finalizer.atexit = False

    def submit(  # type: ignore[override]
        self, fn: Callable[..., _T], /, *args: Any, resource_dict: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Future[_T]:
        """Schedule ``fn(*args, **kwargs)`` and return a future of its result.

        Futures among the arguments, also within lists, tuples, sets, dicts and dataclasses, are replaced by their
        results; the call waits for them. If one fails, this one fails with InputFailed.

        Parameters
        ----------
        resource_dict
            What this call asks for, over what the executor was made with: ``cores``, ``threads_per_core``,
            ``gpus_per_core``, ``cwd``, ``oversubscribe``, ``command_line_argument_lst``, ``max_time``. On a system of
            ``config.json`` also what its jobs take, such as ``max_mem_tot``, ``partitions``, ``env_vars``.

        Raises
        ------
        RuntimeError
            The executor has been shut down.
        RequestError
            The resources make no sense or are more than there are.
        """
        request = self._request(resource_dict) if resource_dict else self._options.request
        call = Call(fn, args, kwargs, request)
        inputs = self._service.take(call)
        if self._record is not None:
            self._record.add(call, label_of(args[0] if fn is _run_chunk else fn), inputs)
        return call.future

    def _request(self, given: Mapping[str, Any]) -> Request:
        mistakes = Mistakes("resource_dict")
        request: Request = self._options.request.read(given, mistakes, self._options.request)
        if self._options.block_allocation and request != self._options.request:
            mistakes.add(
                "with block_allocation all calls run in the same workers, whose resources are those of the executor; "
                "ask for them there, or leave out block_allocation"
            )
        with mistakes.noted():
            self._service.backend.check(request)
        mistakes.finish()
        return request

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[_T]:
        """Return an iterator over ``fn`` of each element, in order, computed in parallel.

        Parameters
        ----------
        timeout
            Seconds from now after which `TimeoutError` is raised for results that are not there.
        chunksize
            Elements that go to a worker together.
        buffersize
            Most results, computed or not, that are ahead of what has been taken; the iterables are then read no further
            than that. Default: all are submitted at once.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else time.monotonic() + timeout
        rows = zip(*iterables)  # noqa: B905  as far as the shortest goes, as map does
        if chunksize == 1:
            return _results(partial(_submit_row, weakref.ref(self), fn), rows, end, buffersize)
        chunks = iter(lambda: list(itertools.islice(rows, chunksize)), [])
        submit = partial(_submit_row, weakref.ref(self), _run_chunk)
        rows_of_chunks = ((fn, chunk) for chunk in chunks)
        return itertools.chain.from_iterable(_results(submit, rows_of_chunks, end, buffersize))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers once all that was submitted is done.

        Parameters
        ----------
        wait
            Return only then.
        cancel_futures
            Cancel what has not begun.
        """
        self._service.shut_down(cancel=cancel_futures)
        if wait:
            self._service.join()

    def dependency_graph(self) -> DependencyGraph:
        """Return which calls there are, how they stand now, and which needs the results of which.

        Raises
        ------
        RequestError
            The executor was made without ``plot_dependency_graph=True``.
        """
        if self._record is None:
            raise RequestError("Executor: calls are remembered only with plot_dependency_graph=True")
        return self._record.graph()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down and wait; end what runs if the script is to end (Ctrl-C, ``sys.exit``)."""
        if kind is not None and not issubclass(kind, Exception) and kind is not GeneratorExit:
            self._service.shut_down(cancel=True, kill=True)
        self.shutdown(wait=True)

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        return self._service.backend.max_workers

    def __repr__(self) -> str:
        return f"<expyre.Executor {self._options.backend}>"


def _submit_row(executor: weakref.ref[Executor], fn: Callable[..., Any], row: tuple[Any, ...]) -> Future[Any] | None:
    alive = executor()
    return None if alive is None else alive.submit(fn, *row)


def _run_chunk(fn: Callable[..., Any], rows: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*row) for row in rows]


def _results(
    submit: Callable[[tuple[Any, ...]], Future[Any] | None],
    rows: Iterator[tuple[Any, ...]],
    end: float | None,
    buffersize: int | None,
) -> Iterator[Any]:
    """Submit what there is room for now, and return an iterator over the results."""
    futures = deque(future for row in itertools.islice(rows, buffersize) if (future := submit(row)) is not None)

    def results() -> Iterator[Any]:
        try:
            while futures:
                if buffersize is not None and (row := next(rows, None)) is not None:
                    further = submit(row)
                    if further is not None:
                        futures.append(further)
                # no reference is kept to a future whose result is on its way to the caller
                yield _taken(futures, end)
        finally:
            for future in futures:
                future.cancel()

    return results()


def _taken(futures: deque[Future[Any]], end: float | None) -> Any:
    """Return the result of the first future, which stays in the line until it is there."""
    future = futures[0]
    try:
        result = future.result(None if end is None else max(0.0, end - time.monotonic()))
    finally:
        if future.done():
            futures.popleft()
        del future
    return result


def _writer(record: Record, path: str | None) -> Callable[[], None] | None:
    """Return what writes the graph at the end, if it is to be written; it does not refer to the executor."""
    return None if path is None else partial(_write_graph, record, path)


def _write_graph(record: Record, path: str) -> None:
    """Write the graph of all calls; if that fails the results are not lost with it."""
    try:
        record.graph().plot(path)
    except Exception as error:
        _log.error("the dependency graph could not be written to %s: %s", path, error)
