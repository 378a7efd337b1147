"""``wfl md``: molecular dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from wfl.cli import cli_options
from wfl.cli.parameters import Json

if TYPE_CHECKING:
    from wfl.configset import ConfigSet, OutputSpec

__all__ = ["INTEGRATORS", "md"]

INTEGRATORS = ("Berendsen", "Langevin", "LangevinBAOAB")
_FUNCTIONS = ("traj_select_during_func", "traj_select_after_func", "abort_check")


@click.command()
@cli_options.inputs
@cli_options.outputs
@cli_options.extra_info
@cli_options.calculator
@cli_options.calculator_kwargs
@click.option("--steps", type=click.IntRange(min=0), required=True, help="Number of time steps.")
@click.option("--dt", type=float, required=True, help="Time step in fs.")
@click.option("--integrator", type=click.Choice(INTEGRATORS), help="Integrator.  [default: Berendsen]")
@click.option(
    "--temperature",
    type=Json(),
    help="K; or a ramp like [300, 600], or like [300, 600, 20] in 20 stages. Without, the velocities in the files are "
    "kept.",
)
@click.option("--temperature-tau", type=float, help="Time scale of the thermostat in fs.  [default: no thermostat]")
@click.option("--pressure", type=Json(), help='GPa; or like ["uniform", 0, 5].  [default: fixed cell]')
@click.option("--pressure-tau", type=float, help="Time scale of the barostat in fs.  [default: 3 temperature-tau]")
@click.option("--traj-step-interval", type=click.IntRange(min=1), help="Steps between frames.  [default: 1]")
@cli_options.seed
@cli_options.kwargs("wfl.generate.md.md")
@cli_options.prop_prefix("last_op__md_")
@cli_options.num_inputs_per_python_subprocess
def md(
    inputs: ConfigSet,
    outputs: OutputSpec,
    calculator: Callable[..., Any],
    calculator_kwargs: dict[str, Any] | None,
    kwargs: dict[str, Any] | None,
    prop_prefix: str,
    autopara_info: dict[str, Any],
    rng: Any,
    **options: Any,
) -> None:
    """Run molecular dynamics from each configuration, and write the trajectories.

    Velocities are drawn at the temperature, if there is one. A run that fails is written as far as it came, and its
    last frame says why.
    """
    from wfl.cli.calculators import recipe
    from wfl.cli.calling import arguments, is_random, report
    from wfl.generate.md import md as run

    made_by = recipe(calculator, calculator_kwargs, "--calculator-kwargs")
    given = arguments(run, options, kwargs, no_text=_FUNCTIONS)
    if rng is None and (given.get("temperature") is not None or is_random(given.get("pressure"))):
        raise click.UsageError("initial velocities and random pressures need random numbers: give --seed, too")
    result = run(inputs, outputs, made_by, results_prefix=prop_prefix, rng=rng, autopara_info=autopara_info, **given)
    report(result, outputs, f"{prop_prefix}failure")
