"""What is said of errors and warnings on the command line: one message instead of a traceback."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from expyre.errors import ExPyReError, PlanEnd

__all__ = ["check_names", "explained", "message_of", "nearest", "noting", "quiet"]

_PACKAGES = tuple(f"{Path(__file__).resolve().parents[2] / name}{os.sep}" for name in ("wfl", "expyre"))
_HINT = "(EXPYRE_TRACEBACK=1 in the environment shows where this arose)"


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors of what is run inside into messages for people; EXPYRE_TRACEBACK=1 leaves them as they are."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError, PlanEnd):
        raise
    except Exception as exc:
        if os.environ.get("EXPYRE_TRACEBACK"):
            raise
        raise click.ClickException(message_of(exc)) from exc


@contextmanager
def noting(text: str) -> Iterator[None]:
    """Let errors of what is run inside say more."""
    try:
        yield
    except Exception as exc:
        from wfl.autoparallelize.task import add_note

        add_note(exc, text)
        raise


def message_of(exc: BaseException) -> str:
    """Return the text of an error for people, never empty, with its notes."""
    text = str(exc.args[0] if isinstance(exc, KeyError) and exc.args else exc).strip()
    meant_for_users = isinstance(exc, ExPyReError) or (
        isinstance(exc, (ValueError, RuntimeError, ImportError)) and _raised_here(exc.__traceback__)
    )
    if not (text and meant_for_users):
        text = f"{type(exc).__name__}: {text}".rstrip(": ")
        if not isinstance(exc, OSError):
            text = f"{text} {_HINT}"
    return "\n".join([text, *getattr(exc, "__notes__", [])])


def _raised_here(traceback: TracebackType | None) -> bool:
    """Whether the innermost frame is one of these packages."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_PACKAGES)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question with the known names that are nearest to one, empty if none is near."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else ""


def check_names(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Raise a usage error that lists all given names that are not known, each with the nearest one.

    Parameters
    ----------
    given, known
        Names.
    what
        Where they were given, for the message.
    """
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    hints = [f"{name!r}" + (f" ({hint})" if (hint := nearest(name, known)) else "") for name in unknown]
    raise click.UsageError(f"{what}: unknown {', '.join(hints)}; there are: {', '.join(sorted(known)) or 'none'}")


class _OneLine(logging.Formatter):
    """Log lines without tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.capitalize()}: {record.getMessage()}"


@contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Show warnings and the log of the packages as single lines; all of them, with tracebacks, if verbose.

    Parameters
    ----------
    verbose
        Whether to show everything.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s") if verbose else _OneLine())
    logger = logging.getLogger("wfl")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.filterwarnings("ignore", category=UserWarning, module=r"ase\.io\.extxyz")
                warnings.showwarning = _show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    lines = str(message).strip().splitlines() or [""]
    text = lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1].strip()}"  # what is between is a traceback
    sys.stderr.write(f"Warning: {text}\n")
