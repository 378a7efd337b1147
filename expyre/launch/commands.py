"""The commands of a job: those of its call, with the interpreter and what it has to find where it runs here."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from expyre import stage
from expyre.system import System

__all__ = ["Commands"]


class Commands:
    """Gives the lines of the scripts of jobs.

    Parameters
    ----------
    system
        Where the jobs are to run.
    python_cmd
        Their interpreter.

    Attributes
    ----------
    python
        What starts it there, shell text.
    """

    def __init__(self, system: System, python_cmd: str) -> None:
        self.python = _python(system, python_cmd)
        self._before = tuple(_here_importable()) if system.host is None else ()

    def of(self, directory: Path) -> tuple[str, ...]:
        """Return the lines for the job staged in a directory."""
        return (*self._before, *stage.job_commands(directory, self.python))


def _python(system: System, python_cmd: str) -> str:
    """Return the interpreter of a job; on this machine, and unless commands prepare another, the one that runs now."""
    here = system.host is None and not system.commands
    return shlex.quote(sys.executable) if python_cmd == "python3" and here and sys.executable else python_cmd


def _here_importable() -> list[str]:
    """Return the shell lines that let a job on this machine import what this process can import."""
    roots = tuple({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)})
    paths = [os.path.abspath(p or os.curdir) for p in sys.path]
    own = [p for p in dict.fromkeys(paths) if os.path.isdir(p) and not _is_installed(os.path.realpath(p), roots)]
    return ["export PYTHONPATH=" + shlex.quote(os.pathsep.join(own)) + "${PYTHONPATH:+:$PYTHONPATH}"] if own else []


def _is_installed(path: str, roots: tuple[str, ...]) -> bool:
    parts = path.split(os.sep)
    inside = any(path == root or path.startswith(root + os.sep) for root in roots)
    return (
        "site-packages" in parts or "dist-packages" in parts or (inside and any(p.startswith("python3") for p in parts))
    )
