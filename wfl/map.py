"""Apply any function to every configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ase import Atoms

from wfl.autoparallelize import autoparallelized

__all__ = ["map"]


def _copy_with_calc(atoms: Any) -> Any:
    if not isinstance(atoms, Atoms):
        return atoms
    copied = atoms.copy()
    copied.calc = atoms.calc
    return copied


@autoparallelized(input_iterable_type="Atoms")
def map(
    atoms: Sequence[Atoms],
    map_func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Apply a function to every configuration.

    Parameters
    ----------
    atoms : sequence of Atoms
        Configurations; the function gets copies of them, which it may change and return.
    map_func : callable
        Called as `map_func(atoms, *args, **kwargs)`. Returns the new configuration, a list of them, or None for no
        output. To be used in other processes it must be importable.
    args : sequence, optional
        Further positional arguments.
    kwargs : dict, optional
        Further keyword arguments.

    Returns
    -------
    list
        What the function returned, one element per configuration.
    """
    return [map_func(_copy_with_calc(at), *args, **(kwargs or {})) for at in atoms]
