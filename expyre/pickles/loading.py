"""What comes back to the script is unpickled without changing the classes that the script has."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

__all__ = ["SparingUnpickler", "load"]

_STATE = "_class_setstate"
_HAS_CLASSES = re.compile(_STATE.encode())
_SKELETONS = ("_make_skeleton_class", "_make_skeleton_enum")


def load(data: Any, buffers: Any = ()) -> Any:
    """Unpickle what another process has sent to the script.

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
    if _HAS_CLASSES.search(data):
        return SparingUnpickler(io.BytesIO(data), buffers=buffers).load()
    return pickle.loads(data, buffers=buffers)


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
            if name in _SKELETONS:
                return self._noticing(found)
            if name == _STATE:
                return self._sparing(found)
        return found

    def _noticing(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that makes a class, or finds it, and notes which of both."""

        def notice(*args: Any) -> Any:
            from cloudpickle import cloudpickle

            known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
            self._here = (*self._here, known)
            return make(*args)

        return notice

    def _sparing(self, set_state: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that gives a class its attributes unless it was here before."""

        def spare(cls: Any, state: Any) -> Any:
            return cls if any(cls is each for each in self._here) else set_state(cls, state)

        return spare
