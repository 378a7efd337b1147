"""What a configuration may say, and everything that is wrong with one that says something else."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from expyre.config.files import Settings
from expyre.errors import ConfigError, RequestError
from expyre.retry import Retry
from expyre.units import mem_to_kB, time_to_sec

__all__ = ["check_settings"]

log = logging.getLogger(__name__)

Path = tuple[str, ...]
Mistake = tuple[Path, str]
Check = Callable[[Any], str | None]

_SCHEDULERS = ("slurm", "pbs", "sge", "local")
_TRANSPORTS = ("local", "paramiko", "openssh")
_REQUIRED_OF_SYSTEM = ("host", "scheduler")
_REQUIRED_OF_PARTITION = ("num_cores", "max_time", "max_mem")


def check_settings(settings: Settings) -> None:
    """Check the merged settings.

    Raises
    ------
    ConfigError
        Anything is wrong; the message lists it all, each with its file, key path, and what would be right.
    """
    found = [f"{settings.source(path)}: {'.'.join(path)}: {what}" for path, what in _top(settings.merged)]
    mistakes = list(dict.fromkeys([*settings.mistakes, *found]))
    if mistakes:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ConfigError("\n".join([f"the configuration has {count}:", *(f"  {mistake}" for mistake in mistakes)]))


def _top(data: Mapping[str, Any]) -> Iterator[Mistake]:
    yield from _values(data, (), _TOP)
    yield from _near_misses(data, (), _TOP)
    systems = data.get("systems", {})
    if not isinstance(systems, dict):
        return
    for name, spec in systems.items():
        if isinstance(spec, dict):
            yield from _system(spec, ("systems", name))
        elif not name.startswith("_"):  # a name with an underscore may also be a comment
            yield ("systems", name), f"{spec!r} is not a system: give its settings in {{…}}, or null to remove it"


def _system(spec: Mapping[str, Any], path: Path) -> Iterator[Mistake]:
    yield from _missing(spec, path, _REQUIRED_OF_SYSTEM)
    yield from _values(spec, path, _SYSTEM)
    for key in spec:
        if key not in _SYSTEM:
            yield (*path, key), f"no such setting of a system, {_nearest(key, _SYSTEM)}"
    if spec.get("transport") == "paramiko" and spec.get("remsh_cmd") is not None:
        yield (*path, "remsh_cmd"), "means nothing to the transport 'paramiko': take 'openssh' or leave one of them out"
    yield from _scheduler_options(spec, path)
    given = [key for key in ("partitions", "queues") if spec.get(key) is not None]
    if len(given) == 2:
        yield path, "has both 'partitions' and 'queues': they mean the same, keep one"
    elif "partitions" not in spec and "queues" not in spec:
        yield path, "needs 'partitions': names with num_cores, max_time and max_mem of their nodes"
    for key in given:
        if isinstance(spec[key], dict):
            yield from _partitions(spec[key], (*path, key))


def _scheduler_options(spec: Mapping[str, Any], path: Path) -> Iterator[Mistake]:
    options = spec.get("scheduler_options")
    if not isinstance(options, dict) or spec.get("scheduler") not in _schedulers():
        return
    from expyre.schedulers import schedulers

    known = schedulers[spec["scheduler"]].option_kinds
    if not known:
        return  # a class that a program has added may not say what its options are
    for key, value in options.items():
        here = (*path, "scheduler_options", key)
        if key not in known:
            yield here, f"no such option of {spec['scheduler']}, {_nearest(key, known)}"
        elif (what := _of_kind(value, known[key])) is not None:
            yield here, what


def _of_kind(value: Any, kind: str) -> str | None:
    """Return what is wrong with a value that should be of a kind of `Scheduler.option_kinds`."""
    if "|" in kind:
        return _word(lambda: kind.split("|"))(value)
    return _OPTION_KINDS[kind](value)


def _partitions(partitions: Mapping[str, Any], path: Path) -> Iterator[Mistake]:
    for name, node in partitions.items():
        here = (*path, name)
        if not isinstance(node, dict):
            yield here, f"{node!r} is not a partition: give num_cores, max_time and max_mem in {{…}}"
            continue
        yield from _missing(node, here, _REQUIRED_OF_PARTITION)
        yield from _values(node, here, _PARTITION)
        yield from _near_misses(node, here, _PARTITION)


def _missing(spec: Mapping[str, Any], path: Path, required: Iterable[str]) -> Iterator[Mistake]:
    for key in required:
        if key not in spec:
            near = difflib.get_close_matches(key, [name for name in spec if name not in _SYSTEM], n=1)
            yield path, f"needs {key!r}" + (f" (is {near[0]!r} meant for it?)" if near else "")


def _values(spec: Mapping[str, Any], path: Path, checks: Mapping[str, Check]) -> Iterator[Mistake]:
    for key, check in checks.items():
        if key in spec and (what := check(spec[key])) is not None:
            yield (*path, key), what


def _near_misses(spec: Mapping[str, Any], path: Path, known: Iterable[str]) -> Iterator[Mistake]:
    """Yield keys that are misspelt; others may be notes of the user or for another program, and are let through."""
    for key in spec:
        if key in known or key.startswith("_"):
            continue
        if difflib.get_close_matches(key, list(known), n=1, cutoff=0.75):
            yield (*path, key), f"no such setting, {_nearest(key, known)}"
        else:
            log.debug("%s in the configuration has no meaning here", ".".join((*path, key)))


def _nearest(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"the nearest is {near[0]!r}" if near else f"known are {', '.join(known)}"


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{value!r} is neither true nor false"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"{value!r} is not a string"


def _text_or_null(value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else f"{value!r} is neither a string nor null"


def _lines(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return None
    return f"{value!r} is not a list of strings" + (f": write [{value!r}]" if isinstance(value, str) else "")


def _remote_shell(value: Any) -> str | None:
    if value is None or isinstance(value, str) or _lines(value) is None:
        return None
    return f"{value!r} is not a command: give a string, a list of strings, or null"


def _mapping(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"{value!r} is not a mapping {{…}}"


def _mapping_or_null(value: Any) -> str | None:
    return None if value is None else _mapping(value)


def _integer(least: int) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return None
        return f"{value!r} is not an integer of at least {least}"

    return check


def _count_or_null(value: Any) -> str | None:
    return None if value is None else _integer(1)(value)


def _word(known: Callable[[], Iterable[str]]) -> Check:
    def check(value: Any) -> str | None:
        return None if value in known() else f"{value!r} is not known, {_nearest(str(value), known())}"

    return check


def _schedulers() -> tuple[str, ...]:
    """Return the names of queue systems, with those that a program has added."""
    module = sys.modules.get("expyre.schedulers")
    return tuple(dict.fromkeys([*_SCHEDULERS, *getattr(module, "schedulers", {})]))


def _transport(value: Any) -> str | None:
    return None if value is None else _word(lambda: _TRANSPORTS)(value)


def _size(read: Callable[[Any], int | None]) -> Check:
    def check(value: Any) -> str | None:
        try:
            size = read(value)
        except ValueError as error:
            return str(error)
        return f"{value!r} is not more than 0" if size is not None and size <= 0 else None

    return check


def _retry(value: Any) -> str | None:
    try:
        Retry.from_spec(value)
    except RequestError as error:
        return str(error)
    return None


def _seconds(value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if number and value >= 0 else f"{value!r} is not a number of seconds"


_OPTION_KINDS: dict[str, Check] = {
    "boolean": _boolean,
    "count": _integer(1),
    "seconds": _seconds,
    "text": _text,
    "text or null": _text_or_null,
    "mapping": _mapping,
}
_TOP: dict[str, Check] = {
    "systems": _mapping,
    "local_stage_dir": _text_or_null,
    "remote_rundir_submit_hostname": _text_or_null,
}
_SYSTEM: dict[str, Check] = {
    "host": _text_or_null,
    "scheduler": _word(_schedulers),
    "partitions": _mapping_or_null,
    "queues": _mapping_or_null,
    "header": _lines,
    "no_default_header": _boolean,
    "script_exec": _text,
    "pre_submit_cmds": _lines,
    "commands": _lines,
    "rundir": _text_or_null,
    "remsh_cmd": _remote_shell,
    "transport": _transport,
    "max_queued": _count_or_null,
    "array": _boolean,
    "retry": _retry,
    "scheduler_options": _mapping_or_null,
}
_PARTITION: dict[str, Check] = {
    "num_cores": _integer(1),
    "max_time": _size(time_to_sec),
    "max_mem": _size(mem_to_kB),
    "header": _lines,
    "partition": _text,
    "num_gpus": _integer(0),
}
