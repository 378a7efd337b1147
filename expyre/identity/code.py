"""The code that a value brings along: of functions and classes, and of the user's code that they reach.

Everything reached is one *unit* with a name: ``code:mymod.f``, ``const:mymod.CUTOFF``, ``package:ase``. What is
reached from a function is found once and kept as long as the names it was found by still lead to the same objects;
constants that can change are looked at each time.
"""

from __future__ import annotations

import hashlib
import types
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from expyre.identity import packages
from expyre.identity.reach import GONE, Reach, by_name, closure_of, reach
from expyre.identity.summary import summarise

if TYPE_CHECKING:
    from expyre.identity.encoder import Encoder

_known: weakref.WeakKeyDictionary[Any, Reach] = weakref.WeakKeyDictionary()


def reach_of(thing: types.FunctionType | type) -> Reach:
    """Return what a function or class reaches, from memory if nothing on the way has changed."""
    found = _known.get(thing)
    if found is None or not found.current(thing):
        found = _known[thing] = reach(thing)
    return found


class CodeCollector:
    """Collects the code that the values of one key bring along.

    Parameters
    ----------
    policy
        ``off``, ``self`` or ``reachable``.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        # Whether values that functions are closed over may be without a stable value.
        self.lenient = False
        self._units: dict[str, dict[bytes, str]] = {}
        self._seen: set[int] = set()
        self._keep: list[Any] = []
        self._waiting: list[Reach] = []
        self._done: set[str] = set()

    def write_function(self, enc: Encoder, function: types.FunctionType) -> None:
        """Append a function: its name, its own code, and the values it was made with; collect what it reaches."""
        enc.out += b"y"
        enc.reference(function)
        if self.policy == "off" and "<" not in function.__qualname__:
            return
        found = reach_of(function)
        enc.out += found.own
        if found.carries and (found.user or not by_name(function)):
            enc.out += b"+"
            self._write_values(enc, function)
        self._merge(function, found)

    def _write_values(self, enc: Encoder, function: types.FunctionType) -> None:
        defaults = (function.__defaults__, function.__kwdefaults__)
        enc.out += enc.try_digest(defaults) or b"?"
        for name, value in closure_of(function):
            enc.text(name)
            self._write_closed_over(enc, name, value)

    def _write_closed_over(self, enc: Encoder, name: str, value: Any) -> None:
        from expyre.identity.encoder import Unstable

        if self.lenient:
            enc.out += enc.try_digest(value) or type(value).__qualname__.encode()
            return
        try:
            enc.write(value)
        except Unstable as error:
            raise error.at(f".__closure__[{name!r}]") from None

    def known_digest(self, function: Any) -> bytes | None:
        """Return the digest of a function that carries no values, if it was made before; collect what it reaches."""
        if type(function) is not types.FunctionType or self.policy == "off":
            return None
        found = reach_of(function)
        if found.digest is not None:
            self._merge(function, found)
        return found.digest

    def remember_digest(self, function: Any, digest: bytes) -> None:
        """Keep the digest of a function that carries no values."""
        if type(function) is types.FunctionType and self.policy != "off":
            found = reach_of(function)
            found.digest = None if found.carries else digest

    def note_class(self, cls: type) -> None:
        """Collect the code of a class."""
        if self.policy == "off" or id(cls) in self._seen:
            return
        self._merge(cls, reach_of(cls))

    def note_module(self, name: str) -> None:
        """Collect the package a module is from."""
        if self.policy != "off" and packages.owner(name) == packages.PACKAGE:
            self._add_package(name.partition(".")[0])

    def note_whole_module(self, module: types.ModuleType) -> None:
        """Collect the code of a whole module."""
        if self.policy != "off" and id(module) not in self._seen:
            self._merge(module, reach(module))

    def _merge(self, thing: Any, found: Reach) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        self._keep.append(thing)
        if self.policy == "self":
            for unit in found.units[:1]:
                self._add(*unit)
            for top in found.packages if not found.user else ():
                self._add_package(top)
            return
        for unit in found.units:
            self._add(*unit)
        for top in found.packages:
            self._add_package(top)
        self._waiting.append(found)

    def _add(self, path: str, digest: bytes, summary: str) -> None:
        self._units.setdefault(path, {})[digest] = summary

    def _add_package(self, top: str) -> None:
        path = f"package:{top}"
        if path not in self._units:
            found = packages.version_of(top)
            text = found[1] if found else "not installed"
            self._add(path, hashlib.sha256(text.encode()).digest(), text)

    def finish(self, enc: Encoder) -> list[tuple[str, bytes, str]]:
        """Look at the values that the collected code reads, and return name, digest and summary of everything."""
        # Only now, where no value is half written, do they look the same wherever they were met.
        self.lenient = True
        while self._waiting:
            found = self._waiting.pop()
            for path, names, name in found.constants:
                if path not in self._done:
                    self._done.add(path)
                    self._add_value(enc, path, names.get(name, GONE))
            for path, function in found.functions:
                if id(function) not in self._seen:
                    self._seen.add(id(function))
                    self._add(path, enc.digest(function, self._write_function_values), "defaults and closure")
        return list(self._units_in_order())

    def _units_in_order(self) -> Iterator[tuple[str, bytes, str]]:
        for name in sorted(self._units):
            for index, (digest, summary) in enumerate(sorted(self._units[name].items())):
                yield (name if index == 0 else f"{name}#{index + 1}", digest, summary)

    def _write_function_values(self, enc: Encoder, function: types.FunctionType) -> None:
        enc.nested(function, self._write_values)

    def _add_value(self, enc: Encoder, path: str, value: Any) -> None:
        digest = enc.try_digest(value)
        summary = summarise(value)
        if digest is None:
            digest = hashlib.sha256(type(value).__qualname__.encode()).digest()
            summary = f"{type(value).__qualname__} (not by value)"
        self._add(path, digest, summary)
