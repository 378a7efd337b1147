"""``xpr init``: a configuration for a host from what is found there."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from expyre.cli.doctor import print_findings
from expyre.cli.output import Screen, warn
from expyre.cli.text import clean
from expyre.config.check import check_settings
from expyre.config.files import CONFIG_FILE, DIRECTORY_NAMES, Settings
from expyre.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from expyre.checkup.facts import Facts
    from expyre.checkup.proposal import Proposal, Wish

__all__ = ["init"]

_MOST_GUESSES = 4


@click.command()
@click.argument("host", metavar="[USER@]HOST|local")
@click.option("--name", help="Name of the system (default: from the name of the host).")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the configuration (default: .expyre here).",
)
@click.option("--scheduler", type=click.Choice(("slurm", "sge", "pbs", "local")), help="Queue system, if several.")
@click.option("--rundir", help="Directory on the host under which jobs run (default: run_expyre in the home there).")
@click.option("--command", "commands", multiple=True, help="Line at the start of job scripts; may be repeated.")
@click.option("--transport", type=click.Choice(("paramiko", "openssh")), help="How to reach the host.")
@click.option("--remsh", "remsh_cmd", help="Remote shell command instead of ssh.")
@click.option("--print", "only_print", is_flag=True, help="Print the configuration, write nothing.")
@click.option("--force", is_flag=True, help="Replace a system of the same name.")
def init(
    host: str,
    name: str | None,
    directory: Path | None,
    scheduler: str | None,
    rundir: str | None,
    commands: tuple[str, ...],
    transport: str | None,
    remsh_cmd: str | None,
    only_print: bool,
    force: bool,
) -> None:
    """Examine a host and write the system that it makes into config.json: queue system, partitions, header lines.

    HOST is what `ssh HOST` takes; "local" is this machine with the queue system that it has. Other systems in the
    file stay as they are. Nothing is changed on the host.
    """
    from expyre.checkup.proposal import Wish, name_of_host

    more = {"transport": transport, "remsh_cmd": remsh_cmd}
    target = None if host == "local" else host
    file = _directory(directory) / CONFIG_FILE
    name = name or (name_of_host(target, "", "") if target else None)
    if name and not only_print:
        _data_for(file, name, force)  # what is wrong there is said before the host is asked
    wish = Wish(target, scheduler, rundir, commands, {key: value for key, value in more.items() if value})
    facts, proposal = _examined(wish)
    name = name or name_of_host(target, proposal.settings["scheduler"], facts.who.host)
    if only_print:
        click.echo(_text({"systems": {name: proposal.settings}}), nl=False)
    else:
        _write(file, name, proposal.settings, force)
        click.echo(f"System {clean(name)!r} is now in {clean(str(file))}:")
        click.echo(_summary(proposal.settings))
    _remarks(name, proposal, facts, file)


def _examined(wish: Wish) -> tuple[Facts, Proposal]:
    """Return what was found and what it comes to; commands that bring a better Python are tried out first."""
    from expyre.checkup.facts import collect
    from expyre.checkup.proposal import guessed_commands, propose
    from expyre.transports import connect

    transport = connect(wish.host, wish.more.get("transport"), wish.more.get("remsh_cmd"))
    question = _question(wish)
    facts = collect(transport, replace(question, search=not wish.commands))
    if wish.scheduler == "local" or not facts.queues:
        question = replace(question, queues=())
    guesses = [] if wish.commands else guessed_commands(facts.python, facts, sys.version_info[:3])
    for commands in guesses[:_MOST_GUESSES] if wish.host is not None or facts.queues else []:
        python = collect(transport, replace(question, queues=(), quota=False, commands=commands)).python
        if python.version >= (3, 9):
            facts, wish = replace(facts, python=python), replace(wish, commands=commands)
            break
    return facts, propose(wish, facts)


def _question(wish: Wish) -> Any:
    from expyre.checkup import pbs, sge, slurm
    from expyre.checkup.script import Question

    modules = {"slurm": slurm, "sge": sge, "pbs": pbs}
    wanted = [wish.scheduler] if wish.scheduler else list(modules)
    here = wish.host is None and not wish.commands
    return Question(
        place=wish.rundir or ("run_expyre" if wish.host else os.getcwd()),
        python=shlex.quote(sys.executable) if here else "python3",
        commands=wish.commands,
        queues=tuple(modules[key].LONG for key in wanted if key in modules),
        quota=True,
    )


def _directory(given: Path | None) -> Path:
    if given is not None:
        return given.expanduser()
    there = [Path(name) for name in DIRECTORY_NAMES if Path(name).is_dir()]
    if len(there) > 1:
        raise RequestError(f"here are both {' and '.join(DIRECTORY_NAMES)}: keep one, or name it with --dir")
    return there[0] if there else Path(DIRECTORY_NAMES[0])


def _write(file: Path, name: str, settings: dict[str, Any], force: bool) -> None:
    """Put a system into a configuration file, which is replaced as a whole or not at all."""
    from expyre.config.projects import make_private_directory

    data = _data_for(file, name, force)
    data["systems"] = {**data.get("systems", {}), name: settings}
    check_settings(Settings(data, ((file, data),), ()))
    make_private_directory(file.parent.absolute())
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(_text(data), encoding="utf-8")
    os.replace(temporary, file)


def _data_for(file: Path, name: str, force: bool) -> dict[str, Any]:
    """Return what a file says so far, if a system of that name may be put into it."""
    data = _read(file)
    if isinstance(data.get("systems", {}).get(name), dict) and not force:
        raise RequestError(f"{file} has a system {name!r} already: replace it with --force, or give another --name")
    return data


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON ({error}): mend it first") from error
    if not isinstance(data, dict) or not isinstance(data.get("systems", {}), dict):
        raise ConfigError(f"{file}: must hold one {{…}} with the key 'systems': mend it first")
    return data


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=4, ensure_ascii=False) + "\n"


def _summary(settings: dict[str, Any]) -> str:
    lines = [f"  {settings['scheduler']} on {settings['host'] or 'this machine'}"]
    for key, node in settings["partitions"].items():
        words = [f"{node['num_cores']} cores", node["max_mem"] or "memory not limited"]
        words += [f"{node['num_gpus']} GPUs"] if "num_gpus" in node else []
        lines.append(f"  {clean(key)}: {', '.join([*words, node['max_time'] or 'time not limited'])}")
    return "\n".join(lines)


def _remarks(name: str, proposal: Proposal, facts: Facts, file: Path) -> None:
    """Tell what else is to be done, on standard error."""
    from expyre.checkup import findings, look_here
    from expyre.system import System

    for note in proposal.notes:
        warn(f"Note: {clean(note)}")
    if facts.modules and not facts.python.version >= (3, 9):
        warn(f"Note: modules that may bring Python: {', '.join(map(clean, facts.modules))}")
    found = findings(name, System(**proposal.settings), facts, look_here(file.parent), lambda _: str(file))
    trouble = [finding for finding in found if finding.level != "ok"]
    if trouble:
        warn("Still to be done:")
        print_findings(trouble, Screen.current(), err=True)
    warn(f"Next: xpr doctor {shlex.quote(name)} --submit")
