"""From what a caller of `Executor` says to checked options; all mistakes at once."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from expyre.executor.backends import BACKENDS, Options, is_flux, recognise
from expyre.executor.requests import Mistakes, Request, natural, positive

__all__ = ["read_options"]

_PREFIX = "system:"
_OF_A_REQUEST = (
    "cores_per_worker", "threads_per_core", "gpus_per_worker", "oversubscribe", "cwd", "command_line_argument_lst",
    "max_time",
)  # fmt: skip


def read_options(given: Mapping[str, Any]) -> Options:
    """Return the options in the parameters of `Executor`.

    Raises
    ------
    RequestError
        Lists everything that is wrong.
    """
    mistakes = Mistakes("Executor")
    if is_flux(given["executor"]):
        given = {**given, "executor": None, "backend": given["backend"] or "flux"}
    resources = {name: given[name] for name in _OF_A_REQUEST if given[name] is not None}
    backend, on_system = _backend(given, mistakes)
    request = _kind_of_request(on_system).read({**resources, **(given["resource_dict"] or {})}, mistakes)
    block, init = bool(given["block_allocation"]), given["init_function"]
    if init is not None and not callable(init):
        mistakes.add(f"init_function={init!r} is not a function")
    if init is not None and not block:
        mistakes.add("init_function needs block_allocation=True: without it each call has a new process")
    graph_file = given["plot_dependency_graph_filename"]
    if graph_file is not None:
        from expyre.executor.drawing.draw import check_filename

        graph_file = mistakes.check("plot_dependency_graph_filename", graph_file, check_filename)
    options = Options(
        backend=backend,
        on_system=on_system,
        request=request,
        max_workers=_number("max_workers", given, mistakes),
        max_cores=_number("max_cores", given, mistakes),
        block_allocation=block,
        init_function=init,
        restart_limit=mistakes.check("restart_limit", given["restart_limit"], natural) or 0,
        hostname_localhost=given["hostname_localhost"],
        refresh_rate=mistakes.check("refresh_rate", given["refresh_rate"], _interval) or 0.01,
        executor=given["executor"],
        cache_directory=given["cache_directory"],
        cache=bool(given["cache"] or given["cache_directory"]),
        graph=bool(given["plot_dependency_graph"] or graph_file),
        graph_file=None if graph_file is None else str(graph_file),
    )
    mistakes.finish()
    return options


def _number(name: str, given: Mapping[str, Any], mistakes: Mistakes) -> int | None:
    return None if given[name] is None else mistakes.check(name, given[name], positive)


def _interval(value: Any) -> float:
    number = float(value)
    if not number > 0:
        raise ValueError("must be more than 0 s")
    return number


def _kind_of_request(on_system: bool) -> type[Request]:
    if not on_system:
        return Request
    from expyre.executor.jobs.requests import JobRequest

    return JobRequest


def _backend(given: Mapping[str, Any], mistakes: Mistakes) -> tuple[str, bool]:
    """Return the name of the backend, and whether it is a system; files are read only if it must be one."""
    name, executor = given["backend"], given["executor"]
    if name is not None and not isinstance(name, str):
        mistakes.add(f"backend={name!r} must be the name of a backend or of a system")
        return "local", False
    if executor is not None and not callable(getattr(executor, "submit", None)):
        mistakes.add(f"executor={executor!r} has no method submit")
    if not name or name in BACKENDS:
        return name or ("local" if executor is not None else recognise()), False
    if executor is not None:
        mistakes.add(f"backend={name!r} and an executor were given: calls run on one of the two")
    return _system(name, mistakes)


def _system(name: str, mistakes: Mistakes) -> tuple[str, bool]:
    """Return the name of a system, also of one that is called like a backend (``system:slurm``)."""
    from expyre import config

    systems = config.project().systems
    short = name.removeprefix(_PREFIX)
    if short in systems:
        return short, True
    known = [*BACKENDS, *(each if each not in BACKENDS else _PREFIX + each for each in systems)]
    near = get_close_matches(name, [*known, *systems], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    mistakes.add(f"backend={name!r} is unknown ({hint}there are {', '.join(known)})")
    return name, True
