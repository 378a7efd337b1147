"""From what a caller of `Executor` says to checked options; all mistakes at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from expyre.executor.backends import BACKENDS, Options, is_flux, recognise
from expyre.executor.requests import Mistakes, Request, natural, positive, truth

__all__ = ["read_options"]

_PREFIX = "system:"
_FLAGS = ("block_allocation", "cache", "disable_dependencies", "plot_dependency_graph")
_OF_A_REQUEST = (
    "cores_per_worker", "threads_per_core", "gpus_per_worker", "oversubscribe", "cwd", "command_line_argument_lst",
    "max_time",
)  # fmt: skip


def read_options(given: Mapping[str, Any], mistakes: Mistakes) -> Options:
    """Return the options in the parameters of `Executor`; mistakes are noted.

    Raises
    ------
    RequestError
        There is no such backend, so that nobody can say whether it has what is asked for; lists all mistakes.
    """
    if is_flux(given["executor"]):
        given = {**given, "executor": None, "backend": given["backend"] or "flux"}
    resources = {name: given[name] for name in _OF_A_REQUEST if given[name] is not None}
    backend, on_system = _backend(given, mistakes)
    is_known = not mistakes
    resources.update(_resource_dict(given["resource_dict"], mistakes))
    request = _kind_of_request(on_system).read(resources, mistakes)
    flags = {name: bool(mistakes.check(name, given[name], truth)) for name in _FLAGS}
    local = given["hostname_localhost"]
    block, init = flags["block_allocation"], given["init_function"]
    if init is not None and not callable(init):
        mistakes.add(f"init_function={init!r} is not a function")
    if init is not None and not block:
        mistakes.add("init_function needs block_allocation=True: without it each call has a new process")
    graph_file = given["plot_dependency_graph_filename"]
    if graph_file is not None:
        from expyre.executor.drawing.draw import check_filename

        graph_file = mistakes.check("plot_dependency_graph_filename", graph_file, check_filename)
    max_workers, max_cores, are_wrong = _limits(given, mistakes)
    options = Options(
        backend=backend,
        on_system=on_system,
        request=request,
        max_workers=max_workers,
        max_cores=sys.maxsize if are_wrong else max_cores,  # nothing else is wrong only because of them
        block_allocation=block,
        init_function=init,
        restart_limit=mistakes.check("restart_limit", given["restart_limit"], natural) or 0,
        hostname_localhost=None if local is None else mistakes.check("hostname_localhost", local, truth),
        refresh_rate=mistakes.check("refresh_rate", given["refresh_rate"], _interval) or 0.01,
        executor=given["executor"],
        cache_directory=given["cache_directory"],
        cache=flags["cache"] or bool(given["cache_directory"]),
        graph=flags["plot_dependency_graph"] or graph_file is not None,
        graph_file=None if graph_file is None else str(graph_file),
    )
    if not is_known:
        mistakes.finish()
    return options


def _limits(given: Mapping[str, Any], mistakes: Mistakes) -> tuple[int | None, int | None, bool]:
    """Return most workers, most cores, and whether one of the two is a mistake."""
    names = [name for name in ("max_workers", "max_cores") if given[name] is not None]
    found = {name: mistakes.check(name, given[name], positive) for name in names}
    return found.get("max_workers"), found.get("max_cores"), None in found.values()


def _resource_dict(given: Any, mistakes: Mistakes) -> Mapping[str, Any]:
    if given is None or isinstance(given, Mapping):
        return given or {}
    mistakes.add(f'resource_dict={given!r}: must be a dict, such as {{"cores": 2}}')
    return {}


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
