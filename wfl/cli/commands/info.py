"""``wfl info``: what files of configurations contain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wfl.configset import ConfigSet

__all__ = ["info"]


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list with one object for each file.")
def info(files: Sequence[str], as_json: bool) -> None:
    """Summarise files of configurations: how many, their sizes, formulae, periodicity, info and arrays entries.

    FILE may be a pattern. One configuration is in memory at a time.
    """
    from wfl.cli.summary import summarise

    found = _config_sets(files)
    summaries = [summarise(name, configs) for name, configs in found]
    if as_json:
        import json

        click.echo(json.dumps([summary.to_dict() for summary in summaries], indent=2))
        return
    click.echo("\n\n".join("\n".join(summary.lines()) for summary in summaries))


def _config_sets(files: Sequence[str]) -> list[tuple[str, ConfigSet]]:
    from wfl.configset import ConfigSet

    try:
        paths = ConfigSet(list(files)).items
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="FILE") from exc
    return [(str(path), ConfigSet(path)) for path in (paths if isinstance(paths, list) else [])]
