"""Loggers of single runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms

from wfl.utils.logging import PrefixedStream

__all__ = ["attach_logger"]


def attach_logger(
    dynamics: Any, atoms: Atoms, interval: int, logger_kwargs: Mapping[str, Any] | None, item_i: int
) -> Any:
    """Attach a logger to a dynamics object.

    Parameters
    ----------
    dynamics, atoms
        The run.
    interval
        Steps between log lines; 0 for no logger.
    logger_kwargs
        Arguments of the logger; `"logger"` is its class (default `ase.md.logger.MDLogger`), `"logfile"` the name of a
        file, to which `.config_<item_i>` is appended, or `"-"` (default) for standard output, where each line begins
        with `config <item_i>`.
    item_i
        Number of the configuration among all inputs.

    Returns
    -------
    logger or None
    """
    if interval <= 0:
        return None
    from ase.md.logger import MDLogger

    kwargs = dict(logger_kwargs or {})
    logger_class = kwargs.pop("logger", MDLogger)
    logfile = _logfile_of_config(kwargs.pop("logfile", "-"), item_i)
    logger = logger_class(dyn=dynamics, atoms=atoms, logfile=logfile, **kwargs)
    dynamics.attach(logger, interval=interval)
    return logger


def _logfile_of_config(logfile: Any, item_i: int) -> Any:
    if logfile == "-":
        return PrefixedStream("-", f"config {item_i} ")
    return f"{logfile}.config_{item_i}" if isinstance(logfile, (str, Path)) else logfile
