"""How often, on which failures, and with how much more a job is tried again."""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from expyre import errors
from expyre.errors import OutOfMemory, RequestError, TimedOut
from expyre.resources import Resources

__all__ = ["Retry"]


@dataclass(frozen=True)
class Retry:
    """Policy for jobs that failed.

    Parameters
    ----------
    max_retries
        How many more times a job is tried after its first failure.
    on
        Names of the error classes that are worth another try; a class stands for those derived from it. Errors of this
        package and of Python go by their name (``"TimedOut"``, ``"OSError"``), others with their module
        (``"mymodule.MyError"``).
    time_factor
        Run time of the next try over that of the last, after the job ran out of time.
    mem_factor
        Memory of the next try over that of the last, after the job ran out of memory.
    partitions
        Regular expressions of the partitions that further tries may use; None leaves them as requested.

    Raises
    ------
    RequestError
        A ValueError that lists everything that is wrong with the policy.
    """

    max_retries: int = 0
    on: tuple[str, ...] = ("TimedOut", "OutOfMemory", "NodeFailed", "Preempted", "Lost")
    time_factor: float = 1.0
    mem_factor: float = 1.0
    partitions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("on", "partitions"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        mistakes = [*self._wrong_numbers(), *self._wrong_words()]
        if mistakes:
            raise RequestError("this retry policy makes no sense: " + "; ".join(mistakes))

    @classmethod
    def from_spec(cls, spec: Retry | Mapping[str, Any] | int | None) -> Retry:
        """Return the policy that a configuration file or a call gives: a policy, its fields, or just how many retries.

        Raises
        ------
        RequestError
            A ValueError: an unknown field, or a value that makes no sense.
        """
        if isinstance(spec, Retry):
            return spec
        if spec is None:
            return cls()
        if isinstance(spec, Mapping):
            return cls(**_known_fields(spec))
        return cls(max_retries=spec)

    def wants(self, exc: BaseException, tried: int) -> bool:
        """Return whether a job that failed with ``exc`` is to be tried again after ``tried`` retries."""
        return tried < self.max_retries and not self._names(exc).isdisjoint(self.on)

    def escalate(self, resources: Resources, exc: BaseException) -> Resources:
        """Return the resources of the next try: more of what the job ran out of, in the partitions for retries."""
        time = self.time_factor if isinstance(exc, TimedOut) else 1.0
        mem = self.mem_factor if isinstance(exc, (OutOfMemory, MemoryError)) else 1.0
        kwargs = resources.scaled(time, mem).to_dict()
        if self.partitions is not None:
            kwargs["partitions"] = list(self.partitions)
        return Resources(**kwargs)

    @staticmethod
    def _names(exc: BaseException) -> set[str]:
        classes = type(exc).__mro__
        return {cls.__name__ for cls in classes} | {f"{cls.__module__}.{cls.__qualname__}" for cls in classes}

    def _wrong_numbers(self) -> list[str]:
        mistakes = []
        if isinstance(self.max_retries, bool) or not isinstance(self.max_retries, int) or self.max_retries < 0:
            mistakes.append(f"max_retries={self.max_retries!r} is not an integer of at least 0")
        for name in ("time_factor", "mem_factor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1.0 <= value < float("inf"):
                mistakes.append(f"{name}={value!r} is not a number of at least 1")
        return mistakes

    def _wrong_words(self) -> list[str]:
        mistakes = [_unknown("error", name, _error_names()) for name in self.on if not _is_error_name(name)]
        if any(not isinstance(pattern, str) for pattern in self.partitions or ()):
            mistakes.append(f"partitions={self.partitions!r} are not regular expressions")
        return mistakes


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, (list, set, frozenset)) else value


def _known_fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    known = [field.name for field in fields(Retry)]
    unknown = [_unknown("field", key, known) for key in spec if key not in known]
    if unknown:
        raise RequestError("this retry policy makes no sense: " + "; ".join(unknown))
    return dict(spec)


def _unknown(what: str, name: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known[:12])}"
    return f"no {what} is called {name!r} ({hint})"


def _error_names() -> list[str]:
    own = [name for name in errors.__all__ if name not in ("PlanEnd", "RemoteTraceback")]
    return own + [name for name, value in vars(builtins).items() if _is_exception_class(value)]


def _is_error_name(name: object) -> bool:
    """Return whether a name may be that of an error; names with a module are taken at their word."""
    return isinstance(name, str) and ("." in name or name in _error_names())


def _is_exception_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
