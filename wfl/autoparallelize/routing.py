"""Which calls are queued, and how: the routes in ``WFL_EXPYRE_INFO``."""

from __future__ import annotations

import atexit
import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from expyre.errors import ConfigError

from .remoteinfo import RemoteInfo

__all__ = ["Route", "RouteError", "call_frames", "get_remote_info", "match"]

_log = logging.getLogger(__name__)
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Local variable by which a frame of a generated wrapper says for which function of which file it stands.
STANDS_FOR = "_wfl_stands_for"


class RouteError(ConfigError, TypeError):
    """Raised when the routes cannot be used; lists every mistake, each with the nearest valid key."""


@dataclass(frozen=True)
class Route:
    """One key with the settings of the jobs of the calls that it selects."""

    key: str
    parts: tuple[str, ...]
    kwargs: Mapping[str, Any]


@dataclass
class Routes:
    """All routes of one value of the environment variable."""

    env_var: str
    routes: list[Route]
    for_all: Mapping[str, Any] | None = None
    used: set[str] = field(default_factory=set)


# ---------------------------------------------------------------------------------------------------- reading


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        import yaml

        return yaml.safe_load(text)


def _read(env_var: str, value: str) -> Any:
    """Return the content of the variable, or of the file that it names."""
    import yaml

    try:
        content = _parse(value)
    except yaml.YAMLError as error:
        if "\n" in value or value.lstrip().startswith("{"):
            raise RouteError(f"{env_var} is neither YAML nor JSON nor a file name: {error}") from error
        content = value
    if not isinstance(content, str):
        return content
    try:
        text = Path(value).expanduser().read_text()
    except FileNotFoundError as error:
        blanks = " (it contains blanks: is it perhaps meant to be JSON?)" if " " in value.strip() else ""
        raise FileNotFoundError(f"{env_var} names the file {value!r}, which does not exist{blanks}") from error
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise RouteError(f"the file {value} ({env_var}) is neither YAML nor JSON: {error}") from error


def _mistakes(where: str, kwargs: Any) -> Iterator[str]:
    if not isinstance(kwargs, Mapping):
        yield f"{where}: must be a dict of keywords of RemoteInfo, not {kwargs!r}"
        return
    fields = RemoteInfo.fields()
    for name in kwargs:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are: {', '.join(fields)}"
            yield f"{where}: unknown key {name!r}; {hint}"
    for name, needed in fields.items():
        if needed and name not in kwargs:
            yield f"{where}: {name!r} is missing"
    if not isinstance(kwargs.get("resources", {}), Mapping):
        yield f"{where}: 'resources' must be a dict of keywords of Resources, not {kwargs['resources']!r}"


def _compile(env_var: str, content: Any) -> Routes | None:
    if content is None or content == {}:
        return None
    if not isinstance(content, Mapping):
        raise RouteError(f"{env_var} must hold a dict of routes, not {content!r}")
    if "sys_name" in content:
        _raise_if(env_var, list(_mistakes("the only route", content)))
        _log.warning("%s applies to all autoparallelized calls, since it has no keys that select some", env_var)
        return Routes(env_var, [], for_all=dict(content))
    mistakes = [line for key, kwargs in content.items() for line in _mistakes(repr(key), kwargs)]
    _raise_if(env_var, mistakes)
    routes = [Route(str(key), tuple(p.strip() for p in str(key).split(",")), dict(v)) for key, v in content.items()]
    return Routes(env_var, routes)


def _raise_if(env_var: str, mistakes: list[str]) -> None:
    if mistakes:
        raise RouteError(f"{env_var} cannot be used:\n  " + "\n  ".join(mistakes))


def _stamp(value: str) -> tuple[int, int] | None:
    """Return time and size of the file that the value may name, so that a changed file is read again."""
    if len(value) > 4096 or "\n" in value or value.lstrip().startswith("{"):
        return None
    try:
        status = os.stat(os.path.expanduser(value))
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=32)
def _routes(env_var: str, value: str, stamp: tuple[int, int] | None, cwd: str) -> Routes | None:
    routes = _compile(env_var, _read(env_var, value))
    if routes is not None:
        _remember(routes)
    return routes


# ---------------------------------------------------------------------------------------------------- the stack


def call_frames(frame: FrameType | None) -> Iterator[str]:
    """Yield ``<file>::<function>`` of the calling functions, innermost first, without those of this package."""
    inside = True
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE):
            stands_for = frame.f_locals.get(STANDS_FOR) if STANDS_FOR in code.co_varnames + code.co_freevars else None
            if stands_for is not None:
                inside = False
                yield stands_for
            elif not inside:
                yield f"{code.co_filename}::{code.co_name}"
        else:
            inside = False
            yield f"{code.co_filename}::{code.co_name}"
        frame = frame.f_back


@lru_cache(maxsize=256)
def _pattern(part: str) -> re.Pattern[str] | None:
    """Return a regular expression for a part that is meant as one; plain names with dots are not."""
    if not re.search(r"[*+?\[\](){}|^$\\]", part):
        return None
    try:
        return re.compile(f"(?:{part})$")
    except re.error:
        return None


def _part_matches(part: str, frame: str) -> bool:
    if frame.endswith(part):
        before = frame[: len(frame) - len(part)]
        if not before or before.endswith(("/", "::")) or part.startswith(("/", "::")):
            return True
    pattern = _pattern(part)
    return pattern is not None and pattern.search(frame) is not None


def match(parts: tuple[str, ...], frames: list[str], label: str | None = None) -> bool:
    """Return whether the parts of a key, outermost first, match the ends of the innermost frames.

    Each part is the end of ``<path of file>::<function>``, cut at a path component (``md.py::run``,
    ``generate/md.py::run``, ``run``); a part with special characters may also be a regular expression for that end.
    A labelled call is selected by a key that is its label, by a list of labels that contains it, or by a list whose
    last part is its label and whose other parts match the functions around the call.
    """
    if label is not None:
        if label == ",".join(parts) or (label in parts and not any("::" in part for part in parts)):
            return True
        if parts[-1] != label:
            return False
        parts, frames = parts[:-1], frames[1:]
    if len(parts) > len(frames):
        return False
    return all(_part_matches(p, f) for p, f in zip(reversed(parts), frames, strict=False))


# ---------------------------------------------------------------------------------------------------- resolving


def get_remote_info(
    remote_info: RemoteInfo | Mapping[str, Any] | str | None = None,
    remote_label: str | None = None,
    env_var: str = "WFL_EXPYRE_INFO",
) -> RemoteInfo | None:
    """Return how the present call is to be queued, None if it is to run here.

    Parameters
    ----------
    remote_info
        What the caller gave: a RemoteInfo, a dict of its keywords, ``"_IGNORE"`` to run here; with None the
        environment decides.
    remote_label
        Label of the call; without one the calling functions are compared with the keys.
    env_var
        Environment variable with the routes: JSON or YAML, or the name of a file with it.

    Raises
    ------
    RouteError
        The routes have mistakes; all are listed. It is a TypeError, a ValueError and a RuntimeError.
    FileNotFoundError
        The variable names a file that does not exist.
    """
    if isinstance(remote_info, str):
        if remote_info != "_IGNORE":
            raise TypeError(f"remote_info must be a RemoteInfo, a dict, None or '_IGNORE', not {remote_info!r}")
        return None
    if remote_info is not None:
        return remote_info if isinstance(remote_info, RemoteInfo) else RemoteInfo(**remote_info)
    value = os.environ.get(env_var, "")
    if not value.strip():
        return None
    routes = _routes(env_var, value, _stamp(value), os.getcwd())
    return None if routes is None else _select(routes, remote_label)


def _select(routes: Routes, label: str | None) -> RemoteInfo | None:
    _calls.add(routes.env_var)
    if routes.for_all is not None:
        return RemoteInfo(**routes.for_all)
    deepest = max(len(route.parts) for route in routes.routes)
    frames = [frame for frame, _ in zip(call_frames(sys._getframe(1)), range(deepest), strict=False)]
    for route in routes.routes:
        if label == route.key or match(route.parts, frames, label):
            routes.used.add(route.key)
            _log.info("%s matched key %s for %s", routes.env_var, route.key, label or (frames[0] if frames else ""))
            sys.stderr.write(f"{routes.env_var} matched key {route.key} for remote_label {label}\n")
            result = RemoteInfo(**route.kwargs)
            result.matched_key = route.key
            return result
    return None


# ---------------------------------------------------------------------------------------------------- the end

_seen: list[Routes] = []
_calls: set[str] = set()


def _remember(routes: Routes) -> None:
    if not _seen:
        atexit.register(report_unused)
    _seen.append(routes)


def report_unused() -> None:
    """Say once which keys selected no call of this script, if there were calls at all."""
    for env_var in sorted(_calls):
        all_keys = dict.fromkeys(r.key for routes in _seen if routes.env_var == env_var for r in routes.routes)
        used = {key for routes in _seen if routes.env_var == env_var for key in routes.used}
        unused = [repr(key) for key in all_keys if key not in used]
        if unused:
            sys.stderr.write(f"WARNING: {env_var}: no autoparallelized call matched {', '.join(unused)}\n")
    _seen.clear()
    _calls.clear()
