"""What comes back to the script is unpickled without changing the classes that the script has."""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = ["SparingUnpickler", "load"]

_STATE = "_class_setstate"
_HAS_CLASSES = re.compile(_STATE.encode())


def load(data: Any, buffers: Any = ()) -> Any:
    """Unpickle what another process has sent to the script.

    Classes that the script defines are its own, even if an earlier run of it has sent them.

    Parameters
    ----------
    data
        The pickle.
    buffers
        What it leaves out.

    Raises
    ------
    Exception
        What the pickle raises.
    """
    if not _HAS_CLASSES.search(data):
        return pickle.loads(data, buffers=buffers)
    try:
        return _ByName(io.BytesIO(data), buffers=buffers).load()
    except _NotTheSame:
        return SparingUnpickler(io.BytesIO(data), buffers=buffers).load()


class SparingUnpickler(pickle.Unpickler):
    """Leaves alone the classes of the script that come back with their instances.

    cloudpickle finds the class that was sent by its id, but then puts the attributes of the other side's copy into it:
    methods would no longer see the script's globals, and what the script has changed in the meantime would be undone.
    """

    _here: tuple[Any, ...] = ()

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the pickle stands for."""
        found = super().find_class(module, name)
        if module.startswith("cloudpickle"):
            if name == "_make_skeleton_class":
                return self._finding(found, lambda kind, name, bases, body, *_: self._own(body.get("__module__"), name))
            if name == "_make_skeleton_enum":
                return self._finding(found, lambda bases, name, path, members, module, *_: self._own(module, path))
            if name == _STATE:
                return self._sparing(found)
        return found

    def _finding(self, make: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that finds a class, or makes it, and notes if it was here."""

        def find(*args: Any) -> Any:
            from cloudpickle import cloudpickle

            known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
            if known is None:
                known = own(*args)
            self._here = (*self._here, known)
            return make(*args) if known is None else known

        return find

    def _own(self, module: str | None, name: str) -> Any:
        """Return the class of the script that is meant by a name; None if there is none."""
        return None

    def _sparing(self, set_state: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that gives a class its attributes unless it was here before."""

        def spare(cls: Any, state: Any) -> Any:
            return cls if any(cls is each for each in self._here) else set_state(cls, state)

        return spare


class _NotTheSame(Exception):
    """A class of the script was taken for one that is only called the same."""


class _ByName(SparingUnpickler):
    """Also takes a class by its name for that of the script: an earlier run, or a fork of the script, has sent it."""

    _taken: tuple[Any, ...] = ()

    def _own(self, module: str | None, name: str) -> Any:
        found = vars(sys.modules["__main__"]).get(name) if module == "__main__" else None
        if not isinstance(found, type) or (found.__module__, found.__qualname__) != (module, name):
            return None
        self._taken = (*self._taken, found)
        return found

    def _sparing(self, set_state: Callable[..., Any]) -> Callable[..., Any]:
        spare = super()._sparing(set_state)

        def compare(cls: Any, state: Any) -> Any:
            if any(cls is each for each in self._taken) and not _is_of(state[0], cls):
                raise _NotTheSame
            return spare(cls, state)

        return compare


def _is_of(attributes: dict[str, Any], cls: type) -> bool:
    """Return whether attributes may be those of a class, not of another one that is called the same."""
    own = vars(cls)
    return all(
        getattr(own.get(name), "__qualname__", None) == value.__qualname__
        for name, value in attributes.items()
        if isinstance(value, FunctionType)
    )
