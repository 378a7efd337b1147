"""From calls to recorded jobs: the key of each call, the jobs known already, and staged new ones for the rest."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from expyre import stage
from expyre.errors import InvalidCallError
from expyre.identity import Identity, identify, remembering
from expyre.jobsdb import JobRow, NewJob
from expyre.node.ranks.request import Ranks
from expyre.steps import step

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["Call", "Prepared", "prepare"]

_FORBIDDEN = re.compile(r"[/\[\]{}*\\\0]")
# Jobs staged and recorded together: large enough to share a transaction, small enough to lose little in a crash.
_BATCH = 250


@dataclass(frozen=True)
class Call:
    """A call that is to become a job.

    Parameters
    ----------
    name
        Name of the job; part of its id.
    function, args, kwargs
        The call.
    input_files
        Files, directories and globs staged into the job's directory; relative to the current directory.
    output_files
        Globs, relative to the job's directory, copied to the current directory with the result.
    env_vars
        ``NAME=value`` (the value is expanded by the job's shell) or ``NAME`` (value copied from here).
    pre_run_commands, post_run_commands
        Shell lines run before and after the function.
    hash_ignore
        Positions and names of arguments that the key of the call leaves out.
    scope
        Calls of one scope and one key are the same job; the name by default.
    ranks
        MPI ranks that each make the call, so that the result is the list of what they return; None for none.
    """

    name: str
    function: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    input_files: Sequence[str | Path] = ()
    output_files: Sequence[str] = ()
    env_vars: Sequence[str] = ()
    pre_run_commands: Sequence[str] = ()
    post_run_commands: Sequence[str] = ()
    hash_ignore: Sequence[int | str] = ()
    scope: str | None = None
    ranks: Ranks | None = None

    def check(self) -> None:
        """Raise InvalidCallError with every mistake of the call."""
        mistakes = list(self._mistakes())
        if mistakes:
            raise InvalidCallError(f"job {self.name!r} cannot be made: " + "; ".join(mistakes))

    def _mistakes(self) -> Iterator[str]:
        if not isinstance(self.name, str) or not self.name:
            yield "its name must be a non-empty string"
        elif found := _FORBIDDEN.findall(self.name):
            yield f"its name must not contain {' '.join(sorted(set(found)))}"
        elif not _is_text(self.name):
            yield "its name must be text that can be encoded as UTF-8"
        if not callable(self.function):
            yield f"function must be callable, not {type(self.function).__name__}"
        for item in self.hash_ignore:
            if isinstance(item, bool) or not isinstance(item, int | str):
                yield f"hash_ignore takes positions and names of arguments, not {item!r}"

    def identity(self) -> Identity:
        """Return the key of the call and what entered it."""
        return identify(self.function, self.args, self.kwargs, ignore=self.hash_ignore, files=self.input_files)


@dataclass
class Prepared:
    """A call's job: its row in the record, whether it was there before, whether it exists only as a plan."""

    row: JobRow
    recreated: bool
    planned: bool = False


def prepare(
    project: Project, calls: Sequence[Call], *, try_restart: bool = True, dry_run: bool = False
) -> list[Prepared]:
    """Return the job of each call, in order: the one that is known already, or a new one, staged and recorded.

    Identical calls in ``calls`` become as many jobs as there are calls, and are found again in the same order.
    Of two scripts that prepare the same call at the same time, one makes the job and the other finds it.

    Raises
    ------
    InvalidCallError
        A call is not well formed.
    KeyUnstableError
        An argument has no stable value; the message names it.
    StageError
        The files of a job cannot be staged.
    """
    result: list[Prepared] = []
    sharing = cache(lambda: stage.Sharing([stage.Triple(call.function, call.args, call.kwargs) for call in calls]))
    places: Counter[tuple[str, str]] = Counter()
    pending = iter(calls)
    with remembering():
        while batch := list(islice(pending, _BATCH)):
            result.extend(_prepare_batch(project, batch, places, try_restart, dry_run, sharing))
    return result


def _prepare_batch(
    project: Project,
    calls: list[Call],
    places: Counter[tuple[str, str]],
    try_restart: bool,
    dry_run: bool,
    sharing: Callable[[], stage.Sharing],
) -> Iterator[Prepared]:
    for call in calls:
        call.check()
    identities = [call.identity() for call in calls]
    pairs = [_place(call, identity, places) for call, identity in zip(calls, identities, strict=True)]
    step("create.1")
    known = project.record.find_live(pairs) if try_restart else {}
    new = [i for i, pair in enumerate(pairs) if pair not in known]
    made: dict[int, Prepared] = {}
    if dry_run:
        made = {i: Prepared(_planned(calls[i], identities[i]), recreated=False, planned=True) for i in new}
    elif new:
        made = _make(project, {i: (calls[i], identities[i], pairs[i]) for i in new}, try_restart, sharing())
    for i, pair in enumerate(pairs):
        yield made[i] if i in made else Prepared(known[pair], recreated=True)


def _place(call: Call, identity: Identity, places: Counter[tuple[str, str]]) -> tuple[str, str]:
    """Return (scope, key) of a call; the n-th identical call of one script is a job of its own."""
    pair = (call.scope or call.name, identity.key)
    places[pair] += 1
    return pair if places[pair] == 1 else (f"{pair[0]}#{places[pair]}", pair[1])


def _new_id(call: Call, identity: Identity) -> str:
    return f"{call.name}_{identity.hash44}_{token_hex(4)}"


def _planned(call: Call, identity: Identity) -> JobRow:
    return JobRow(id=_new_id(call, identity), name=call.name, from_dir="", status="created", key=identity.key)


def _make(
    project: Project,
    todo: Mapping[int, tuple[Call, Identity, tuple[str, str]]],
    try_restart: bool,
    sharing: stage.Sharing,
) -> dict[int, Prepared]:
    """Stage everything, then record it in one transaction; what somebody else recorded meanwhile is taken over."""
    root = project.stage_root
    staged: dict[int, stage.Staged] = {}
    rows: dict[int, NewJob] = {}
    try:
        for i, (call, identity, (scope, key)) in todo.items():
            job_id = _new_id(call, identity)
            staged[i] = stage.stage(root, _request(call, job_id), sharing)
            rows[i] = NewJob(
                id=job_id,
                name=call.name,
                from_dir=str(staged[i].directory),
                scope=scope if try_restart else f"{scope}#{job_id}",
                key=key,
                hmac_key=staged[i].key,
                func=_function_name(call.function),
                parts_json=identity.to_json(),
            )
        step("create.2")
        owners = project.record.insert_jobs(list(rows.values()))
    except BaseException:
        for done in staged.values():
            shutil.rmtree(done.directory, ignore_errors=True)
        raise
    step("create.3")
    for i, row in rows.items():
        if owners[row.id] != row.id:
            with contextlib.suppress(OSError):
                shutil.rmtree(staged[i].directory)
    found = project.record.rows(list(owners.values()))
    return {i: Prepared(found[owners[row.id]], recreated=owners[row.id] != row.id) for i, row in rows.items()}


def _request(call: Call, job_id: str) -> stage.StageRequest:
    return stage.StageRequest(
        id=job_id,
        function=call.function,
        args=tuple(call.args),
        kwargs=dict(call.kwargs),
        input_files=tuple(call.input_files),
        output_files=tuple(call.output_files),
        env_vars=tuple(call.env_vars),
        pre_run_commands=tuple(call.pre_run_commands),
        post_run_commands=tuple(call.post_run_commands),
        ranks=call.ranks,
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _function_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"
