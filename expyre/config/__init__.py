"""Configuration: from the files of a project to its systems, its stage directory and its record of jobs.

``local_stage_dir``, ``systems`` and ``db`` of this module are a view of the current default project, which is found at
their first use. Under pytest they are None until `init` is called, so that no test finds the user's own jobs.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from expyre.config.merge import update_dict_leaves
from expyre.config.projects import Project

if TYPE_CHECKING:
    from expyre.jobsdb import JobsDB
    from expyre.system import System

    local_stage_dir: Path | None
    systems: dict[str, System] | None
    db: JobsDB | None

__all__ = ["Project", "init", "project", "update_dict_leaves"]  # not the view: import * would open the record

_VIEW = {"local_stage_dir": "stage_dir", "systems": "systems", "db": "record"}
_lock = threading.Lock()
_current: Project | None = None
_own: dict[str, Any] = {}  # what the project itself has where the view was assigned to


def project() -> Project:
    """Return the current default project: the last one of `init`, else the one that ``EXPYRE_ROOT`` leads to.

    Raises
    ------
    ConfigError
        ``EXPYRE_ROOT`` (default ``@``: search upward) is no directory, or the configuration files are wrong.
    """
    global _current
    with _lock:
        if _current is None:
            _current = Project.discover(os.environ.get("EXPYRE_ROOT") or "@")
        return _current


def init(root_dir: str | os.PathLike[str], verbose: bool = False) -> None:
    """Make another project the default one. What others hold of the one before stays usable.

    Parameters
    ----------
    root_dir
        Directory that holds ``config.json``, or ``@`` to search from the current directory upward.
    verbose
        Write the directories found to stdout and the names of the systems to stderr.

    Raises
    ------
    ConfigError
        A ValueError and a RuntimeError; the default project stays what it was.
    """
    global _current
    found = Project.discover(root_dir, verbose=verbose)
    with _lock:
        _current = found
        _own.clear()


class _ConfigModule(ModuleType):
    """Module whose view of the current project can also be assigned to (``config.systems = {...}``)."""

    def __getattr__(self, name: str) -> Any:
        if name not in _VIEW:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if _current is None and "pytest" in sys.modules:
            return None
        return getattr(project(), _VIEW[name])

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _VIEW:
            super().__setattr__(name, value)
        elif _current is not None or value is not None:
            _own.setdefault(name, getattr(project(), _VIEW[name]))
            setattr(project(), _VIEW[name], value)

    def __delattr__(self, name: str) -> None:
        """Take back an assignment to the view."""
        if name in _own:
            setattr(project(), _VIEW[name], _own.pop(name))
        else:
            super().__delattr__(name)


sys.modules[__name__].__class__ = _ConfigModule
