"""Encoders of the standard library's types."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import functools
import operator
import os
import pathlib
import re
import types
import typing
import uuid
from typing import Any

from expyre.identity.encoder import Encoder, Unstable, mapping, module_name
from expyre.identity.registry import writes, writes_type


@writes_type(range, slice)
def _range(enc: Encoder, value: range | slice) -> None:
    enc.out += b"r" if type(value) is range else b"/"
    for bound in (value.start, value.stop, value.step):
        enc.write(bound)


@writes_type(memoryview)
def _memoryview(enc: Encoder, value: memoryview) -> None:
    enc.out += b"v"
    enc.text(f"{value.format} {value.shape}")
    data = value.tobytes()
    enc.raw(data, len(data))


@writes_type(
    pathlib.PurePosixPath,
    pathlib.PosixPath,
    pathlib.PureWindowsPath,
    pathlib.WindowsPath,
)
def _path(enc: Encoder, value: pathlib.PurePath) -> None:
    enc.out += b"w" if isinstance(value, pathlib.PureWindowsPath) else b"p"
    enc.text(os.fspath(value))


@writes_type(datetime.datetime, datetime.time)
def _datetime(enc: Encoder, value: datetime.datetime | datetime.time) -> None:
    enc.out += b"t"
    enc.text(f"{type(value).__name__} {value.replace(tzinfo=None).isoformat()} {value.fold}")
    enc.write(value.tzinfo)


@writes_type(datetime.date, decimal.Decimal, fractions.Fraction, uuid.UUID)
def _by_text(enc: Encoder, value: Any) -> None:
    enc.out += b"x"
    enc.text(f"{type(value).__name__} {value}")


@writes_type(datetime.timedelta)
def _timedelta(enc: Encoder, value: datetime.timedelta) -> None:
    enc.out += b"x"
    enc.text(f"timedelta {value.days} {value.seconds} {value.microseconds}")


@writes_type(re.Pattern)
def _pattern(enc: Encoder, value: re.Pattern[Any]) -> None:
    enc.out += b"P%d;" % value.flags
    enc.write(value.pattern)


@writes_type(collections.OrderedDict)
def _ordered(enc: Encoder, value: Any) -> None:
    enc.out += b"o"
    enc.nested(value, lambda inner, items: inner.write(list(items.items())))


@writes_type(collections.Counter)
def _counter(enc: Encoder, value: Any) -> None:
    enc.out += b"#"
    enc.nested(value, mapping)


@writes_type(collections.defaultdict)
def _defaultdict(enc: Encoder, value: Any) -> None:
    enc.out += b"D"
    enc.write(value.default_factory)
    enc.nested(value, mapping)


@writes_type(collections.deque)
def _deque(enc: Encoder, value: Any) -> None:
    enc.out += b"q"
    enc.write(value.maxlen)
    enc.nested(value, lambda inner, items: inner.write(list(items)))


@writes_type(types.MappingProxyType, types.SimpleNamespace)
def _namespace(enc: Encoder, value: Any) -> None:
    proxy = type(value) is types.MappingProxyType
    enc.out += b"M" if proxy else b"."
    enc.nested(value, _proxied if proxy else _attributes)


def _proxied(enc: Encoder, value: Any) -> None:
    mapping(enc, value)


def _attributes(enc: Encoder, value: Any) -> None:
    mapping(enc, vars(value))


# ---- functions and classes


@writes_type(types.FunctionType)
def _function(enc: Encoder, value: types.FunctionType) -> None:
    enc.nested(value, enc.code.write_function)


@writes_type(type)
def write_class(enc: Encoder, value: type) -> None:
    """Append a class by name; its code is collected."""
    enc.out += b"C"
    enc.reference(value)
    enc.code.note_class(value)


@writes_type(types.MethodType)
def _method(enc: Encoder, value: types.MethodType) -> None:
    enc.out += b"h"
    _bound(enc, value.__func__, value.__self__)


def _bound(enc: Encoder, function: Any, owner: Any) -> None:
    enc.write(function)
    try:
        enc.write(owner)
    except Unstable as error:
        raise error.at(".__self__") from None


@writes_type(types.BuiltinFunctionType)
def _builtin(enc: Encoder, value: types.BuiltinFunctionType) -> None:
    enc.out += b"u"
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        enc.reference(value)
        enc.code.note_module(module_name(value))
    else:
        _bound(enc, value.__name__, owner)


@writes_type(
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
)
def _descriptor(enc: Encoder, value: Any) -> None:
    enc.out += b"y"
    enc.write(value.__objclass__)
    enc.text(value.__name__)


@writes_type(types.MethodWrapperType)
def _method_wrapper(enc: Encoder, value: Any) -> None:
    enc.out += b"Y"
    _bound(enc, value.__name__, value.__self__)


@writes_type(staticmethod, classmethod)
def _wrapped_method(enc: Encoder, value: Any) -> None:
    enc.out += b"S" if type(value) is staticmethod else b"K"
    enc.write(value.__func__)


@writes_type(property)
def _property(enc: Encoder, value: property) -> None:
    enc.out += b"Z"
    for function in (value.fget, value.fset, value.fdel):
        enc.write(function)


@writes_type(functools.partial)
def _partial(enc: Encoder, value: functools.partial[Any]) -> None:
    enc.nested(value, _write_partial)


def _write_partial(enc: Encoder, value: functools.partial[Any]) -> None:
    enc.out += b"L"
    for name in ("func", "args", "keywords", "__dict__"):
        try:
            enc.write(getattr(value, name))
        except Unstable as error:
            raise error.at(f".{name}") from None


@writes_type(operator.itemgetter, operator.attrgetter, operator.methodcaller)
def _getter(enc: Encoder, value: Any) -> None:
    enc.out += b"G"
    cls, args = value.__reduce__()[:2]
    enc.write(cls)
    enc.write(args)


@writes_type(type(functools.lru_cache(abs)))
def _cached_function(enc: Encoder, value: Any) -> None:
    enc.out += b"W"
    enc.write(value.__wrapped__)


@writes_type(types.ModuleType)
def _module(enc: Encoder, value: types.ModuleType) -> None:
    enc.out += b"O"
    enc.text("__main__" if value.__name__ == "__mp_main__" else value.__name__)
    enc.code.note_whole_module(value)


# ---- types such as list[int]


@writes_type(types.GenericAlias, type(typing.List[int]), type(typing.Union[int, str]))  # noqa: UP006, UP007
def _generic(enc: Encoder, value: Any) -> None:
    enc.out += b"g"
    if type(value) is not types.GenericAlias and getattr(value, "__origin__", None) is typing.Union:
        enc.text("union")
        enc.write(set(value.__args__))
        return
    enc.write(value.__origin__)
    enc.write(value.__args__)


@writes_type(types.UnionType)
def _union(enc: Encoder, value: types.UnionType) -> None:
    enc.out += b"g"
    enc.text("union")
    enc.write(set(value.__args__))


@writes("concurrent.futures._base:Future")
def _future(_enc: Encoder, value: Any) -> None:
    raise Unstable("it is a future, whose result may not be there yet; its result() can be made a key of", value)
