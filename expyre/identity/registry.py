"""Which encoder writes values of which type; types of other packages are named, never imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from expyre.identity.encoder import Encoder

Writer: TypeAlias = "Callable[[Encoder, Any], None]"

# Encoders by exact type: the built-in ones, and those found once for a type.
table: dict[type, Writer] = {}
# Encoders by "module:Qualname", for the named class and its subclasses.
_named: dict[str, Writer] = {}
_user: dict[type | str, Callable[[Any], Any]] = {}
# Chooses an encoder for a type that no name matches; each returns None to pass.
choosers: list[Callable[[type], Writer | None]] = []
# Types whose values are the same as those of another type, e.g. numpy.float64 and float; and their names.
aliases: dict[type, type] = {}
_same: dict[str, type] = {}
_found: set[type] = set()
# Encoders that write a class and named attributes, with what gives the attributes of an object.
states: dict[Writer, Callable[[Any], dict[str, Any]]] = {}


def writes(*names: str) -> Callable[[Writer], Writer]:
    """Register the decorated function for the classes with these names."""

    def remember(writer: Writer) -> Writer:
        _named.update(dict.fromkeys(names, writer))
        return writer

    return remember


def same_as(python: type, *names: str) -> None:
    """Let values of the classes with these names be the same as values of a Python type."""
    _same.update(dict.fromkeys(names, python))


def writes_type(*types: type) -> Callable[[Writer], Writer]:
    """Register the decorated function for exactly these types."""

    def remember(writer: Writer) -> Writer:
        table.update(dict.fromkeys(types, writer))
        return writer

    return remember


def register(type_or_qualname: type | str, encoder: Callable[[Any], Any]) -> None:
    """Teach the key what the value of a type is.

    Parameters
    ----------
    type_or_qualname
        The class, or its name as ``"module:Qualname"``, so that it need not be imported. Subclasses are included.
    encoder
        Called with an object, returns a simpler value that stands for it (numbers, strings, lists, dicts, arrays, …).
        The name of the object's class enters the key as well.

    Raises
    ------
    TypeError
        ``type_or_qualname`` is neither a class nor such a name.
    """
    if not (isinstance(type_or_qualname, type) or (isinstance(type_or_qualname, str) and ":" in type_or_qualname)):
        raise TypeError(f"{type_or_qualname!r} is neither a class nor a name like 'module:Qualname'")
    _user[type_or_qualname] = encoder
    for cls in _found:
        table.pop(cls, None)
    _found.clear()


def find(cls: type) -> Writer:
    """Return the encoder for a type met for the first time, and remember it."""
    python = _same.get(f"{cls.__module__}:{cls.__qualname__}")
    if python is not None:
        aliases[cls] = python
        writer = _converting(python)
    else:
        writer = _choose(cls)
    table[cls] = writer
    _found.add(cls)
    return writer


def _converting(python: type) -> Writer:
    write = table[python]
    return lambda enc, value: write(enc, python(value))


def _choose(cls: type) -> Writer:
    names = [(base, f"{base.__module__}:{base.__qualname__}") for base in cls.__mro__]
    for base, name in names:
        stand_in = _user.get(base) or _user.get(name)
        if stand_in is not None:
            return _standing_in(stand_in)
    for _, name in names:
        if name in _named:
            return _named[name]
    for choose in choosers:
        writer = choose(cls)
        if writer is not None:
            return writer
    raise AssertionError("the last chooser takes everything")  # pragma: no cover


def _standing_in(encoder: Callable[[Any], Any]) -> Writer:
    def write(enc: Encoder, value: Any) -> None:
        enc.out += b"R"
        enc.reference(type(value))
        enc.nested(value, lambda inner, obj: inner.write(encoder(obj)))

    return write
