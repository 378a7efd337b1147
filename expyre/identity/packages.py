"""Whose code a module is: the user's, Python's, an installed package's, or ours."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
import sysconfig
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final

USER: Final = "user"
PYTHON: Final = "python"
PACKAGE: Final = "package"

# These two go by version wherever they are imported from: editing the project must not recompute users' results.
OURS: Final = frozenset({"wfl", "expyre"})
_SITES: Final = frozenset({"site-packages", "dist-packages"})


@functools.cache
def _library() -> tuple[str, ...]:
    paths = {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")}
    return tuple(str(Path(path)) + "/" for path in paths) + tuple(str(Path(path).resolve()) + "/" for path in paths)


@functools.lru_cache(maxsize=4096)
def owner_of(module: str, filename: str | None) -> str:
    """Return whose code a module is, given the file it was loaded from if there is one."""
    top = module.partition(".")[0]
    if top in OURS:
        return PACKAGE
    if top in {"__main__", "__mp_main__"}:
        return USER
    if filename is None or filename.startswith("<"):
        known = top in sys.stdlib_module_names or top in sys.builtin_module_names
        return PYTHON if known or (filename or "").startswith("<frozen ") else USER
    if not _SITES.isdisjoint(Path(filename).parts):
        return PACKAGE if version_of(top) else USER
    if filename.startswith(_library()):
        return PYTHON
    return USER


def owner(module: str) -> str:
    """Return whose code a module is, by name."""
    loaded = sys.modules.get(module)
    return owner_of(module, getattr(loaded, "__file__", None))


@functools.cache
def version_of(top: str) -> tuple[str, str] | None:
    """Return name and version of the distribution that a top-level module belongs to, None if to no known one."""
    for name in _distributions(top):
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if top in OURS:
        return top, str(getattr(sys.modules.get(top), "__version__", "0"))
    return None


def _distributions(top: str) -> list[str]:
    if top in OURS:
        return ["wfl"]
    try:
        importlib.metadata.version(top)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        # Reads the file lists of all distributions: slow, so only where the names differ, and only once.
        return sorted(set(_provided().get(top, ())))
    return [top]


@functools.cache
def _provided() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


@functools.lru_cache(maxsize=4096)
def find_spec(module: str) -> ModuleSpec | None:
    """Return where a module would be loaded from, without importing it or any package it is in."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        name = top
        for step in inner:
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = f"{name}.{step}"
            spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    except (ImportError, ValueError, AttributeError):
        return None
    return spec
