"""The canonical encoder: one stream of bytes for a value, the same for equal values wherever they were made.

Every value is written as a tag, its length where it has one, and its content, so that no two values share their
bytes. Nothing depends on object identity: an object met twice is written twice. Only where a structure contains
itself is the way back written, as the number of levels up.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from expyre.identity.registry import aliases, find, table, writes_type

if TYPE_CHECKING:
    from expyre.identity.code import CodeCollector

_FLUSH: Final = 1 << 16
_NOWHERE: Final = sys.maxsize
_NAN: Final = struct.pack("<d", float("nan"))
_double: Final = struct.Struct("<d").pack


class Unstable(Exception):
    """Raised inside where a value has no stable form; collects the path to it on the way out, innermost first."""

    def __init__(self, reason: str, value: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        self.path: list[str] = []

    def at(self, step: str) -> Unstable:
        """Add the step that led here, and return self."""
        self.path.append(step)
        return self

    def where(self) -> str:
        """Return the path from the outermost value."""
        return "".join(reversed(self.path))


class Encoder:
    """Writes values into one hash.

    Attributes
    ----------
    out
        Bytes not yet hashed; encoders append to it.
    code
        Collects the code that values bring along.
    reduced
        How many objects that are written by their reduced form enclose the present place.
    """

    code: CodeCollector

    __slots__ = ("_active", "_hash", "_low", "_tangled", "code", "out", "reduced")

    def __init__(self, code: CodeCollector | None) -> None:
        self.code = code  # type: ignore[assignment]  # None: plain values only
        self.out = bytearray()
        self.reduced = 0
        self._hash: Any = None
        self._active: dict[int, int] = {}
        # Level of the outermost object that something inside the present one points back to.
        self._low = _NOWHERE
        # Finished objects that point back out of themselves: index, that level, and the object to keep its id taken.
        self._tangled: dict[int, tuple[int, int, object]] = {}

    def write(self, value: Any) -> None:
        """Append a value."""
        cls = type(value)
        (table.get(cls) or find(cls))(self, value)

    def reference(self, named: Any) -> None:
        """Append the name of a class or function, without its code."""
        self.text(f"{module_name(named)}:{getattr(named, '__qualname__', None) or named.__name__}")

    def text(self, text: str) -> None:
        """Append a string without a tag."""
        data = text.encode("utf-8", "surrogatepass")
        self.out += b"%d:" % len(data)
        self.out += data

    def raw(self, data: Any, size: int) -> None:
        """Append many bytes (any contiguous buffer of ``size`` bytes) without copying them."""
        if size < _FLUSH:
            self.out += data
            return
        self._flush()
        self._hash.update(data)

    def nested(self, value: Any, body: Callable[[Encoder, Any], None]) -> None:
        """Let ``body`` write an object that may contain itself."""
        key = id(value)
        active = self._active
        level = active.get(key)
        if level is not None:
            self.out += b"^%d;" % (len(active) - level)
            self._low = min(self._low, level)
            return
        if self._tangled and key in self._tangled:
            self._again(key)
            return
        low, self._low = self._low, _NOWHERE
        level = active[key] = len(active)
        body(self, value)
        del active[key]
        if self._low != _NOWHERE:
            self._tangle(value, level)
        if low < self._low:
            self._low = low
        if len(self.out) > _FLUSH:
            self._flush()

    def _again(self, key: int) -> None:
        index, low, _ = self._tangled[key]
        self.out += b"&%d;" % (len(self._tangled) - index)
        self._low = min(self._low, low)

    def _tangle(self, value: Any, level: int) -> None:
        # Inside a loop of references every object is written once, or a net of n objects would be written along all
        # of its paths. The loop is closed by its outermost object; then all of this is forgotten.
        if self._low < level:
            self._tangled[id(value)] = (len(self._tangled), self._low, value)
            return
        self._low = _NOWHERE
        while self._tangled:
            key, entry = self._tangled.popitem()
            if entry[1] < level:
                self._tangled[key] = entry
                break

    def digest(self, value: Any, body: Callable[[Encoder, Any], None] | None = None) -> bytes:
        """Return the digest (32 bytes) of a value written on its own."""
        outer = (self.out, self._hash, self._tangled)
        self.out, self._hash, self._tangled = bytearray(), None, {}
        try:
            if body is None:
                self.write(value)
            else:
                body(self, value)
            if self._hash is None:
                return hashlib.sha256(self.out).digest()
            self._flush()
            result: bytes = self._hash.digest()
            return result
        finally:
            self.out, self._hash, self._tangled = outer

    def try_digest(self, value: Any, body: Callable[[Encoder, Any], None] | None = None) -> bytes | None:
        """Return the digest of a value, None if it has no stable form."""
        level, low, reduced = len(self._active), self._low, self.reduced
        try:
            return self.digest(value, body)
        except (Unstable, RecursionError):
            while len(self._active) > level:
                self._active.popitem()
            self._low, self.reduced = low, reduced
            return None

    def _flush(self) -> None:
        if self._hash is None:
            self._hash = hashlib.sha256()
        self._hash.update(self.out)
        self.out.clear()


def module_name(named: Any) -> str:
    """Return the name of the module something is from; the main script of a spawned process is ``__main__`` too."""
    name = getattr(named, "__module__", None) or "builtins"
    return "__main__" if name == "__mp_main__" else str(name)


# ---- scalars

_FIXED: Final = {type(None): b"N", type(...): b"E", type(NotImplemented): b"I"}


@writes_type(*_FIXED)
def _fixed(enc: Encoder, value: Any) -> None:
    enc.out += _FIXED[type(value)]


@writes_type(bool)
def _bool(enc: Encoder, value: Any) -> None:
    enc.out += b"T" if value else b"F"


@writes_type(int)
def _int(enc: Encoder, value: int) -> None:
    enc.out += b"i%x;" % value


@writes_type(float)
def _float(enc: Encoder, value: float) -> None:
    enc.out += b"f"
    enc.out += _double(value) if value == value else _NAN


@writes_type(complex)
def _complex(enc: Encoder, value: complex) -> None:
    enc.out += b"c"
    for part in (value.real, value.imag):
        enc.out += _double(part) if part == part else _NAN


@writes_type(str)
def _str(enc: Encoder, value: str) -> None:
    data = value.encode("utf-8", "surrogatepass")
    out = enc.out
    out += b"s%d:" % len(data)
    enc.raw(data, len(data))
    if enc.reduced and " at 0x" in value:
        raise Unstable(f"its reduced form holds an address: {value[:80]!r}", value)


@writes_type(bytes)
def _bytes(enc: Encoder, value: bytes) -> None:
    enc.out += b"b%d:" % len(value)
    enc.raw(value, len(value))


@writes_type(bytearray)
def _bytearray(enc: Encoder, value: bytearray) -> None:
    enc.out += b"B%d:" % len(value)
    enc.raw(value, len(value))


# ---- lists and tuples


@writes_type(list)
def _list(enc: Encoder, value: list[Any]) -> None:
    sequence(enc, value, b"[")


@writes_type(tuple)
def _tuple(enc: Encoder, value: tuple[Any, ...]) -> None:
    sequence(enc, value, b"(")


def sequence(enc: Encoder, value: list[Any] | tuple[Any, ...], tag: bytes) -> None:
    """Append the items in order; all-integer, all-float, all-string sequences in one go."""
    kind = kind_of(value)
    if kind in _PACKERS:
        enc.out += tag
        pack(enc, value, kind)
        return
    enc.nested(value, _items if tag == b"[" else _tuple_items)


def kind_of(value: Iterable[Any]) -> type | None:
    """Return the one type of all items, None if there are several or no items."""
    kinds = set(map(type, value))
    if len(kinds) == 1:
        for kind in kinds:
            if kind in _PACKERS:
                return kind
    kinds = same_kinds(kinds)
    return kinds.pop() if len(kinds) == 1 else None


def same_kinds(kinds: set[type]) -> set[type]:
    """Return the types with those replaced whose values are the same as values of another type."""
    for kind in kinds - table.keys():
        find(kind)
    return {aliases.get(kind, kind) for kind in kinds}


def _tuple_items(enc: Encoder, value: tuple[Any, ...]) -> None:
    _items(enc, value, b"(")


def _items(enc: Encoder, value: list[Any] | tuple[Any, ...], tag: bytes = b"[") -> None:
    out = enc.out
    out += tag
    out += b"o%d:" % len(value)
    index = 0
    try:
        for item in value:
            cls = type(item)
            (table.get(cls) or find(cls))(enc, item)
            index += 1
    except Unstable as error:
        raise error.at(f"[{index}]") from None


def pack(enc: Encoder, value: Any, kind: type | None) -> None:
    """Append a collection of items of one kind (``int``, ``float``, ``str``) as one block."""
    _PACKERS[kind](enc, value)


def _pack_ints(enc: Encoder, value: Any) -> None:
    try:
        _pack_block(enc, b"i", array("q", value))
    except OverflowError:
        data = b",".join(b"%x" % int(item) for item in value)
        enc.out += b"j%d:" % len(data)
        enc.raw(data, len(data))


def _pack_floats(enc: Encoder, value: Any) -> None:
    block = array("d", value)
    if sum(block) != sum(block):
        block = array("d", [item if item == item else float("nan") for item in block])
    _pack_block(enc, b"f", block)


def _pack_strings(enc: Encoder, value: Any) -> None:
    _pack_block(enc, b"s", array("q", map(len, value)))
    data = "".join(value).encode("utf-8", "surrogatepass")
    # The joined bytes end where the lengths say.
    enc.raw(data, len(data))
    if enc.reduced and b" at 0x" in data:
        raise Unstable("its reduced form holds an address", value)


def _pack_block(enc: Encoder, tag: bytes, block: array[Any]) -> None:
    if sys.byteorder == "big":  # pragma: no cover
        block.byteswap()
    enc.out += tag + b"%d:" % len(block)
    enc.raw(block, 8 * len(block))


_PACKERS: Final[dict[type | None, Callable[[Encoder, Any], None]]] = {
    int: _pack_ints,
    float: _pack_floats,
    str: _pack_strings,
}

# ---- sets and dicts


@writes_type(set)
def _set(enc: Encoder, value: set[Any]) -> None:
    unordered(enc, value, b"{")


@writes_type(frozenset)
def _frozenset(enc: Encoder, value: frozenset[Any]) -> None:
    unordered(enc, value, b"}")


def unordered(enc: Encoder, value: set[Any] | frozenset[Any], tag: bytes) -> None:
    """Append the members in an order that only their values decide."""
    kind = kind_of(value)
    if kind is int or kind is str:
        enc.out += tag
        pack(enc, sorted(value), kind)
        return
    digests = []
    for item in value:
        try:
            digests.append(enc.digest(item))
        except Unstable as error:
            raise error.at("{…}") from None
    enc.out += tag + b"o%d:" % len(digests)
    enc.out += b"".join(sorted(digests))


@writes_type(dict)
def _dict(enc: Encoder, value: dict[Any, Any]) -> None:
    enc.nested(value, mapping)


def mapping(enc: Encoder, value: Any) -> None:
    """Append the items of a mapping in an order that only the values of the keys decide."""
    if value and kind_of(value) is not str:
        _mixed_mapping(enc, value)
        return
    keys = sorted(value)
    enc.out += b"d"
    _pack_strings(enc, keys)
    key = None
    try:
        for key in keys:
            item = value[key]
            cls = type(item)
            (table.get(cls) or find(cls))(enc, item)
    except Unstable as error:
        raise error.at(f"[{key!r}]") from None


def _mixed_mapping(enc: Encoder, value: Any) -> None:
    pairs = []
    for key in value:
        try:
            pairs.append((enc.digest(key), key))
        except Unstable as error:
            raise error.at(".keys()") from None
    pairs.sort(key=lambda pair: pair[0])
    enc.out += b"m%d:" % len(pairs)
    # Keys may look the same without being equal (two nan): then their values decide the order.
    if len({digest for digest, _ in pairs}) < len(pairs):
        enc.out += b"".join(sorted(digest + enc.digest(value[key]) for digest, key in pairs))
        return
    for digest, key in pairs:
        enc.out += digest
        try:
            enc.write(value[key])
        except Unstable as error:
            raise error.at(f"[{key!r:.40}]") from None
