"""The backend that carries the calls of an executor."""

from __future__ import annotations

from difflib import get_close_matches

from expyre.errors import RequestError
from expyre.executor.backends import BACKENDS, Options, make_dispatcher
from expyre.executor.calls import Backend

__all__ = ["make_backend"]


def make_backend(options: Options) -> Backend:
    """Return the backend for some options.

    Raises
    ------
    RequestError
        There is none of that name, or it has not what each call asks for.
    """
    if options.backend in BACKENDS:
        backend = make_dispatcher(options)
        backend.check(options.request)
        return backend
    from expyre import config

    project = config.project()
    if options.backend in project.systems and options.block_allocation:
        from expyre.executor.blocks import make_blocks

        blocks = make_blocks(options, project)
        blocks.check(options.request)
        return blocks
    near = get_close_matches(options.backend, BACKENDS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise RequestError(f"Executor: backend={options.backend!r} is unknown{hint}")
