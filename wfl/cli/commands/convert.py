"""``wfl convert``: from one format to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wfl.cli import cli_options

if TYPE_CHECKING:
    from wfl.configset import ConfigSet, OutputSpec

__all__ = ["convert"]

_ARRAYS_OF_TRAJ = frozenset(
    {"numbers", "positions", "momenta", "masses", "tags", "initial_charges", "initial_magmoms"}
)


def _to_slice(ctx: click.Context, param: click.Parameter, value: str | None) -> slice | None:
    if value is None:
        return None
    from wfl.configset.io.through_ase import parse_index

    try:
        found = parse_index(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc
    if found.step is not None and found.step < 1:
        raise click.BadParameter(f"the step of {value!r} must be at least 1", ctx, param)
    return found


@click.command()
@cli_options.inputs
@cli_options.outputs
@cli_options.extra_info
@click.option(
    "--index",
    callback=_to_slice,
    metavar="SLICE",
    help="Only these of all configurations: like 5, -1, 10:20 or ::100.  [default: all]",
)
@click.option("--input-format", metavar="FORMAT", help="Format of all inputs, by ASE's name.  [default: by the name]")
@click.option("--output-format", metavar="FORMAT", help="Format of the output, by ASE's name.  [default: by extension]")
@click.option("--flat", is_flag=True, help="Do not note to which input and group each configuration belongs.")
def convert(
    inputs: ConfigSet,
    outputs: OutputSpec,
    index: slice | None,
    input_format: str | None,
    output_format: str | None,
    flat: bool,
) -> None:
    """Write configurations to a file of another format, or a part of them, or several files as one.

    One configuration is in memory at a time.
    """
    from wfl.cli.errors import noting
    from wfl.configset import ConfigSet

    _check_formats(input_format, output_format)
    if outputs.all_written() and not outputs.overwrite:
        click.echo(f"{_name(outputs)} exists: nothing is done; --overwrite replaces it", err=True)
        return
    if input_format is not None:
        inputs = ConfigSet(inputs, read_kwargs={"format": input_format})
    if index is not None:
        inputs = _selected(inputs, index)
    with noting(f"while converting {inputs}".rstrip()):
        number = _write(inputs, _with_format(outputs, output_format), flat)
    click.echo(f"{_name(outputs)}: {number} configuration{'' if number == 1 else 's'}")


def _selected(inputs: ConfigSet, index: slice) -> ConfigSet:
    number = len(inputs)
    if number and not range(number)[index]:
        raise click.UsageError(f"--index selects nothing: there are {number} configurations, counted from 0")
    return inputs[index]


def _name(outputs: OutputSpec) -> str:
    return ", ".join(str(path) for path in outputs.files or ())


def _check_formats(*formats: str | None) -> None:
    if not any(formats):
        return
    from ase.io.formats import ioformats

    from wfl.cli.errors import nearest

    for name in formats:
        if name is not None and name not in ioformats:
            hint = nearest(name, ioformats) or "see: ase info --formats"
            raise click.UsageError(f"there is no format {name!r}; {hint}")


def _with_format(outputs: OutputSpec, output_format: str | None) -> OutputSpec:
    """Return the same output in another format, as a list of one file: the file itself takes no part in places."""
    from wfl.configset import OutputSpec

    write_kwargs: dict[str, Any] = {} if output_format is None else {"format": output_format}
    return OutputSpec(
        outputs.files, overwrite=outputs.overwrite, flush=False, write_kwargs=write_kwargs, tags=outputs.tags
    )


def _write(inputs: ConfigSet, outputs: OutputSpec, flat: bool) -> int:
    """Store everything, and return how many configurations that is."""
    from wfl.configset import iter_items
    from wfl.configset.locations import format_location

    number = 0
    outputs.store([], format_location((0,)))  # so that there is a file even if there is nothing for it
    lost: set[str] = set()
    for number, (path, atoms) in enumerate(iter_items(inputs), start=1):  # noqa: B007
        outputs.store(atoms, format_location((0,) if flat else (0, *(path or ()))))
        lost.update(atoms.arrays.keys() - _ARRAYS_OF_TRAJ)
    outputs.close()
    if lost and _kind(outputs) == "traj":
        text = f"the format traj has no place for the arrays {', '.join(sorted(lost))}; .xyz and .db keep them"
        click.echo(f"Warning: {text}", err=True)
    return number


def _kind(outputs: OutputSpec) -> str:
    from wfl.configset.io.names import extension_of

    return str(outputs.write_kwargs.get("format") or extension_of((outputs.files or [])[0]))
