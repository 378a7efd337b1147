"""``xpr config``: which configuration is in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from expyre.cli.output import Screen, echo_json, json_option, quiet_option
from expyre.cli.session import Session, pass_session
from expyre.cli.text import clean
from expyre.units import time_to_HMS

if TYPE_CHECKING:
    from expyre.config import Project
    from expyre.system import System

__all__ = ["config"]

_VARIABLES = (
    "EXPYRE_ROOT", "EXPYRE_SYS", "EXPYRE_RSH", "EXPYRE_RETRY", "EXPYRE_HEADER_EXTRA", "WFL_EXPYRE_INFO",
    "EXPYRE_CODE_HASH", "EXPYRE_CHECKUP", "EXPYRE_LOCAL_DIR", "EXPYRE_LOCAL_CORES", "EXPYRE_DRY_RUN",
)  # fmt: skip


@click.command()
@quiet_option
@json_option
@pass_session
def config(session: Session, quiet: bool, as_json: bool) -> None:
    """Show which configuration files were found, the systems they make, and where the record of jobs is."""
    project = session.project
    if quiet:
        click.echo("".join(f"{name}\n" for name in project.systems), nl=False)
    elif as_json:
        echo_json(_facts(project))
    else:
        _print(_facts(project))


def _facts(project: Project) -> dict[str, Any]:
    files = [directory / "config.json" for directory in project.config_dirs]
    record = project.stage_dir / "jobs.db" if project._record is None else Path(project.record.db_filename)
    return {
        "files": [{"path": str(path), "exists": path.is_file()} for path in files],
        "stage_dir": str(project.stage_dir),
        "record": {"path": str(record), "exists": record.is_file()},
        "systems": {name: _system(system) for name, system in project.systems.items()},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _system(system: System) -> dict[str, Any]:
    return {
        "host": system.host,
        "scheduler": type(system.scheduler).__name__,
        "rundir": system.remote_rundir,
        "max_queued": system.max_queued,
        "partitions": system.partitions or {},
    }


def _print(facts: dict[str, Any]) -> None:
    screen = Screen.current()
    missing = {True: "", False: " (not there)"}
    click.echo(screen.bold("Configuration files, outermost first:"))
    for file in facts["files"]:
        click.echo(f"  {clean(file['path'])}{missing[file['exists']]}")
    if not facts["files"]:
        click.echo("  none; jobs run on this machine (system 'local')")
    click.echo(f"{screen.bold('Files of jobs:')} {clean(facts['stage_dir'])}")
    click.echo(f"{screen.bold('Record of jobs:')} {clean(facts['record']['path'])}{missing[facts['record']['exists']]}")
    click.echo(screen.bold("Systems:"))
    for name, system in facts["systems"].items():
        where = f"{system['scheduler']} on {system['host'] or 'this machine'}"
        click.echo(f"  {clean(name)}: {where}, jobs run in {clean(system['rundir'] or 'the directory of their files')}")
        for partition, spec in system["partitions"].items():
            click.echo(f"    {clean(partition)}: {_nodes(spec)}")
    for name, value in facts["environment"].items():
        click.echo(f"{screen.bold(name)}={clean(value)}")


def _nodes(spec: dict[str, Any]) -> str:
    limit, memory = spec.get("max_time"), spec.get("max_mem")
    words = [f"{spec.get('num_cores')} cores"]
    words += [f"{spec['num_gpus']} GPUs"] if spec.get("num_gpus") else []
    words += [f"{memory / 2**20:.3g} GB" if memory is not None else "memory not limited"]
    words += [time_to_HMS(limit) if limit is not None else "time not limited"]
    return ", ".join(words)
