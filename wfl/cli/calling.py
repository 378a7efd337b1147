"""From options to the arguments of an operation, and what is said about its results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from wfl.cli.errors import check_names

if TYPE_CHECKING:
    from wfl.configset import ConfigSet, OutputSpec

__all__ = ["arguments", "is_random", "parameters_of", "report"]

_BY_OPTIONS = frozenset({"inputs", "outputs", "calculator", "results_prefix", "rng", "autopara_info"})


def arguments(
    operation: Callable[..., Any],
    options: Mapping[str, Any],
    kwargs: Mapping[str, Any] | None,
    *,
    also: Iterable[str] = (),
    no_text: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the keywords of an operation, of options that were given and of ``--kwargs``.

    Parameters
    ----------
    operation
        The autoparallelized function.
    options
        Values of options by the names of its parameters, None where not given.
    kwargs
        What ``--kwargs`` holds.
    also
        Names that the operation takes besides its parameters.
    no_text
        Parameters that cannot be given in JSON.
    """
    given = {name: value for name, value in options.items() if value is not None}
    parameters = inspect.signature(operation).parameters.values()
    named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    check_names(kwargs or {}, (named | set(also)) - _BY_OPTIONS - set(no_text), "--kwargs")
    twice = [name for name in kwargs or {} if name in given]
    if twice:
        options_too = ", ".join(f"--{name.replace('_', '-')}" for name in twice)
        raise click.UsageError(f"given twice, in --kwargs and as an option of its own: {options_too}")
    return {**given, **(kwargs or {})}


def parameters_of(cls: type) -> set[str]:
    """Names of the parameters that a class takes when it is made."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def is_random(pressure: Any) -> bool:
    """Whether a pressure is drawn at random."""
    return isinstance(pressure, list) and bool(pressure) and pressure[0] != "info"


def report(result: ConfigSet | None, outputs: OutputSpec, failure_key: str) -> None:
    """Say how many configurations were written, and how many say in info that something failed.

    Parameters
    ----------
    result
        Results.
    outputs
        Where they are.
    failure_key
        Entry of info with the reason.

    Raises
    ------
    click.ClickException
        All have failed.
    """
    from wfl.autoparallelize.planning import is_dry_run
    from wfl.configset import iter_items

    if result is None or is_dry_run():
        return
    number, reasons = 0, 0
    first = ""
    for number, item in enumerate(iter_items(result), start=1):  # noqa: B007
        reason = item.value.info.get(failure_key)
        if reason is not None:
            reasons, first = reasons + 1, first or str(reason)
    files = ", ".join(str(path) for path in outputs.files or ())
    click.echo(f"{files}: {number} configuration{'' if number == 1 else 's'}")
    if reasons:
        text = f"{reasons} of {number} failed, as info {failure_key} says, the first with {first}"
        if reasons == number:
            raise click.ClickException(text)
        click.echo(f"Warning: {text}", err=True)
