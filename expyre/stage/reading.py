"""Read what a job has left in its directory; nothing is unpickled that the job did not sign."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from expyre.errors import AuthenticationError, StageError
from expyre.node import runner
from expyre.pickles.exceptions import load_exception
from expyre.pickles.loading import SparingUnpickler, load
from expyre.stage import names


@dataclass(frozen=True)
class Markers:
    """Which markers are in a job's directory.

    Attributes
    ----------
    succeeded, failed, started
        Whether there is a result, an error, the file written at the start.
    terminated
        Whether python was ended by SIGTERM or SIGKILL, or was about to be at its time limit.
    timed_out
        Whether the job itself has left word that its time limit was near. It counts only once the job has ended: one
        that is near its limit says so while it runs.
    """

    succeeded: bool = False
    failed: bool = False
    started: bool = False
    terminated: bool = False
    timed_out: bool = False

    @property
    def ended(self) -> bool:
        """Whether the job has left a result or an error."""
        return self.succeeded or self.failed


class Streams(NamedTuple):
    """What a job has written: Python's stdout and stderr, and those of its script."""

    stdout: str
    stderr: str
    job_stdout: str
    job_stderr: str


def markers(directory: str | Path) -> Markers:
    """Return the markers in a job's directory; all False if it does not exist."""

    def there(name: str) -> bool:
        return os.path.exists(os.path.join(directory, name))

    terminated = there(names.TERMINATED)
    timed_out = terminated and _text(Path(directory) / names.TERMINATED).startswith(f"{runner.TIMED_OUT}:")
    return Markers(there(names.SUCCEEDED), there(names.ERROR), there(names.STARTED), terminated, timed_out)


class _TaskReader(runner.TaskReader, SparingUnpickler):
    """Reads a task where the script itself does that."""


def read_task(directory: str | Path, key: bytes | None) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return function, args and kwargs of a staged call.

    Raises
    ------
    AuthenticationError
        The file is truncated or not signed with the key of the job.
    FileNotFoundError
        There is no such file.
    StageError
        The call cannot be unpickled here.
    """
    path = Path(directory) / names.TASK
    payload = _verified(path, key)
    try:
        function, args, kwargs = _TaskReader(payload, os.fspath(directory)).load()
    except runner.NotAuthentic as exc:
        raise AuthenticationError(str(exc)) from None
    except Exception as exc:
        raise StageError(f"the call in {path} cannot be unpickled here: {type(exc).__name__}: {exc}") from exc
    return function, args, kwargs


def read_result(directory: str | Path, key: bytes | None) -> Any:
    """Return the value that the job's function returned.

    Raises
    ------
    AuthenticationError
        The file is truncated or not signed with the key of the job.
    FileNotFoundError
        There is no result.
    StageError
        The result cannot be unpickled here.
    """
    path = Path(directory) / names.SUCCEEDED
    payload = _verified(path, key)
    try:
        return load(payload)
    except Exception as exc:
        message = f"the result in {path} cannot be unpickled here: {type(exc).__name__}: {exc}"
        raise StageError(message) from exc


def read_exception(directory: str | Path, key: bytes | None) -> BaseException | None:
    """Return the exception that the job's function raised, the traceback of the other side as its cause.

    Where the class cannot be imported, the exception is of a class of the same name made here, derived from the
    nearest base class that can. None if the job left no exception.

    Raises
    ------
    AuthenticationError
        The file is truncated or not signed with the key of the job.
    """
    path = Path(directory) / names.EXCEPTION
    if not path.exists():
        return None
    return load_exception(_verified(path, key), error_text(directory))


def error_text(directory: str | Path) -> str:
    """Return the text the job left about its failure, headline first; empty if there is none."""
    return _text(Path(directory) / names.ERROR) or _text(Path(directory) / names.TERMINATED)


def streams(directory: str | Path, id: str) -> Streams:
    """Return what the job has written so far: Python's stdout and stderr, and those of its script."""
    files = (names.STDOUT, names.STDERR, names.job_stdout(id), names.job_stderr(id))
    return Streams(*(_text(Path(directory) / name) for name in files))


def times(directory: str | Path) -> tuple[float | None, float | None]:
    """Return when the job started and when it ended, in seconds since the epoch, by its own files."""
    started, succeeded, failed = (
        _mtime(Path(directory) / name) for name in (names.STARTED, names.SUCCEEDED, names.ERROR)
    )
    return started, succeeded if succeeded is not None else failed


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")  # carriage returns as they were written
    except OSError:
        return ""


def _verified(path: Path, key: bytes | None) -> memoryview:
    if not key:
        raise AuthenticationError(f"{path} was not unpickled: the record has no key of this job to verify it with")
    try:
        return runner.verify(path.read_bytes(), key, str(path))
    except runner.NotAuthentic as exc:
        raise AuthenticationError(f"{exc}; nothing was unpickled") from None
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StageError(f"cannot read {path}: {exc.strerror or exc}") from exc
