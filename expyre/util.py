"""Small things that several parts need."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["no_collection", "own_import_path", "remsh_cmd"]

T = TypeVar("T", str, Sequence[str])


def remsh_cmd(cmd: T | None) -> T | str:
    """Return the remote shell command: the one given, else the environment variable ``EXPYRE_RSH``, else ``ssh``."""
    return os.environ.get("EXPYRE_RSH", "ssh") if cmd is None else cmd


@contextmanager
def no_collection() -> Iterator[None]:
    """Make many objects without a search for garbage every thousand of them, which takes as long as they do."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def own_import_path() -> list[str]:
    """Return where this process finds modules, without what belongs to its Python and is there in workers, too."""
    import sysconfig

    known = sysconfig.get_paths()
    installed = tuple(known[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    places = [os.path.abspath(place) for place in sys.path]
    return [place for place in places if not place.startswith(installed)]
