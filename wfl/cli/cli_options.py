"""Options that several commands share, as decorators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wfl.cli.parameters import CalculatorType, Json

if TYPE_CHECKING:
    import numpy as np

    from wfl.configset import ConfigSet, OutputSpec

__all__ = [
    "calculator",
    "calculator_kwargs",
    "extra_info",
    "inputs",
    "kwargs",
    "num_inputs_per_python_subprocess",
    "outputs",
    "prop_prefix",
    "seed",
]

F = TypeVar("F", bound=Callable[..., Any])

_OVERWRITE, _TAGS = "wfl.overwrite", "wfl.tags"


def _to_inputs(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> ConfigSet:
    from wfl.configset import ConfigSet

    try:
        return ConfigSet(value[0] if len(value) == 1 else list(value))
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


def inputs(command: F) -> F:
    """Add ``--inputs``: a ConfigSet of files."""
    return click.option(
        "-i",
        "--inputs",
        multiple=True,
        required=True,
        metavar="FILE",
        callback=_to_inputs,
        help="File of configurations, or a pattern like 'a_*.xyz'; can be repeated.",
    )(command)


def _to_outputs(ctx: click.Context, param: click.Parameter, value: str) -> OutputSpec:
    from wfl.configset import OutputSpec

    return OutputSpec(value, overwrite=ctx.meta.get(_OVERWRITE, False), tags=ctx.meta.get(_TAGS))


def _remember_overwrite(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_OVERWRITE] = value


def outputs(command: F) -> F:
    """Add ``--outputs``, an OutputSpec of one file, and ``--overwrite``."""
    for option in (
        click.option(
            "--overwrite",
            is_flag=True,
            is_eager=True,  # known when the output is made
            expose_value=False,
            callback=_remember_overwrite,
            help="Replace the output if it exists; otherwise it is complete, and is not computed again.",
        ),
        click.option(
            "-o",
            "--outputs",
            required=True,
            metavar="FILE",
            callback=_to_outputs,
            help="File to write; its extension says the format.",
        ),
    ):
        command = option(command)
    return command


def _remember_tags(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from ase.io.extxyz import key_val_str_to_dict

    try:
        ctx.meta[_TAGS] = key_val_str_to_dict(value)
    except Exception as exc:
        raise click.BadParameter(f"{value!r} is not a series of key=value: {exc}", ctx, param) from exc


def extra_info(command: F) -> F:
    """Add ``--extra-info``: entries of info of everything stored."""
    return click.option(
        "-ei",
        "--extra-info",
        is_eager=True,
        expose_value=False,
        callback=_remember_tags,
        metavar="'KEY=VALUE ...'",
        help="Entries of info for everything written, as in the comment line of an extended XYZ file.",
    )(command)


def kwargs(what: str) -> Callable[[F], F]:
    """Add ``--kwargs``: further keywords as JSON.

    Parameters
    ----------
    what
        Of what they are keywords, for the help.
    """
    return click.option(
        "-kw", "--kwargs", type=Json(only_dict=True), metavar="JSON", help=f"Further keywords of {what}, a JSON object."
    )


def prop_prefix(default: str, shown: str | None = None) -> Callable[[F], F]:
    """Add ``--prop-prefix``: start of the names of results.

    Parameters
    ----------
    default
        What is used if it is not given.
    shown
        How the help calls it.
    """
    return click.option(
        "-pp",
        "--prop-prefix",
        default=default,
        show_default=shown or True,
        metavar="TEXT",
        help="Start of the names of the info and arrays entries of results.",
    )


def _to_autopara_info(ctx: click.Context, param: click.Parameter, value: int | None) -> dict[str, int]:
    return {} if value is None else {"num_inputs_per_python_subprocess": value}


def num_inputs_per_python_subprocess(command: F) -> F:
    """Add ``--num-inputs-per-python-subprocess``; the command gets it as ``autopara_info``."""
    return click.option(
        "--num-inputs-per-python-subprocess",
        "autopara_info",
        type=click.IntRange(min=1),
        callback=_to_autopara_info,
        metavar="N",
        help="Configurations that a worker process gets at a time.  [default: 10]",
    )(command)


def calculator(command: F) -> F:
    """Add ``--calculator``: the class or function that makes the calculator."""
    return click.option(
        "-c",
        "--calculator",
        type=CalculatorType(),
        required=True,
        metavar="CALCULATOR",
        help="Name of a calculator of ASE, like emt, or module:callable.",
    )(command)


def calculator_kwargs(command: F) -> F:
    """Add ``--calculator-kwargs``: keywords of the calculator."""
    return click.option(
        "-ckw",
        "--calculator-kwargs",
        type=Json(only_dict=True),
        metavar="JSON",
        help="Keywords of the calculator, a JSON object.",
    )(command)


def _to_rng(ctx: click.Context, param: click.Parameter, value: int | None) -> np.random.Generator | None:
    if value is None:
        return None
    import numpy as np

    return np.random.default_rng(value)


def seed(command: F) -> F:
    """Add ``--seed``; the command gets a generator of random numbers, or None, as ``rng``."""
    return click.option(
        "--seed",
        "rng",
        type=click.IntRange(min=0),
        callback=_to_rng,
        metavar="N",
        help="Seed of all random numbers; the same one gives the same results.",
    )(command)
