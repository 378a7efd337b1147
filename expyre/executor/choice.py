"""The backend that carries the calls of an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expyre.executor.backends import Options, make_workers
from expyre.executor.calls import Backend
from expyre.executor.requests import Mistakes

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["make_backend"]


def make_backend(options: Options, mistakes: Mistakes) -> Backend:
    """Return the backend for some options.

    Raises
    ------
    RequestError
        There were mistakes, or the backend has not what each call asks for; lists everything.
    """
    backend: Backend | None = None
    try:
        with mistakes.noted():
            backend = _carrier(options)
            backend.check(options.request)
        mistakes.finish()
        assert backend is not None
        return _with_cache(options, backend)
    except BaseException:
        if backend is not None:
            backend.close()
        raise


def _with_cache(options: Options, backend: Backend) -> Backend:
    if not options.cache or (options.on_system and not options.block_allocation):  # jobs are found again anyway
        return backend
    from expyre.executor.cache import make_cache

    return make_cache(options, backend)


def _carrier(options: Options) -> Backend:
    if options.executor is not None:
        from expyre.executor.foreign import Foreign

        return Foreign(options)
    if not options.on_system:
        return make_workers(options)
    from expyre import config

    return _on_system(options, config.project())


def _on_system(options: Options, project: Project) -> Backend:
    if options.block_allocation:
        from expyre.executor.blocks import make_blocks

        return make_blocks(options, project)
    from expyre.executor.jobs import make_jobs

    return make_jobs(options, project)
