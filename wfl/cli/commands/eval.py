"""``wfl eval``: properties of configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from wfl.cli import cli_options
from wfl.cli.group import Entry, LazyGroup
from wfl.cli.parameters import CalculatorType

if TYPE_CHECKING:
    from wfl.configset import ConfigSet, OutputSpec

__all__ = ["ase", "evaluate"]


@click.group("eval", cls=LazyGroup, entries={"ase": Entry("eval:ase", "With any calculator of ASE.")})
def evaluate() -> None:
    """Evaluate configurations with a calculator."""


def _to_properties(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    from ase.calculators.calculator import all_properties

    from wfl.cli.errors import check_names

    names = [name.strip() for name in value.split(",") if name.strip()]
    check_names(names, all_properties, "--properties")
    return names or None


@click.command("ase")
@click.argument("calculator", type=CalculatorType())
@cli_options.inputs
@cli_options.outputs
@cli_options.extra_info
@cli_options.kwargs("the calculator")
@cli_options.prop_prefix("_auto_", "name of the calculator and _")
@click.option(
    "--properties",
    callback=_to_properties,
    metavar="NAME,...",
    help="What to evaluate, by the names of ASE.  [default: energy,forces,stress]",
)
@cli_options.num_inputs_per_python_subprocess
def ase(
    calculator: Callable[..., Any],
    inputs: ConfigSet,
    outputs: OutputSpec,
    kwargs: dict[str, Any] | None,
    prop_prefix: str,
    properties: list[str] | None,
    autopara_info: dict[str, Any],
) -> None:
    """Evaluate configurations with a CALCULATOR.

    It is the name of a calculator of ASE, like emt or lj, or module:callable for any other one; the module may be in
    the current directory. A configuration that cannot be evaluated is written without results, and says why.
    """
    from wfl.calculators import generic
    from wfl.cli.calculators import recipe
    from wfl.cli.calling import report
    from wfl.utils.parallel import calculator_name

    made_by = recipe(calculator, kwargs, "--kwargs")
    result = generic.calculate(
        inputs, outputs, made_by, properties=properties, output_prefix=prop_prefix, autopara_info=autopara_info
    )
    prefix = f"{calculator_name(made_by)}_" if prop_prefix == "_auto_" else prop_prefix
    report(result, outputs, f"{prefix}calculation_failure")
