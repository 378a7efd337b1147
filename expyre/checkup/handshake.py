"""The look at a host before the first submission to it: refuses early, and clearly, what cannot work."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Final

from expyre.checkup.facts import examine, question_of
from expyre.checkup.finding import Finding
from expyre.checkup.findings import findings
from expyre.checkup.here import look_here
from expyre.errors import RequestError
from expyre.system import System

__all__ = ["FILE", "SWITCH", "forget", "handshake"]

log = logging.getLogger(__name__)

FILE: Final = "checkup.json"
SWITCH: Final = "EXPYRE_CHECKUP"
_VALID = 24 * 3600.0
_OF_PYTHON = frozenset({"python"})
_known: set[tuple[str, str]] = set()  # of this process: stage root and digest of what was found in order


def handshake(
    name: str, system: System, stage_root: Path, python_cmd: str = "python3", has_pre_commands: bool = False
) -> None:
    """Make sure that jobs can run on a system; one round trip, and none if they could within the last day.

    Parameters
    ----------
    name
        Name of the system.
    system
        The system.
    stage_root
        Where jobs are staged; what was found in order is remembered there.
    python_cmd
        What starts Python in the jobs.
    has_pre_commands
        Whether the jobs have commands of their own that may bring Python with them.

    Raises
    ------
    RequestError
        Jobs would fail for certain; lists everything that is wrong, with what to change.
    TransportError
        The host was not reached.
    """
    if _is_needless(system):
        return
    digest = _digest(system, stage_root, python_cmd, has_pre_commands)
    place = (os.path.abspath(stage_root), digest)
    if place in _known:
        return
    if not _remembered(stage_root, digest):
        _look(name, system, stage_root, python_cmd, has_pre_commands)
        _remember(stage_root, digest, name)
    _known.add(place)


def forget(stage_root: Path) -> None:
    """Forget what was found in order, so that the next submissions look again."""
    _known.difference_update([place for place in _known if place[0] == os.path.abspath(stage_root)])
    with contextlib.suppress(OSError):
        (stage_root / FILE).unlink()


def _is_needless(system: System) -> bool:
    local = system.host is None and getattr(system.scheduler, "name", "") == "local"
    return local or os.environ.get(SWITCH, "").strip().lower() in ("0", "no", "off", "false")


def _look(name: str, system: System, stage_root: Path, python_cmd: str, has_pre_commands: bool) -> None:
    facts = examine(system, stage_root, python_cmd, brief=True)
    found = findings(name, system, facts, look_here(stage_root))
    left_out = _OF_PYTHON if has_pre_commands else frozenset()
    certain = [finding for finding in found if finding.certain and finding.what not in left_out]
    if certain:
        raise RequestError(_message(name, system, certain))


def _message(name: str, system: System, certain: list[Finding]) -> str:
    lines = [f"  {finding.what}: {finding.evidence}\n    -> {finding.remedy}" for finding in certain]
    where = system.host or "this machine"
    tail = f"`xpr doctor {name}` tells more; {SWITCH}=off in the environment submits all the same"
    return "\n".join([f"jobs on system {name!r} ({where}) would fail, so nothing was submitted:", *lines, tail])


def _digest(system: System, stage_root: Path, python_cmd: str, has_pre_commands: bool) -> str:
    question = question_of(system, stage_root, python_cmd, brief=True)
    words = [
        system.host,
        str(system._transport_kind),
        str(system.remsh_cmd),
        getattr(system.scheduler, "name", ""),
        repr(question),
        str(has_pre_commands),
    ]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def _remembered(stage_root: Path, digest: str) -> bool:
    return digest in _recent(stage_root)


def _recent(stage_root: Path) -> dict[str, dict[str, Any]]:
    """Return what was found in order within the last day; nothing from a file that is damaged."""
    try:
        found = json.loads((stage_root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {key: entry for key, entry in entries if isinstance(entry, dict) and _is_recent(entry.get("time"))}


def _is_recent(then: Any) -> bool:
    return isinstance(then, int | float) and 0 <= time.time() - then < _VALID


def _remember(stage_root: Path, digest: str, name: str) -> None:
    """Note in the file that all was in order; that it cannot be written costs a round trip next time, no more."""
    kept = _recent(stage_root)
    kept[digest] = {"system": name, "time": time.time()}
    temporary = stage_root / f".{FILE}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        os.replace(temporary, stage_root / FILE)
    except OSError as error:
        log.debug("%s cannot be written: %s", stage_root / FILE, error)
        with contextlib.suppress(OSError):
            temporary.unlink()
