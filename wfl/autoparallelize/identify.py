"""What a call and its items are, in digests: to take up interrupted runs, and to say why an old output is not this.

Nothing here decides about correctness on its own: an interrupted output is only continued if the call and the digests
of the finished items are the same, so where no digest can be made, nothing is continued.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfl.configset.record import CallRecord

    from .task import Task

__all__ = ["ItemDigests", "call_record", "inputs_record", "is_one_shot", "item_digest"]

_log = logging.getLogger(__name__)
_LARGE_FILE = 2 * 1024**3


def is_one_shot(inputs: Any) -> bool:
    """Return whether inputs can be read only once."""
    return isinstance(inputs, Iterator)


def item_digest(value: Any) -> bytes:
    """Return a digest of one item, a random one if the item has no stable value."""
    from expyre.errors import KeyUnstableError
    from expyre.identity import digest

    if hasattr(value, "_in_memory"):
        value = value._in_memory().items
    try:
        return digest(value, path="item").encode()
    except KeyUnstableError:
        import secrets

        return secrets.token_bytes(16)


class ItemDigests:
    """The running digest of the items up to the last finished one, while later ones are being read already.

    Parameters
    ----------
    check
        Told number and digest of each item as it is read.
    """

    def __init__(self, check: Callable[[int, bytes], None] | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._read: deque[bytes] = deque()
        self._finished = 0
        self.check = check or _ignore

    def watch(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield items and note the digest of each before anything can change it."""
        for item in items:
            digest = item_digest(item.value) + repr(item.path).encode()
            self.check(self._finished + len(self._read), digest)
            self._read.append(digest)
            yield item

    def of(self, first: int, n: int) -> list[bytes]:
        """Return the digests of items that have been read and are not finished."""
        start = first - self._finished
        return list(islice(self._read, start, start + n))

    def advance(self, n: int) -> None:
        """Take in the next ``n`` items as finished."""
        self._finished += n
        for _ in range(n):
            self._hash.update(self._read.popleft() + b";")

    def running(self) -> str:
        """Return the digest of all finished items."""
        return self._hash.hexdigest()


def _ignore(index: int, digest: bytes) -> None:
    """Do nothing."""


def call_record(task: Task, inputs: Any, rng: Any = None) -> CallRecord | None:
    """Return the record of a call: digests of the operation, its code and arguments, of its inputs and random stream.

    None if an argument has no stable value, so that nobody could tell whether two calls are the same.
    """
    from expyre.errors import KeyUnstableError
    from expyre.identity import digest, identify
    from wfl.configset.record import CallRecord

    try:
        identity = identify(task.op, task.args, dict(task.kwargs))
        parts = {part.path: part.digest for part in identity.parts}
        summaries = {part.path: part.summary for part in identity.parts}
        if rng is not None:
            parts["rng"], summaries["rng"] = digest(rng, path="rng"), type(rng).__name__
    except KeyUnstableError as error:
        _log.info("%s: no record of the call is kept: %s", task.name, error)
        return None
    return CallRecord(task.name, parts, inputs_record(inputs), summaries)


def inputs_record(inputs: Any) -> dict[str, Any]:
    """Return what can be said about inputs without consuming them: the content of their files, or of what they hold."""
    if files := _files_of(inputs):
        return {f"file:{path}": _file_digest(path) for path in files}
    held = _held_in_memory(inputs)
    return {} if held is None else {"inputs in memory": held}


def _held_in_memory(inputs: Any) -> str | None:
    """Return a digest of inputs in memory; None if they can be read only once or have no stable value."""
    from expyre.errors import KeyUnstableError
    from expyre.identity import digest

    values = getattr(inputs, "items", inputs)
    if not isinstance(values, (list, tuple, range)) or any(hasattr(value, "_in_memory") for value in values):
        return None
    try:
        return digest(_without_locations(values), path="inputs")
    except KeyUnstableError:
        return None


def _without_locations(value: Any) -> Any:
    from wfl.configset.locations import without_location

    if isinstance(value, (list, tuple)):
        return [_without_locations(one) for one in value]
    return without_location(value) if hasattr(value, "get_positions") else value


def _files_of(inputs: Any) -> list[Path]:
    items = getattr(inputs, "items", None)
    if isinstance(items, Path):
        return [items]
    if isinstance(items, list) and all(isinstance(item, Path) for item in items):
        return items
    return []


def _file_digest(path: Path) -> str:
    status = path.stat()
    if status.st_size > _LARGE_FILE:
        return f"{status.st_size} bytes of {status.st_mtime_ns}"
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
