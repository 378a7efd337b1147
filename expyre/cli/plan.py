"""``xpr plan``: what a script would submit, without submitting anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from expyre.cli.output import Screen, echo_json, json_option
from expyre.cli.table import Column, fit, render
from expyre.cli.text import clean, crop
from expyre.errors import RequestError
from expyre.units import time_to_HMS

if TYPE_CHECKING:
    from expyre.plan import PlannedCall

__all__ = ["plan"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--script/--no-script", "scripts", default=False, help="Also print the job scripts.")
@json_option
@click.argument("script", type=click.Path())
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def plan(script: str, arguments: tuple[str, ...], scripts: bool, as_json: bool) -> None:
    """Run SCRIPT without submitting anything: say where each call would go, what is known already, what it costs.

    Options of this command come before SCRIPT.
    """
    from expyre.plan import STOPPED, run_script

    if not Path(script).is_file():
        raise RequestError(f"there is no script {script!r}")
    calls = run_script([script, *arguments])
    if as_json:
        echo_json([{**asdict(call), "core_hours": _core_hours(call)} for call in calls])
        return
    click.echo("\n".join(_lines(calls, Screen.current(), scripts)))
    if any(call.op == STOPPED for call in calls):
        raise click.exceptions.Exit(1)


def _lines(calls: list[PlannedCall], screen: Screen, scripts: bool) -> list[str]:
    if not calls:
        return ["The script makes no call that could be submitted."]
    lines = ["Plan (nothing was submitted):", *_table(calls, screen)]
    lines += [f"{clean(call.op)}: {clean(call.note)}" for call in calls if call.note]
    total = sum(_core_hours(call) or 0.0 for call in calls)
    lines.append(f"To submit: {sum(call.misses for call in calls)} jobs, at most {total:.1f} core-hours")
    for call in calls if scripts else []:
        if call.script:
            lines += ["", screen.bold(f"Job script of {clean(call.op)}:"), call.script.rstrip("\n")]
    return lines


def _table(calls: list[PlannedCall], screen: Screen) -> list[str]:
    columns = [
        Column("call", [call.op for call in calls], 8, right=False),
        Column("goes to", [_where(call) for call in calls], 8, right=False),
        Column("because of", [call.key_matched or "-" for call in calls], 8, right=False),
        *(_numbers(head, [getattr(call, name) for call in calls]) for head, name in _COUNTS),
        Column("time", ["-" if call.max_time is None else time_to_HMS(call.max_time) for call in calls]),
    ]
    if screen.width is None:
        return render(columns)
    fit(columns, screen.width)
    return [crop(line, screen.width) for line in render(columns)]


_COUNTS = (
    ("jobs", "jobs"),
    ("known", "hits"),
    ("to submit", "misses"),
    ("nodes", "num_nodes"),
    ("cores", "num_cores"),
)


def _numbers(head: str, values: list[int | None]) -> Column:
    return Column(head, ["-" if value is None else str(value) for value in values])


def _where(call: PlannedCall) -> str:
    return f"{call.route}/{call.partition}" if call.partition else call.route or "-"


def _core_hours(call: PlannedCall) -> float | None:
    """Return what the jobs to be submitted would cost at most; None if that is not limited."""
    if call.num_cores is None or call.max_time is None:
        return None
    return call.misses * call.num_cores * call.max_time / 3600
