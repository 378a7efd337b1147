"""What a piece of source says: its canonical form, and the names it takes from outside.

The canonical form leaves out what cannot change what the code does — positions, comments, docstrings, ``pass`` — and
is the same on every version of Python that can parse the source.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

_SKIPPED: Final = frozenset({"ctx", "type_comment", "type_ignores", "kind"})
_fields: dict[type, tuple[str, ...]] = {}


def digest_of(node: ast.AST) -> bytes:
    """Return the digest of a node's canonical form."""
    out: list[str] = []
    _dump(node, out)
    return hashlib.sha256("".join(out).encode("utf-8", "surrogatepass")).digest()


def _dump(node: ast.AST, out: list[str]) -> None:
    cls = type(node)
    if isinstance(node, ast.Constant):
        out.append(_constant(node.value))
        return
    if isinstance(node, ast.JoinedStr):
        node = ast.JoinedStr(values=_joined(node))
    names = _fields.get(cls)
    if names is None:
        names = _fields[cls] = tuple(sorted(set(cls._fields) - _SKIPPED))
    out.append(f"{cls.__name__}(")
    for name in names:
        value = getattr(node, name, None)
        if value is not None and value != []:
            out.append(f"{name}=")
            _dump_value(value, out)
    out.append(")")


def _dump_value(value: Any, out: list[str]) -> None:
    if isinstance(value, ast.AST):
        _dump(value, out)
    elif isinstance(value, list):
        out.append("[")
        for item in value:
            if not _idle(item):
                _dump_value(item, out)
        out.append("]")
    else:
        out.append(_constant(value))


def _idle(node: Any) -> bool:
    """Tell whether a statement does nothing: a docstring, another constant, ``pass``."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _constant(value: Any) -> str:
    text = f"{value:x}" if type(value) is int else repr(value)
    return f"<{type(value).__name__} {len(text)} {text}>"


def _joined(node: ast.JoinedStr) -> list[ast.expr]:
    """Return the pieces of an f-string with neighbouring constants as one; parsers split them differently."""
    pieces: list[ast.expr] = []
    for piece in _pieces(node):
        last = pieces[-1] if pieces else None
        if isinstance(piece, ast.Constant) and isinstance(last, ast.Constant):
            pieces[-1] = ast.Constant(str(last.value) + str(piece.value))
        elif not (isinstance(piece, ast.Constant) and piece.value == ""):
            pieces.append(piece)
    return pieces


def _pieces(node: ast.JoinedStr) -> Iterator[ast.expr]:
    for piece in node.values:
        if isinstance(piece, ast.JoinedStr):
            yield from _pieces(piece)
        else:
            yield piece


# ---- names from outside

Chain = tuple[str, ...]


@dataclass
class Outside:
    """What a piece of source takes from outside.

    Attributes
    ----------
    chains
        Names it reads but does not bind, each with the attributes taken from it: ``("np", "linalg", "norm")``.
    imports
        Modules it imports itself: ``(level, module, names)`` with the number of leading dots.
    changed
        Outside names that it assigns, or whose contents it changes: state, not constants.
    """

    chains: set[Chain] = field(default_factory=set)
    imports: set[tuple[int, str, Chain]] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)


_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES: Final = (*_FUNCTIONS, ast.ClassDef, *_COMPREHENSIONS)

# Methods of lists, dicts and sets that change them.
_CHANGING: Final = frozenset(
    {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
)


def outside(node: ast.AST) -> Outside:
    """Return what a function, a class or a module takes from outside."""
    result = Outside()
    _visit(node, frozenset(), frozenset(), result)
    result.chains = {chain for chain in result.chains if chain[0] not in ("__class__", "__name__", "__file__")}
    return result


def _visit(node: ast.AST, bound: frozenset[str], visible: frozenset[str], result: Outside) -> None:
    """Go through a node in which ``bound`` names are bound; functions inside it see only the ``visible`` ones."""
    if isinstance(node, _FUNCTIONS):
        _visit_function(node, bound, visible, result)
    elif isinstance(node, ast.ClassDef):
        _visit_all([*node.decorator_list, *node.bases, *node.keywords], bound, visible, result)
        _visit_all(node.body, bound | _bound(node.body)[0], visible, result)
    elif isinstance(node, _COMPREHENSIONS):
        targets = frozenset(_stored(generator.target for generator in node.generators))
        _visit_all(ast.iter_child_nodes(node), bound | targets, visible | targets, result)
    elif isinstance(node, (ast.Name, ast.Attribute)):
        _visit_chain(node, bound, visible, result)
    elif isinstance(node, ast.AnnAssign):
        _visit_all([node.target, *([node.value] if node.value else [])], bound, visible, result)
    else:
        _note(node, bound, result)
        _visit_all(ast.iter_child_nodes(node), bound, visible, result)


def _visit_all(nodes: Iterable[ast.AST], bound: frozenset[str], visible: frozenset[str], result: Outside) -> None:
    for node in nodes:
        _visit(node, bound, visible, result)


def _visit_function(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
    bound: frozenset[str],
    visible: frozenset[str],
    result: Outside,
) -> None:
    arguments = node.args
    defaults = [*arguments.defaults, *(default for default in arguments.kw_defaults if default is not None)]
    _visit_all([*getattr(node, "decorator_list", []), *defaults], bound, visible, result)
    body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
    names, declared = _bound(body)
    groups = (arguments.posonlyargs, arguments.args, arguments.kwonlyargs, [arguments.vararg, arguments.kwarg])
    parameters = {argument.arg for group in groups for argument in group if argument is not None}
    result.changed |= declared & names
    inner = (visible | names | parameters) - declared
    _visit_all(body, inner, inner, result)


def _visit_chain(
    node: ast.Name | ast.Attribute, bound: frozenset[str], visible: frozenset[str], result: Outside
) -> None:
    attributes: list[str] = []
    base: ast.AST = node
    while isinstance(base, ast.Attribute):
        attributes.append(base.attr)
        base = base.value
    if not isinstance(base, ast.Name):
        _visit(base, bound, visible, result)
    elif base.id not in bound:
        result.chains.add((base.id, *reversed(attributes)))
        if attributes and not isinstance(node.ctx, ast.Load):
            result.changed.add(base.id)


def _note(node: ast.AST, bound: frozenset[str], result: Outside) -> None:
    if isinstance(node, ast.Import):
        result.imports.update((0, alias.name, ()) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        result.imports.add((node.level, node.module or "", tuple(sorted(alias.name for alias in node.names))))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
        if isinstance(node.func.value, ast.Name) and node.func.value.id not in bound:
            result.changed.add(node.func.value.id)
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        base: ast.AST = node
        while isinstance(base, (ast.Subscript, ast.Attribute)):
            base = base.value
        if isinstance(base, ast.Name) and base.id not in bound:
            result.changed.add(base.id)


def _bound(body: Iterable[ast.AST]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that statements bind in their own scope, and those they declare ``global``."""
    names: set[str] = set()
    declared: set[str] = set()
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        names.update(_binds(node))
        if isinstance(node, ast.Global):
            declared.update(node.names)
        if isinstance(node, _COMPREHENSIONS):
            # Their targets are their own; only `:=` inside them binds here.
            waiting.extend(inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
        elif not isinstance(node, _SCOPES):
            waiting.extend(ast.iter_child_nodes(node))
    return frozenset(names), frozenset(declared)


def _binds(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Name):
        return () if isinstance(node.ctx, ast.Load) else (node.id,)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return (node.name,)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    bound = getattr(node, "name", None) or getattr(node, "rest", None)
    return (bound,) if isinstance(bound, str) and not isinstance(node, ast.alias) else ()


def _stored(targets: Iterable[ast.AST]) -> Iterator[str]:
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                yield node.id
