"""The key of a call."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from expyre.errors import ConfigError, KeyUnstableError
from expyre.identity.code import CodeCollector
from expyre.identity.encoder import Encoder, Unstable, kind_of, same_kinds
from expyre.identity.files import digest_files
from expyre.identity.memory import remembered
from expyre.identity.model import MAX_PARTS, VERSION, Identity, Part
from expyre.identity.registry import find, states, table
from expyre.identity.summary import summarise

POLICIES: Final = ("off", "self", "reachable")
_DEPTH: Final = 3
_WIDTH: Final = 40


def identify(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    ignore: Collection[int | str] = (),
    files: Sequence[str | os.PathLike[str]] = (),
    root: Path | None = None,
    policy: str | None = None,
) -> Identity:
    """Return the identity of a call: equal for equal values, code and files, in any process.

    Parameters
    ----------
    function
        What is called. Its code and the user's code it reaches enter the key, as ``policy`` says.
    args, kwargs
        Its arguments, by value. Positional and keyword arguments are told apart.
    ignore
        Positions and keyword names of arguments that stay out of the key.
    files
        Input files, globs and directories, relative to ``root``; their names and contents enter the key.
    root
        Where relative names in ``files`` start; default the current directory.
    policy
        ``off`` (names only), ``self`` (code of the functions and classes given) or ``reachable`` (also of the user's
        code they reach, and versions of packages). Default: ``EXPYRE_CODE_HASH``, else ``reachable``.

    Raises
    ------
    KeyUnstableError
        An argument has no stable value; the message names it and the way out.
    RequestError
        Input files are missing or cannot be read.
    ConfigError
        The policy is not one of the three.
    """
    tree = _Tree(Encoder(CodeCollector(check_policy(policy))))
    tree.add_function(function)
    for index, value in enumerate(args):
        if index not in ignore:
            tree.add(value, f"args[{index}]", index)
    for name in sorted(kwargs or ()):
        if name not in ignore:
            tree.add(kwargs[name], f"kwargs[{name!r}]", name)  # type: ignore[index]
    tree.add_files(files, root)
    return tree.identity()


def digest(value: Any, *, path: str = "value", policy: str | None = None) -> str:
    """Return the digest (64 hex characters) of a value and of the code it brings along.

    Parameters
    ----------
    value
        Anything with a stable value.
    path
        What to call the value in the message if it has none.
    policy
        As in :func:`identify`.

    Raises
    ------
    KeyUnstableError
        Something in the value has no stable value.
    """
    encoder = Encoder(CodeCollector(check_policy(policy)))
    result = _stable(encoder, value, path, None)
    units = encoder.code.finish(encoder)
    if not units:
        return result.hex()
    total = hashlib.sha256(result)
    for name, unit, _ in units:
        total.update(b"%d:%s%s" % (len(name.encode()), name.encode(), unit))
    return total.hexdigest()


def check_policy(policy: str | None) -> str:
    """Return how code enters the key, by default what ``EXPYRE_CODE_HASH`` says.

    Raises
    ------
    ConfigError
        There is no such policy.
    """
    source = "policy" if policy is not None else "EXPYRE_CODE_HASH"
    chosen = policy if policy is not None else os.environ.get(source) or "reachable"
    if chosen not in POLICIES:
        raise ConfigError(f"{source} is {chosen!r}; it must be one of {', '.join(POLICIES)}")
    return chosen


def _stable(encoder: Encoder, value: Any, path: str, argument: int | str | None) -> bytes:
    try:
        return encoder.digest(value)
    except Unstable as error:
        where, kind, reason = path + error.where(), error.kind, error.reason
    except RecursionError:
        where, kind, reason = path, type(value).__qualname__, "it is nested too deeply"
    way = "" if argument is None else f", or leave the argument out of the key with hash_ignore=[{argument!r}]"
    raise KeyUnstableError(
        f"{where} (a {kind}) has no stable value to make a key of: {reason}. Pass plain values it can be made of{way}."
    )


class _Tree:
    """Digests of the values of a call; small containers and objects are split into named parts."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.total = bytearray(VERSION.encode())
        self.parts: list[Part] = []

    def add(self, value: Any, path: str, argument: int | str | None = None) -> None:
        self.enter(path, self._node(value, path, argument, _DEPTH), None)

    def add_function(self, function: Callable[..., Any]) -> None:
        """Enter what is called; values that it is closed over may be without a stable value."""
        code = self.encoder.code
        digest = code.known_digest(function)
        if digest is None:
            code.lenient = True
            digest = _stable(self.encoder, function, "function", None)
            code.lenient = False
            code.remember_digest(function, digest)
        self.enter("function", digest, summarise(function))

    def add_files(self, patterns: Sequence[str | os.PathLike[str]], root: Path | None) -> None:
        """Enter the files that names, globs and directories stand for."""
        for file in digest_files(patterns, root) if patterns else ():
            self.enter(f"file:{file.name}", file.digest, f"{file.size} bytes")

    def enter(self, path: str, digest: bytes, summary: str | None) -> None:
        """Let something enter the key; None as summary if it is in the parts already."""
        name = path.encode("utf-8", "surrogatepass")
        self.total += b"%d:%s%s" % (len(name), name, digest)
        if summary is not None:
            self.parts.append(_part(path, digest, summary))

    def _node(self, value: Any, path: str, argument: int | str | None, depth: int) -> bytes:
        if type(value) in _CACHED and (type(value) is not str or (len(value) < 200 and not self.encoder.reduced)):
            digest, text, summary = _scalar(value)
            self.parts.append(Part(path, text, summary))
            return digest
        split = _split(value) if depth else None
        if split is None:
            digest = remembered(value, lambda: _stable(self.encoder, value, path, argument))
            self.parts.append(Part(path, digest.hex()[:16], summarise(value)))
            return digest
        place = len(self.parts)
        digest = self._branch(value, split, path, argument, depth)
        if len(self.parts) - place > _WIDTH:
            del self.parts[place:]
        self.parts.insert(place, Part(path, digest.hex()[:16], summarise(value)))
        return digest

    def _branch(self, value: Any, split: _Split, path: str, argument: int | str | None, depth: int) -> bytes:
        named, children = split
        total = bytearray(b"%d:" % len(children))
        total += _stable(self.encoder, type(value), path, argument)
        self.encoder.reduced += named
        for step, child in children:
            label = step.encode("utf-8", "surrogatepass")
            total += b"%d:%s" % (len(label), label)
            total += self._node(child, path + step, argument, depth - 1)
        self.encoder.reduced -= named
        return hashlib.sha256(total).digest()

    def identity(self) -> Identity:
        for name, unit, summary in self.encoder.code.finish(self.encoder):
            self.enter(name, unit, summary)
        key = base64.urlsafe_b64encode(hashlib.sha256(self.total).digest()).decode("ascii")
        return Identity(f"{VERSION}:{key}", tuple(self.parts[:MAX_PARTS]))


@functools.lru_cache(maxsize=4096)
def _part(path: str, digest: bytes, summary: str) -> Part:
    return Part(path, digest.hex()[:16], summary)


_Split: TypeAlias = "tuple[bool, list[tuple[str, Any]]]"


def _split(value: Any) -> _Split | None:
    """Return whether a value is an object, and its named parts; None for a value that is one part."""
    cls = type(value)
    if cls in _SCALARS:
        return None
    if cls is dict and 0 < len(value) <= _WIDTH and kind_of(value) is str:
        return False, [(f"[{str(name)!r}]", value[name]) for name in sorted(value)]
    if (cls is tuple or cls is list) and 0 < len(value) <= 8 and not same_kinds(set(map(type, value))) <= _SCALARS:
        return False, [(f"[{index}]", item) for index, item in enumerate(value)]
    attributes = states.get(table.get(cls) or find(cls))
    state = attributes(value) if attributes is not None else None
    if not state or len(state) > _WIDTH or not set(map(type, state)) <= {str}:
        return None
    return True, [(f".{name}", state[name]) for name in sorted(state)]


@functools.lru_cache(maxsize=4096, typed=True)
def _scalar(value: Any) -> tuple[bytes, str, str]:
    digest = Encoder(None).digest(value)
    return digest, digest.hex()[:16], summarise(value)


# Values of these types that compare equal are the same (not so 0.0 and -0.0).
_CACHED: Final = frozenset({int, str, bool, type(None)})
_SCALARS: Final = {int, float, str, bool, bytes, type(None)}
