"""Make the directory of a job: complete, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from expyre.errors import RequestError, StageError
from expyre.node import runner
from expyre.node.ranks.request import Ranks
from expyre.pickles.pickling import dump_call
from expyre.stage import links, names
from expyre.stage.carried import place_cloudpickle, place_node
from expyre.stage.copying import copy_glob
from expyre.stage.sharing import Dumped, Sharing, Triple, place_files

_ENV_VAR = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class StageRequest:
    """A call and what it needs around it.

    Attributes
    ----------
    id
        Unique id of the job; its directory is ``run_<id>``.
    function, args, kwargs
        The call.
    input_files
        Globs, relative to the current directory or absolute, of what is copied into the job's directory.
    output_files
        Globs, relative to the job's directory, of what is copied back.
    env_vars
        ``NAME=value`` (shell text: the job's shell expands it) or ``NAME`` (the value it has here).
    pre_run_commands, post_run_commands
        Shell text to run before and after the call, the latter also when something failed.
    ranks
        MPI ranks that each make the call, so that the result is the list of what they return; None for none.
    """

    id: str
    function: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    input_files: Sequence[str | Path] = ()
    output_files: Sequence[str] = ()
    env_vars: Sequence[str] = ()
    pre_run_commands: Sequence[str] = ()
    post_run_commands: Sequence[str] = ()
    ranks: Ranks | None = None


@dataclass(frozen=True)
class Staged:
    """A job's directory and the key that signs what comes back from it."""

    directory: Path
    key: bytes


def stage(root: str | Path, request: StageRequest, sharing: Sharing | None = None) -> Staged:
    """Make the directory ``run_<id>`` (mode 0700) with all files of a job.

    Parameters
    ----------
    root
        Directory of all jobs.
    request
        What to stage.
    sharing
        Knows what this call has in common with others.

    Returns
    -------
    Directory and key. The directory appears at one stroke, under its name only when it is complete.

    Raises
    ------
    RequestError
        The request makes no sense; lists all that is wrong with it.
    StageError
        A file could not be written, or a directory of that name is there already.
    """
    env_vars = check_request(request)
    call = Triple(request.function, request.args, request.kwargs)
    dumped = Dumped(dump_call(*call)) if sharing is None else sharing.dump(call)
    directory = Path(root) / (names.PREFIX + request.id)
    temporary = Path(root) / f".tmp_{secrets.token_hex(8)}"
    key = secrets.token_bytes(32)
    try:
        os.mkdir(temporary, 0o700)
        _fill(temporary, Path(root), dumped, key, request, env_vars)
        os.rename(temporary, directory)
    except BaseException as exc:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(exc, OSError):
            raise StageError(f"cannot stage {directory}: {exc.strerror or exc} ({exc.filename})") from exc
        raise
    return Staged(directory, key)


def check_request(request: StageRequest) -> list[str]:
    """Return the environment variables as ``NAME=value``, or raise RequestError with all mistakes of a request."""
    wrong = [*_wrong_files(request), *_wrong_texts(request)]
    if not request.id or "/" in request.id or "\0" in request.id or len(os.fsencode(request.id)) > 200:
        wrong.append(f"the id {request.id!r} cannot be part of a file name")
    env_vars = []
    for item in request.env_vars:
        name, equals, _ = item.partition("=")
        if not _ENV_VAR.fullmatch(name):
            wrong.append(f"env_vars item {item!r} is neither NAME=value nor NAME")
        elif not equals and name not in os.environ:
            wrong.append(f"env_vars item {item!r} asks for the local value of {name}, but {name} is not set here")
        else:
            env_vars.append(item if equals else f"{name}={shlex.quote(os.environ[name])}")
    if wrong:
        raise RequestError("; ".join(wrong))
    return env_vars


def _wrong_texts(request: StageRequest) -> list[str]:
    """Return complaints about texts that no script and no name of a file can hold."""
    lists = ("env_vars", "pre_run_commands", "post_run_commands", "output_files")
    return [
        f"{name} item {item!r} has a NUL in it" for name in lists for item in getattr(request, name) if "\0" in item
    ]


def _wrong_files(request: StageRequest) -> list[str]:
    outside = "leads out of the directory; give an absolute path"
    wrong = [
        f"input file {str(item)!r} {outside}"
        for item in request.input_files
        if not os.path.isabs(item) and ".." in Path(item).parts
    ]
    wrong += [f"output file {item!r} has no name ('.' is everything)" for item in request.output_files if not item]
    wrong += [
        f"output file {item!r} must be relative to the job's directory and stay inside it"
        for item in request.output_files
        if os.path.isabs(item) or ".." in Path(item).parts
    ]
    return wrong


def _fill(
    directory: Path, root: Path, dumped: Dumped, key: bytes, request: StageRequest, env_vars: Sequence[str]
) -> None:
    for item in request.input_files:
        copy_glob(Path.cwd(), directory, item, skip=[root])
    write_payload(directory, dumped.payload, key)
    place_files(root, directory, dumped.files)
    place_cloudpickle(root, directory, dumped)
    links.link(os.path.join(root, _runner_name()), directory / names.RUNNER, runner_source())
    if request.ranks is not None:
        (directory / names.RANKS).write_text(request.ranks.to_text())
        place_node(root, directory)
    lists = {
        names.PRE_RUN: request.pre_run_commands,
        names.POST_RUN: request.post_run_commands,
        names.ENV_VARS: env_vars,
    }
    for name, items in lists.items():
        if items:
            (directory / name).write_bytes(_as_json(items))
    if request.output_files:
        (directory / names.OUTPUT_FILES).write_bytes(_as_lines(request.output_files))


def _as_json(items: Sequence[str]) -> bytes:
    """Return a list for people to read; escaped throughout if a text of it comes from bytes that are no UTF-8."""
    try:
        return (json.dumps(list(items), indent=1, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(list(items), indent=1) + "\n").encode()


def _as_lines(items: Sequence[str]) -> bytes:
    """Return one item per line; as JSON if there are items that lines cannot hold, or that would be taken for JSON."""
    text = "".join(f"{item}\n" for item in items)
    plain = text.splitlines() == list(items) and not text.startswith("[")
    return text.encode() if plain and _is_utf8(text) else _as_json(items)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_task(
    directory: str | Path, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], key: bytes
) -> None:
    """Write the pickled call, signed, and the key that verifies it into a job's directory."""
    write_payload(Path(directory), dump_call(function, args, kwargs), key)


def write_payload(directory: Path, payload: bytes, key: bytes) -> None:
    """Write a pickled call, signed, and the key."""
    for name, data, mode in ((names.TASK, runner.sign(payload, key), 0o600), (names.KEY, key.hex().encode(), 0o600)):
        path = os.fspath(directory / name)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            _write_all(number, data, path)
        finally:
            os.close(number)


def _write_all(number: int, data: bytes, path: str) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(number, view) :]
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, path) from exc


@lru_cache(maxsize=1)
def runner_source() -> bytes:
    """Return the text of the program that runs in a job's directory."""
    return Path(runner.__file__).read_bytes()


@lru_cache(maxsize=1)
def _runner_name() -> str:
    return f"_expyre_runner_{hashlib.sha256(runner_source()).hexdigest()[:12]}.py"
