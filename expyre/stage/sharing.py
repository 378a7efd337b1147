"""What calls made together have in common is pickled once, and written once.

An argument, or a member of an argument that is a dict, list or tuple, which is the same object in several calls gets
a file of its own if its pickle is large. The pickles of the calls refer to it. Whether two places of one call hold the
same object stays as it is; where that could not be kept the call is pickled as a whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from expyre.node.runner import PROTOCOL, shared_name
from expyre.pickles.pickling import dump_call
from expyre.stage import links

_SMALL = 4096
# Containers longer than this hold the items of one call rather than what calls have in common.
_MOST_MEMBERS = 64
_NUMBERS = frozenset({type(None), bool, int, float, complex})
_WITHOUT_IDENTITY = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)


class Triple(NamedTuple):
    """A call to be pickled."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@dataclass
class _Part:
    """Something that calls have in common, pickled.

    Attributes
    ----------
    value
        The object.
    data
        Its pickle.
    reference
        What stands for it in other pickles.
    needs
        References in its own pickle.
    by_value
        Whether it took cloudpickle.
    """

    value: Any
    data: bytes
    reference: str
    needs: frozenset[str]
    by_value: bool


@dataclass
class Dumped:
    """A pickled call, and the files beside it: name and content."""

    payload: bytes
    files: dict[str, bytes] = field(default_factory=dict)


class Sharing:
    """Pickles calls, what they have in common only once.

    Parameters
    ----------
    calls
        All the calls that are to be pickled. They are kept, and must not change until they are.
    """

    def __init__(self, calls: Sequence[Triple]) -> None:
        self._calls = calls
        self._marks: dict[int, str | None] = {}  # None: inside of a part, so that it may not occur elsewhere
        self._parts: dict[str, _Part] = {}
        self._kept: list[Any] = []
        sizes = [(len(first.data), value) for value in _common(calls) if (first := _try_dump(value, {})) is not None]
        for _, value in sorted((x for x in sizes if x[0] > _SMALL), key=lambda x: x[0]):
            self._add(value)

    def _add(self, value: Any) -> None:
        """Make a part of an object, unless little is left of it without the parts that are in it."""
        found = _try_dump(value, self._marks, keep=True)
        if found is None or len(found.data) <= _SMALL:
            return
        inner = {id(x): x for x in found.objects if id(x) != id(value) and _has_identity(x)}
        if not inner.keys().isdisjoint(self._marks):
            return
        sha = hashlib.sha256(found.data).hexdigest()
        part = _Part(value, found.data, f"{sha}:{len(self._parts)}", frozenset(found.used), found.by_value)
        self._parts[part.reference] = part
        self._marks.update(dict.fromkeys(inner))
        self._marks[id(value)] = part.reference
        self._kept.append(found.objects)  # what is alive keeps its id for itself

    def dump(self, call: Triple) -> Dumped:
        """Return the pickle of a call.

        Raises
        ------
        RequestError
            Something does not pickle; lists each such part of the call.
        """
        if any(self._marks.get(id(value)) for value in _values(call)):
            found = _try_dump((call.function, tuple(call.args), dict(call.kwargs)), self._marks)
            if found is not None and found.used:
                parts = self._with_needs(found.used)
                if found.by_value + sum(part.by_value for part in parts) <= 1:
                    return Dumped(found.data, {shared_name(part.reference): part.data for part in parts})
        return Dumped(dump_call(call.function, call.args, call.kwargs))

    def _with_needs(self, references: set[str]) -> list[_Part]:
        found: dict[str, _Part] = {}
        todo = sorted(references)
        while todo:
            reference = todo.pop()
            if reference not in found:
                found[reference] = self._parts[reference]
                todo += found[reference].needs
        return list(found.values())


def place_files(root: Path, directory: Path, files: Mapping[str, bytes]) -> None:
    """Put files that jobs have in common into a job's directory."""
    for name, content in files.items():
        shared = os.path.join(root, name)
        if not links.is_whole(shared, len(content)):
            links.remove_unused(root)
            links.write(shared, content)
        links.link(shared, directory / name, content)


# ------------------------------------------------------------------------------------------- what is in common


def _common(calls: Sequence[Triple]) -> list[Any]:
    """Return the objects that occur in several calls, and might be large."""
    count: dict[int, int] = {}
    values: dict[int, Any] = {}
    for call in calls:
        here = {id(value): value for value in _values(call) if _may_be_large(value)}
        values.update(here)  # what is alive keeps its id for itself
        for i in here:
            count[i] = count.get(i, 0) + 1
    return [values[i] for i, n in count.items() if n > 1]


def _values(call: Triple) -> Iterator[Any]:
    """Yield the function, the arguments, and the members of those that are plain containers."""
    yield call.function
    for value in chain(call.args, call.kwargs.values()):
        yield value
        if type(value) in (list, tuple, dict) and len(value) <= _MOST_MEMBERS:
            yield from value.values() if type(value) is dict else value


def _may_be_large(value: Any) -> bool:
    kind = type(value)
    return kind not in _NUMBERS and not (kind in (str, bytes) and len(value) < _SMALL)


# ---------------------------------------------------------------------------------------------------- pickles


class _Conflict(Exception):
    """Raised when something inside of a part turns up outside of it, too."""


@dataclass
class _Found:
    data: bytes
    used: set[str]
    objects: list[Any]
    by_value: bool


def _try_dump(value: Any, marks: Mapping[int, str | None], *, keep: bool = False) -> _Found | None:
    """Return the pickle of a value in which references stand for parts; None if it cannot be made.

    As always, what is defined in ``__main__`` and what plain pickle refuses is pickled by value. With ``keep`` the
    objects that went into the pickle are noted.
    """
    try:
        found = _dump(pickle.Pickler, value, marks, keep)
    except _Conflict:
        return None
    except Exception:
        found = None
    if found is not None and b"__main__" not in found.data:
        return found
    import cloudpickle

    try:
        found = _dump(cloudpickle.Pickler, value, marks, keep)
    except Exception:
        return None
    found.by_value = True
    return found


def _dump(base: Any, value: Any, marks: Mapping[int, str | None], keep: bool) -> _Found:
    file = io.BytesIO()
    pickler = _referring(base)(file, PROTOCOL)
    pickler.marks, pickler.used = marks, set()
    pickler.dump(value)
    objects = [obj for _, obj in pickler.memo.copy().values()] if keep else []
    return _Found(file.getvalue(), pickler.used, objects, by_value=False)


@cache
def _referring(base: Any) -> Any:
    """Return a class of picklers that put references in the place of parts."""

    class Pickler(base):  # type: ignore[misc]
        marks: Mapping[int, str | None]
        used: set[str]

        def persistent_id(self, obj: Any) -> str | None:
            if id(obj) not in self.marks:
                return None
            reference = self.marks[id(obj)]
            if reference is None:
                raise _Conflict
            self.used.add(reference)
            return reference

    return Pickler


def _has_identity(value: Any) -> bool:
    """Return whether it matters that two places hold the same object and not two equal ones."""
    if isinstance(value, _WITHOUT_IDENTITY):
        return False
    changeable = isinstance(value, (list, dict, set, bytearray)) or hasattr(value, "__array_interface__")
    return changeable or hasattr(value, "__dict__")
