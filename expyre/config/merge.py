"""How the settings of one configuration file go over those of another."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["DELETE", "merge", "update_dict_leaves"]

DELETE = "_DELETE_"


def update_dict_leaves(d: dict[Any, Any], d_loc: dict[Any, Any]) -> None:
    """Put the leaves of one nested dict into another, in place.

    Parameters
    ----------
    d
        Dict to change.
    d_loc
        What goes over it. A dict goes into a dict key by key, anything else replaces what was there (lists as a whole),
        and the value ``"_DELETE_"`` removes the key if there is one.

    Raises
    ------
    AssertionError
        A dict would go over something that is none.
    """
    conflicts = merge(d, d_loc)
    if conflicts:
        paths = ", ".join(".".join(path) for path in conflicts)
        raise AssertionError(f"a dict cannot go over a value that is none, at: {paths}")


def merge(d: dict[Any, Any], d_loc: dict[Any, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Do what `update_dict_leaves` does, but return the paths of the conflicts; the old value stays there."""
    conflicts: list[tuple[str, ...]] = []
    for key, value in d_loc.items():
        here = (*path, str(key))
        if isinstance(value, dict):
            if isinstance(d.setdefault(key, {}), dict):
                conflicts += merge(d[key], value, here)
            else:
                conflicts.append(here)
        elif isinstance(value, str) and value == DELETE:
            d.pop(key, None)
        else:
            d[key] = copy.deepcopy(value)
    return conflicts
