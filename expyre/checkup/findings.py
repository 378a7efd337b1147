"""Everything that is right and wrong with a system, from what was found on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterator

from expyre.checkup import commands, partitions, place, python
from expyre.checkup.facts import Facts
from expyre.checkup.finding import FAILURE, OK, Case, Finding, Source, in_config_json
from expyre.checkup.here import Here
from expyre.errors import TransportError
from expyre.system import System

__all__ = ["findings", "unreachable"]

_CHECKS = (
    commands.tools,
    commands.queue_commands,
    commands.accounting,
    partitions.partitions,
    place.run_directory,
    place.quota,
    python.commands,
    python.python,
    python.packages,
    place.clock,
    place.record,
)


def findings(name: str, system: System, facts: Facts, here: Here, source: Source = in_config_json) -> list[Finding]:
    """Return the findings on a system whose host was reached.

    Parameters
    ----------
    name
        Its name in the configuration.
    system
        The system.
    facts
        What was found on its host.
    here
        What was found on this side.
    source
        Tells in which file a setting stands.
    """
    case = Case(name, system, facts, here, source)
    return [*_connection(case), *(finding for check in _CHECKS for finding in check(case))]


def _connection(case: Case) -> Iterator[Finding]:
    who = case.facts.who
    way = "" if case.system.host is None else f" in {case.facts.seconds:.1f} s, with all questions"
    yield Finding(OK, "connection", f"{who.user} on {who.host} ({who.system}){way}")


_FAULTS = (
    (r"host key|known_hosts|host.*verif", "host key"),
    (r"authenticat|permission denied|publickey|password|passphrase|private key|identity", "authentication"),
    (r"resolve|name or service|nodename|no address|unknown host", "host name"),
)


def unreachable(
    name: str, system: System, error: TransportError, here: Here, source: Source = in_config_json
) -> list[Finding]:
    """Return the findings on a system whose host was not reached."""
    key = ".".join(("systems", name, "host"))
    setting = f"{source(('systems', name, 'host'))}: {key}"
    text = str(error)
    what = next((word for pattern, word in _FAULTS if re.search(pattern, text, re.IGNORECASE)), "connection")
    host = system.host or "this machine"
    remedies = {
        "host key": f"compare the key with what the administrators say, then accept it once: `ssh {host}`",
        "authentication": f"make `ssh {host} true` work without a password (ssh-agent, key in ~/.ssh/config), "
        f"or correct the user in {setting}",
        "host name": f"correct {setting}, or define the alias in ~/.ssh/config",
        "connection": f"does `ssh {host} true` work (VPN, host down)? else correct {setting}",
    }
    advised = "`ssh" in text  # by the transport itself, which knows more
    remedy = f"do that; if the host is not the right one, correct {setting}" if advised else remedies[what]
    return [Finding(FAILURE, what, text, remedy, certain=True), *_here_only(name, system, here, source)]


def _here_only(name: str, system: System, here: Here, source: Source) -> Iterator[Finding]:
    from expyre.checkup.facts import Interpreter, Space, Who

    nothing = Facts(system.host, 0.0, 0.0, Who(), {}, Space(""), Interpreter(""))
    yield from place.record(Case(name, system, nothing, here, source))
