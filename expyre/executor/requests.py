"""What a call, or each worker, asks for: cores, threads, GPUs, a directory, a time limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

from expyre.errors import RequestError
from expyre.units import time_to_sec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Mistakes", "Request"]

# of the executor as a whole; some callers repeat them for each call
_NOT_OF_A_CALL = ("executor", "hostname_localhost")


class Mistakes:
    """Collects what is wrong with a request, so that all of it is reported at once."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._found: list[str] = []
        self._error: RequestError | None = None

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, text: str) -> None:
        """Note a mistake."""
        self._found.append(text)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what a RequestError of the block says; any other exception comes after what was noted before."""
        try:
            yield
        except RequestError as error:
            self.add(str(error))
            self._error = error
        except Exception:
            self.finish()
            raise

    def check(self, name: str, value: Any, read: Callable[[Any], Any]) -> Any:
        """Return ``read(value)``; note what its ValueError or TypeError says, and return None."""
        try:
            return read(value)
        except (ValueError, TypeError) as error:
            self.add(f"{name}={value!r}: {error}")
            return None

    def finish(self) -> None:
        """Raise RequestError if there is any mistake."""
        if self._error is not None and len(self._found) == 1:
            raise self._error
        if self._found:
            raise RequestError(f"{self._what}: " + "; ".join(self._found)) from self._error


def positive(value: Any) -> int:
    """Return a positive integer."""
    return _integer(value, 1)


def natural(value: Any) -> int:
    """Return an integer that is not negative."""
    return _integer(value, 0)


def _integer(value: Any, least: int) -> int:
    try:
        number = value.__index__()
    except AttributeError:
        raise TypeError(f"must be an integer of at least {least}") from None
    if isinstance(value, bool) or number < least:
        raise ValueError(f"must be an integer of at least {least}")
    return int(number)


def truth(value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise TypeError("must be True or False")
    return value


def directory(value: Any) -> str | None:
    """Return the absolute path of a directory that exists or can be made; None stays None."""
    if value is None:
        return None
    path = os.path.abspath(os.path.expanduser(os.fsdecode(value)))
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError("is not a directory")
    return path


def words(value: Any) -> tuple[str, ...]:
    """Return words of a command line."""
    if value is None:
        return ()
    if isinstance(value, str) or not all(isinstance(word, str) for word in value):
        raise TypeError('must be a list of words, such as ["--exclusive", "--mem=4G"]')
    return tuple(value)


def seconds(value: Any) -> float | None:
    """Return a time limit in seconds, from a number or a time such as ``10m``."""
    if value is None:
        return None
    limit = float(value) if isinstance(value, int | float) else float(time_to_sec(value) or 0)
    if not limit > 0:
        raise ValueError("must be more than 0 s")
    return None if limit == float("inf") else limit


_READERS: dict[str, Callable[[Any], Any]] = {
    "cores": positive,
    "threads_per_core": positive,
    "gpus": natural,
    "cwd": directory,
    "oversubscribe": truth,
    "command_line_argument_lst": words,
    "max_time": seconds,
}


@dataclass(frozen=True)
class Request:
    """What one call, or one worker that serves calls, asks for.

    Attributes
    ----------
    cores
        Cores; more than one means as many MPI ranks, each of which runs the function.
    threads_per_core
        Threads of each rank.
    gpus
        GPUs, of all ranks together.
    cwd
        Directory to work in; None for that of the script.
    oversubscribe
        Share cores and GPUs with other calls, unpinned.
    command_line_argument_lst
        Further words for the command that starts a worker (``srun``, ``mpiexec``, ``flux run``).
    max_time
        Seconds after which a call that still runs is ended; None for no limit.
    """

    readers: ClassVar[Mapping[str, Callable[[Any], Any]]] = _READERS
    synonyms: ClassVar[Mapping[str, str]] = {"cores_per_worker": "cores"}

    cores: int = 1
    threads_per_core: int = 1
    gpus: int = 0
    cwd: str | None = None
    oversubscribe: bool = False
    command_line_argument_lst: tuple[str, ...] = ()
    max_time: float | None = None

    @property
    def slots(self) -> int:
        """Cores that are taken while a call runs: those of all threads of all ranks."""
        return self.cores * self.threads_per_core

    @classmethod
    def read(cls, given: Mapping[str, Any], mistakes: Mistakes, default: Self | None = None) -> Self:
        """Return the request in a mapping, what it leaves out from another request; mistakes are noted.

        Known keys are the attributes, and ``gpus_per_core``, ``cores_per_worker`` and ``gpus_per_worker``.
        """
        default = default or cls()
        if not isinstance(given, Mapping):
            mistakes.add(f'{given!r} must be a dict, such as {{"cores": 2}}')
            return default
        given = {cls.synonyms.get(name, name): value for name, value in given.items() if name not in _NOT_OF_A_CALL}
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name in cls.readers:
                found[name] = mistakes.check(name, value, cls.readers[name])
            elif name not in ("gpus_per_worker", "gpus_per_core"):
                near = _documented(cls.readers, str(name))
                mistakes.add(f"{name!r} is unknown" + (f" (did you mean {near!r}?)" if near else ""))
        cores = found.get("cores") or default.cores
        found.update(_gpus(given, cores, default, mistakes))
        return cls(**{**vars(default), **{name: value for name, value in found.items() if value is not None}})


def _documented(readers: Iterable[str], name: str) -> str | None:
    """Return the documented key that somebody may have meant; synonyms are taken, but not proposed."""
    known = [each if each != "gpus" else "gpus_per_core" for each in readers]
    begin = [each for each in known if name and each.startswith(name)]
    return next(iter(get_close_matches(name, known, n=1) or begin), None)


def _gpus(given: Mapping[str, Any], cores: int, default: Request, mistakes: Mistakes) -> dict[str, Any]:
    """Return the number of GPUs in all, however it was said."""
    numbers = {}
    for name, factor in (("gpus_per_worker", 1), ("gpus_per_core", cores)):
        if given.get(name) is not None:
            number = mistakes.check(name, given[name], natural)
            if number is not None:
                numbers[name] = number * factor
    if len(set(numbers.values()) - {0}) > 1:
        mistakes.add(f"gpus_per_worker and gpus_per_core={given['gpus_per_core']} contradict each other")
    return {"gpus": max(numbers.values())} if numbers else {}
