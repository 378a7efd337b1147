"""``wfl optimize``: relaxation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from wfl.cli import cli_options
from wfl.cli.parameters import Json

if TYPE_CHECKING:
    from wfl.configset import ConfigSet, OutputSpec

__all__ = ["optimize"]


@click.command()
@cli_options.inputs
@cli_options.outputs
@cli_options.extra_info
@cli_options.calculator
@cli_options.calculator_kwargs
@click.option("--fmax", type=float, help="Largest force of a converged configuration, eV/Å.  [default: 0.001]")
@click.option("--smax", type=float, help="Largest stress component, eV/Å³.  [default: the number of fmax]")
@click.option("--steps", type=click.IntRange(min=0), help="Most steps to do.  [default: 1000]")
@click.option("--pressure", type=Json(), help='GPa; or like ["uniform", 0, 5]. The cell is relaxed if it is given.')
@click.option("--keep-symmetry/--no-keep-symmetry", default=None, help="Keep the symmetry.  [default: keep]")
@click.option("--traj-step-interval", type=click.IntRange(min=1), help="Steps between frames.  [default: 1]")
@click.option(
    "--traj-subselect",
    type=click.Choice(["last", "last_converged"]),
    help="Write the last frame only, or that if it is converged.  [default: all frames]",
)
@cli_options.seed
@cli_options.kwargs("wfl.generate.optimize.optimize and of ASE's PreconLBFGS")
@cli_options.prop_prefix("last_op__optimize_")
@cli_options.num_inputs_per_python_subprocess
def optimize(
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
    """Relax configurations, and write their trajectories.

    The optimizer is ASE's preconditioned L-BFGS. A relaxation that fails is written as far as it came, and its last
    frame says why.
    """
    from ase.optimize.precon import PreconLBFGS

    from wfl.cli.calculators import recipe
    from wfl.cli.calling import arguments, is_random, parameters_of, report
    from wfl.generate.optimize import optimize as relax

    made_by = recipe(calculator, calculator_kwargs, "--calculator-kwargs")
    given = arguments(relax, options, kwargs, also=parameters_of(PreconLBFGS) - {"atoms"})
    if rng is None and is_random(given.get("pressure")):
        raise click.UsageError("--pressure is random: give --seed, too")
    result = relax(inputs, outputs, made_by, results_prefix=prop_prefix, rng=rng, autopara_info=autopara_info, **given)
    report(result, outputs, f"{prop_prefix}failure")
