"""How a call is split and where it runs: the settings that a caller hands to an autoparallelized function."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["AutoparaInfo"]

_TABLE: dict[str, Any] = {
    "num_inputs_per_python_subprocess": 1,
    "iterable_arg": 0,
    "skip_failed": True,
    "initializer": (None, []),
    "num_python_subprocesses": None,
    "remote_info": None,
    "remote_label": None,
    "executor": None,
}


def _check_names(names: Mapping[str, Any], what: str) -> None:
    unknown = [name for name in names if name not in _TABLE]
    if unknown:
        hints = []
        for name in unknown:
            near = difflib.get_close_matches(name, _TABLE, n=1)
            hints.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
        raise ValueError(f"unknown {what} of AutoparaInfo: {', '.join(hints)}; there are: {', '.join(_TABLE)}")


class AutoparaInfo:
    """Settings of one autoparallelized call.

    Only values that were given are attributes; the rest comes from the defaults of the operation and then from the
    table below when the call is made. An object can be used for any number of calls: no call changes it.

    Parameters
    ----------
    num_inputs_per_python_subprocess : int, default 1
        Items per call of the operation.
    iterable_arg : int or str, default 0
        Position or keyword at which the operation takes its list of items.
    skip_failed : bool, default True
        Leave out items for which the operation returned None.
    initializer : tuple(callable or None, list), default (None, [])
        Function and its positional arguments (and, as third element, a dict of keyword arguments), called once in
        each process that is going to run the operation, before it does.
    num_python_subprocesses : int, optional
        Number of worker processes, 0 for none. Default: environment variable ``WFL_NUM_PYTHON_SUBPROCESSES``, else 0.
    remote_info : RemoteInfo or dict, optional
        Run as queued jobs. ``"_IGNORE"``: here, whatever ``WFL_EXPYRE_INFO`` says.
    remote_label : str, optional
        Name of this call for ``WFL_EXPYRE_INFO``.
    executor : concurrent.futures.Executor, optional
        Carries the chunks instead of the process pool. Default: environment variable ``WFL_EXECUTOR``
        (``module:factory``), if set.

    Raises
    ------
    ValueError
        A keyword is none of these.
    """

    num_inputs_per_python_subprocess: int
    iterable_arg: int | str
    skip_failed: bool
    initializer: Sequence[Any]
    num_python_subprocesses: int | None
    remote_info: Any
    remote_label: str | None
    executor: Any

    def __init__(self, **kwargs: Any) -> None:
        _check_names(kwargs, "keyword")
        self.__dict__.update(kwargs)

    def update_defaults(self, default_kwargs: Mapping[str, Any] | None = None) -> None:
        """Set what was not given, from ``default_kwargs`` first, then from the table.

        Raises
        ------
        ValueError
            A key of ``default_kwargs`` is not a field.
        """
        defaults = dict(default_kwargs or {})
        _check_names(defaults, "default")
        for name, value in {**_TABLE, **defaults}.items():
            self.__dict__.setdefault(name, list(value) if isinstance(value, list) else value)

    @classmethod
    def from_user(cls, info: AutoparaInfo | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> AutoparaInfo:
        """Return a complete copy of what a user gave: an AutoparaInfo, a dict of its keywords, or None.

        Raises
        ------
        TypeError
            ``info`` is none of these.
        """
        if info is None:
            result = cls()
        elif isinstance(info, AutoparaInfo):
            result = copy.copy(info)
        elif isinstance(info, Mapping):
            result = cls(**info)
        else:
            raise TypeError(f"autopara_info must be an AutoparaInfo, a dict of its keywords or None, not {info!r}")
        result.update_defaults(defaults)
        return result

    def __repr__(self) -> str:
        return f"AutoparaInfo({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    __str__ = __repr__
