"""Encoders chosen by what a class is like: enums, dataclasses, subclasses of containers, and any other object."""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import types
from collections.abc import Callable
from typing import Any

from expyre.identity.encoder import Encoder, Unstable, mapping, module_name, sequence, unordered
from expyre.identity.registry import Writer, choosers, states
from expyre.identity.standard import write_class

# Every object that this interpreter can pickle at all can be reduced with it, and no later one changes the form.
_PROTOCOL = 4


def write_type(enc: Encoder, cls: type) -> None:
    """Append the name of an object's class, and collect the class's code."""
    enc.reference(cls)
    enc.code.note_class(cls)


def write_state(enc: Encoder, state: Any) -> None:
    """Append the attributes of an object, or whatever it gives as its state."""
    try:
        if type(state) is dict:
            mapping(enc, state)
        else:
            enc.write(state)
    except Unstable as error:
        step = error.path[-1] if error.path else ""
        if type(state) is dict and step.startswith("['") and step[2:-2].isidentifier():
            error.path[-1] = f".{step[2:-2]}"
        raise


def _metaclass(cls: type) -> Writer | None:
    return write_class if issubclass(cls, type) else None


def _enum(cls: type) -> Writer | None:
    if not issubclass(cls, enum.Enum):
        return None
    flag = issubclass(cls, enum.Flag)

    def write(enc: Encoder, value: Any) -> None:
        enc.out += b"e"
        write_type(enc, cls)
        # Names of combined flags differ between versions of Python; values of other members may be anything.
        enc.write(int(value.value) if flag else value.name)

    return write


def _dataclass(cls: type) -> Writer | None:
    if not dataclasses.is_dataclass(cls) or not _by_attributes(cls, own=("dataclasses",)):
        return None
    names = [field.name for field in dataclasses.fields(cls)]
    transient = _cached_properties(cls)

    def attributes(value: Any) -> dict[str, Any]:
        state = {name: getattr(value, name) for name in names if hasattr(value, name)}
        extra = getattr(value, "__dict__", None)
        if extra and len(extra) > len(state):
            state.update((name, item) for name, item in extra.items() if name not in transient)
        return state

    return attribute_writer(b"A", attributes)


def attribute_writer(tag: bytes, attributes: Callable[[Any], dict[str, Any]], data: str = "") -> Writer:
    """Return an encoder of objects that are their class and their attributes.

    Objects of classes from the package ``data`` are data: the version of the package does not count.
    """

    def body(enc: Encoder, value: Any) -> None:
        enc.reduced += 1
        write_state(enc, attributes(value))
        enc.reduced -= 1

    def write_data(enc: Encoder, value: Any) -> None:
        if not type(value).__module__.startswith(f"{data}."):
            writer(enc, value)
            return
        # Not the module: packages move their classes about inside.
        enc.out += tag
        enc.text(f"{data}:{type(value).__qualname__}")
        enc.nested(value, body)

    writer = _object_writer(tag, body)
    if data:
        return write_data
    states[writer] = attributes
    return writer


def _object_writer(tag: bytes, body: Callable[[Encoder, Any], None]) -> Writer:
    def write(enc: Encoder, value: Any) -> None:
        enc.out += tag
        write_type(enc, type(value))
        enc.nested(value, body)

    return write


def _set_like(cls: type) -> Writer | None:
    if not issubclass(cls, (set, frozenset)):
        return None

    def body(enc: Encoder, value: Any) -> None:
        unordered(enc, value, b"{")
        write_state(enc, getattr(value, "__dict__", None))

    return _object_writer(b"U", body)


def _named_tuple(cls: type) -> Writer | None:
    if not issubclass(cls, tuple) or not hasattr(cls, "_fields") or not _by_attributes(cls, own=("__getnewargs__",)):
        return None

    def body(enc: Encoder, value: Any) -> None:
        sequence(enc, tuple(value), b"(")
        write_state(enc, getattr(value, "__dict__", None))

    return _object_writer(b"k", body)


def _plain(cls: type) -> Writer | None:
    if not _by_attributes(cls) or cls.__basicsize__ > object.__basicsize__ + 16 or cls.__dictoffset__ == 0:
        return None
    if any(vars(base).get("__slots__") for base in cls.__mro__) or cls.__itemsize__:
        return None
    transient = _cached_properties(cls)

    def attributes(value: Any) -> dict[str, Any]:
        state: dict[str, Any] = value.__dict__
        if transient and not transient.isdisjoint(state):
            return {name: item for name, item in state.items() if name not in transient}
        return state

    return attribute_writer(b"X", attributes)


def _by_attributes(cls: type, own: tuple[str, ...] = ()) -> bool:
    """Tell whether nothing but its attributes makes up an object: the class has no way of its own to reduce it."""
    if cls in copyreg.dispatch_table:
        return False
    for name in ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"):
        method = getattr(cls, name, None)
        if method is None or method is getattr(object, name, None) or name in own:
            continue
        if getattr(method, "__module__", None) not in own:
            return False
    return True


def _cached_properties(cls: type) -> frozenset[str]:
    found = (name for base in cls.__mro__ for name, item in vars(base).items() if _is_cached(item))
    return frozenset(found)


def _is_cached(item: object) -> bool:
    return isinstance(item, functools.cached_property)


def _reducible(cls: type) -> Writer:
    return _write_reduced


def _write_reduced(enc: Encoder, value: Any) -> None:
    enc.nested(value, _reduce)


def _reduce(enc: Encoder, value: Any) -> None:
    form = _reduced_form(value)
    if isinstance(form, str):
        enc.out += b"G"
        enc.text(f"{module_name(value if hasattr(value, '__module__') else type(value))}:{form}")
        enc.code.note_module(module_name(type(value)))
        return
    enc.out += b"V"
    enc.reduced += 1
    write_type(enc, type(value))
    _write_form(enc, *form)
    enc.reduced -= 1


def _write_form(
    enc: Encoder,
    function: Any,
    args: Any,
    state: Any = None,
    items: Any = None,
    pairs: Any = None,
    setter: Any = None,
) -> None:
    enc.write(function)
    try:
        enc.write(args)
    except Unstable as error:
        raise error.at(".__reduce__()[1]") from None
    write_state(enc, state)
    enc.write(None if items is None else list(items))
    enc.write(None if pairs is None else dict(pairs))
    enc.write(setter)


def _reduced_form(value: Any) -> Any:
    if isinstance(value, (types.GeneratorType, types.CoroutineType)):
        raise Unstable("it is used up by the one who reads it", value)
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        form = reduce(value) if reduce is not None else value.__reduce_ex__(_PROTOCOL)
    except Exception as error:
        raise Unstable(f"it cannot be reduced to simpler values: {error}", value) from error
    if not isinstance(form, (str, tuple)):
        raise Unstable("its reduced form is neither a string nor a tuple", value)
    return form


choosers.extend([_metaclass, _enum, _dataclass, _set_like, _named_tuple, _plain, _reducible])
