"""What a function, a class or a module reaches: code of the user, constants it reads, packages it is built on."""

from __future__ import annotations

import hashlib
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from expyre.identity import packages
from expyre.identity.encoder import Encoder, module_name
from expyre.identity.files import digest_file
from expyre.identity.source import CodeText, methods, text_of_class, text_of_function, text_of_module
from expyre.identity.summary import summarise
from expyre.identity.syntax import Chain, Outside

GONE: Final = object()
Names = Mapping[str, Any]
Unit = tuple[str, bytes, str]
_PLAIN: Final = {type(None), bool, int, float, complex, str, bytes}
# Parsed files are shared, and marked for a moment while functions are told apart.
_one_at_a_time: Final = threading.RLock()
_NONE: Final = b"\0" * 32


@dataclass
class Reach:
    """What one function, class or module reaches.

    Attributes
    ----------
    own, user
        Digest of its own code and of plain default values; whether the code is the user's.
    units
        ``(path, digest, summary)`` of the code reached, its own first.
    packages
        Top-level modules of the packages reached.
    constants
        ``(path, namespace, name)`` of values that may change without being replaced.
    functions
        ``(path, function)`` of functions reached that carry values: defaults, or what they are closed over.
    carries
        Whether the function itself carries values that are not in ``own``.
    code, defaults
        The code and the defaults that the function itself had.
    digest
        Digest of the function as a value, once that has been made and if it carries nothing.
    """

    own: bytes = _NONE
    user: bool = False
    units: list[Unit] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    constants: list[tuple[str, Names, str]] = field(default_factory=list)
    functions: list[tuple[str, types.FunctionType]] = field(default_factory=list)
    code: types.CodeType | None = None
    defaults: tuple[Any, Any] = (None, None)
    carries: bool = False
    digest: bytes | None = None
    _looked_up: list[tuple[Names, str, Any]] = field(default_factory=list)
    _codes: list[tuple[types.FunctionType, types.CodeType]] = field(default_factory=list)

    def current(self, root: Any) -> bool:
        """Tell whether everything on the way is still what it was."""
        if self.code is not None and (
            root.__code__ is not self.code
            or root.__defaults__ is not self.defaults[0]
            or root.__kwdefaults__ is not self.defaults[1]
        ):
            return False
        for names, name, value in self._looked_up:
            if names.get(name, GONE) is not value:
                return False
        return not self._codes or all(function.__code__ is code for function, code in self._codes)

    def look_up(self, names: Names, name: str) -> Any:
        """Return what a name stands for, ``GONE`` if nothing, and watch it."""
        value = names.get(name, GONE)
        self._looked_up.append((names, name, value))
        return value

    def watch(self, function: types.FunctionType) -> None:
        """Notice when a function gets other code."""
        self._codes.append((function, function.__code__))


def module_of(thing: Any) -> types.ModuleType | None:
    """Return the module that a function or class says it is from, if that is loaded."""
    return sys.modules.get(getattr(thing, "__module__", None) or "")


def by_name(function: Any) -> bool:
    """Tell whether a function or class is what its module has under its name."""
    found: Any = module_of(function)
    for name in function.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found is function


def closure_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the names and values that a function is closed over."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "__class__":
            continue
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def reach(root: Any) -> Reach:
    """Follow a function, class or module."""
    walk = _Walk()
    with _one_at_a_time:
        walk.follow(root)
    found = walk.found
    if isinstance(root, types.FunctionType):
        found.code, found.defaults = root.__code__, (root.__defaults__, root.__kwdefaults__)
        found.carries = _carries(root)
    found.user = walk.owner(root) == packages.USER
    if found.units and found.user:
        found.own = found.units[0][1]
    return found


class _Walk:
    """One pass over everything that is reached."""

    def __init__(self) -> None:
        self.found = Reach()
        self._met: set[int] = set()
        self._waiting: list[Any] = []
        self._modules: set[str] = set()
        # Digests of the types of what the code itself changes.
        self._state: dict[str, bytes] = {}

    def follow(self, root: Any) -> None:
        """Follow a thing and everything it leads to."""
        self._waiting.append(root)
        first = True
        while self._waiting:
            thing = self._waiting.pop()
            if id(thing) in self._met:
                continue
            self._met.add(id(thing))
            if isinstance(thing, types.FunctionType):
                self._function(thing, first)
            elif isinstance(thing, type):
                self._class(thing)
            else:
                self._module(thing.__name__, getattr(thing, "__file__", None))
            if first and not isinstance(thing, types.ModuleType) and self.found.units:
                # What it is bound to was noted on the way to its own code.
                self.found.units.insert(0, self.found.units.pop())
            first = False
        self._forget_state()

    def _forget_state(self) -> None:
        """Let what any of the code changes count by its type, also for the code that only reads it."""
        found = self.found
        found.units = [unit for unit in found.units if unit[0] not in self._state]
        found.constants = [constant for constant in found.constants if constant[0] not in self._state]
        found.units += [(path, digest, "changes while it is used") for path, digest in self._state.items()]

    def owner(self, thing: Any) -> str:
        """Return whose code a function, class or module is."""
        if isinstance(thing, types.ModuleType):
            return packages.owner(thing.__name__)
        name = module_name(thing)
        code = getattr(thing, "__code__", None)
        if code is not None and not code.co_filename.startswith("<"):
            home = module_of(thing)
            # A decorator of a package gives its wrapper the name of the user's module: the file tells.
            top = name if getattr(home, "__file__", None) == code.co_filename else _top_of(code.co_filename) or name
            return packages.owner_of(top, code.co_filename)
        return packages.owner(name)

    def _unit(self, path: str, digest: bytes, summary: str) -> None:
        self.found.units.append((path, digest, summary))

    def _foreign(self, thing: Any, owner: str) -> bool:
        if owner == packages.PACKAGE:
            code = getattr(thing, "__code__", None)
            self.found.packages.add((code and _top_of(code.co_filename)) or module_name(thing).partition(".")[0])
        return owner != packages.USER

    # ---- functions

    def _function(self, function: types.FunctionType, root: bool) -> None:
        path = f"code:{module_name(function)}.{function.__qualname__}"
        foreign = self._foreign(function, self.owner(function))
        if not root:
            self.found.watch(function)
            if _carries(function) and not (foreign and by_name(function)):
                self.found.functions.append((f"{path}()", function))
        if foreign:
            return
        text = text_of_function(function.__code__, module_of(function))
        closure = dict(closure_of(function))
        bindings = self._outside(text.outside, function.__globals__, closure)
        if not _carries(function):
            bindings.append(_plain_digest((function.__defaults__, function.__kwdefaults__)).hex())
        self._text_unit(path, text, bindings)

    def _text_unit(self, path: str, text: CodeText, bindings: list[str]) -> None:
        digest = hashlib.sha256(text.digest + "\n".join(sorted(bindings)).encode("utf-8", "surrogatepass")).digest()
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        summary = f"bytecode of Python {version}, as there is no source" if text.bytecode else "source"
        self._unit(path, digest, summary)

    # ---- names

    def _outside(self, outside: Outside, names: Names, closure: Names) -> list[str]:
        """Follow the names that code takes from outside, and return what they are bound to."""
        bindings = []
        for chain in sorted(outside.chains):
            if chain[0] in closure:
                continue
            value = self.found.look_up(names, chain[0])
            if value is not GONE:
                changed = chain[0] in outside.changed
                bindings.extend(self._bound(chain, value, names, changed))
        for level, module, inner in sorted(outside.imports):
            self._imported(level, module, inner, names)
        return bindings

    def _bound(self, chain: Chain, value: Any, names: Names, changed: bool) -> list[str]:
        """Follow one chain of names, ``np.linalg.norm``, and return what it is bound to."""
        depth = 1
        while isinstance(value, types.ModuleType):
            if packages.owner(value.__name__) != packages.USER:
                self.found.packages.update(_package(value.__name__))
                return [f"{'.'.join(chain[:depth])}={value.__name__}"]
            names = vars(value)
            if depth == len(chain):
                self._waiting.append(value)
                return [f"{'.'.join(chain)}={_main(value.__name__)}"]
            value = self.found.look_up(names, chain[depth])
            depth += 1
            if value is GONE:
                return []
        return self._value(".".join(chain[:depth]), chain[depth - 1], value, names, changed)

    def _value(self, dotted: str, name: str, value: Any, names: Names, changed: bool) -> list[str]:
        if isinstance(value, (types.FunctionType, type)):
            self._waiting.append(value)
            return [f"{dotted}={module_name(value)}:{value.__qualname__}"]
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, (types.ModuleType, type(None))):
            self.found.packages.update(_package(module_name(value)))
            return [f"{dotted}={module_name(value)}:{value.__qualname__}"]
        path = f"const:{_main(str(names.get('__name__')))}.{name}"
        if changed:
            self._state[path] = hashlib.sha256(type(value).__qualname__.encode()).digest()
        elif type(value) in _PLAIN:
            self._unit(path, _plain_digest(value), summarise(value))
        elif path not in {known[0] for known in self.found.constants}:
            self.found.constants.append((path, names, name))
        return []

    # ---- classes

    def _class(self, cls: type) -> None:
        if self._foreign(cls, packages.owner(module_name(cls))):
            return
        home = module_of(cls)
        text = text_of_class(cls, home)
        path = f"code:{module_name(cls)}.{cls.__qualname__}"
        own = {name: function for name, function in methods(cls).items() if not _generated(function)}
        for name in own:
            self.found.look_up(vars(cls), name)
        self._waiting.extend(base for base in (*cls.__bases__, type(cls)) if base not in (object, type))
        if text is None:
            self._unit(path, _class_digest(cls), "names and values, as there is no source")
            self._waiting.extend(own.values())
            return
        closure = {name: value for function in own.values() for name, value in closure_of(function)}
        bindings = self._outside(text.outside, vars(home) if home else {}, closure)
        for name in sorted({chain[0] for chain in text.outside.chains} & closure.keys()):
            bindings.extend(self._value(name, name, closure[name], _within(path, closure), False))
        self._text_unit(path, text, bindings)
        self._waiting.extend(function for function in own.values() if _came_later(function, text))

    # ---- modules

    def _imported(self, level: int, module: str, inner: Chain, names: Names) -> None:
        base = str(names.get("__package__") or "").split(".")
        start = ".".join(base[: len(base) - level + 1]) if level else ""
        target = ".".join(filter(None, (start, module)))
        for name in [target, *(f"{target}.{step}" for step in inner)]:
            if name in self._modules:
                continue
            spec = packages.find_spec(name) if name else None
            if spec is not None:
                self._module(name, spec.origin)
            elif name == target and name:
                self.found.packages.add(name.partition(".")[0])

    def _module(self, name: str, filename: str | None) -> None:
        self._modules.add(name)
        owner = packages.owner_of(name, filename)
        if owner == packages.PACKAGE:
            self.found.packages.add(name.partition(".")[0])
        if owner != packages.USER or filename is None:
            return
        text = text_of_module(filename)
        if text is None:
            self._unit(f"code:{_main(name)}", _content(filename), "file")
            return
        self._unit(f"code:{_main(name)}", text.digest, "source")
        package = name if filename.endswith("__init__.py") else name.rpartition(".")[0]
        for level, module, inner in sorted(text.outside.imports):
            self._imported(level, module, inner, {"__package__": package})


def _content(filename: str) -> bytes:
    from pathlib import Path

    try:
        return digest_file(Path(filename))
    except OSError:
        return _NONE


def _main(name: str) -> str:
    return "__main__" if name == "__mp_main__" else name


def _package(module: str) -> set[str]:
    return {module.partition(".")[0]} if packages.owner(module) == packages.PACKAGE else set()


def _top_of(filename: str) -> str | None:
    """Return the top-level module of an installed file, None for other files."""
    for site in ("/site-packages/", "/dist-packages/"):
        if site in filename:
            return filename.rpartition(site)[2].partition("/")[0].removesuffix(".py")
    for name in packages.OURS:
        home = getattr(sys.modules.get(name), "__path__", None)
        if home and any(filename.startswith(f"{path}/") for path in home):
            return name
    return None


def _within(path: str, closure: Names) -> Names:
    return {**closure, "__name__": path.partition(":")[2]}


def _came_later(function: types.FunctionType, text: CodeText) -> bool:
    """Tell whether a method was put into its class from elsewhere."""
    code = function.__code__
    if code.co_filename == "<string>":  # made by a decorator, from what the source says
        return False
    return code.co_filename != text.filename or not text.lines[0] <= code.co_firstlineno <= text.lines[1]


def _generated(function: types.FunctionType) -> bool:
    """Tell whether a method was made by a decorator or metaclass such as that of dataclasses, enums, named tuples."""
    name = function.__code__.co_filename
    made = function.__qualname__.startswith("__create_fn__") or function.__module__.startswith("namedtuple_")
    return made or name.startswith("<attrs") or packages.owner_of("", name) != packages.USER


def _carries(function: types.FunctionType) -> bool:
    """Tell whether a function carries values other than plain defaults."""
    if function.__closure__:
        return True
    values = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return not set(map(type, values)) <= _PLAIN


def _plain_digest(value: Any) -> bytes:
    return Encoder(None).digest(value)


def _class_digest(cls: type) -> bytes:
    if issubclass(cls, tuple) and "_fields" in vars(cls):
        defaults = [(name, repr(value)) for name, value in vars(cls).get("_field_defaults", {}).items()]
        return hashlib.sha256(repr((vars(cls)["_fields"], defaults)).encode("utf-8", "surrogatepass")).digest()
    names = sorted(name for name in vars(cls) if not (name.startswith("__") and name.endswith("__")))
    hints = [(name, str(hint)) for name, hint in getattr(cls, "__annotations__", {}).items()]
    plain = [repr(item) for name in names if isinstance(item := vars(cls)[name], (int, float, str, bool, type(None)))]
    return hashlib.sha256(repr((names, hints, plain)).encode("utf-8", "surrogatepass")).digest()
