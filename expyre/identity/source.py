"""Where the source of a function, a class or a module is, and what it says.

Source is looked up by name and line of the code that runs, in the file or, for notebooks and interactive sessions, in
what :mod:`linecache` knows. Where there is none, the bytecode has to do.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import linecache
import os
import tokenize
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from expyre.identity.syntax import Outside, digest_of, outside


@dataclass(frozen=True)
class CodeText:
    """What a piece of code says.

    Attributes
    ----------
    digest
        Digest of its canonical form.
    outside
        What it takes from outside.
    bytecode
        Whether there was no source, so that the digest is one of bytecode (and another Python gives another).
    lines
        First and last line, ``(0, 0)`` if unknown.
    filename
        Where it is.
    """

    digest: bytes
    outside: Outside
    bytecode: bool = False
    lines: tuple[int, int] = (0, 0)
    filename: str = ""


@dataclass
class SourceFile:
    """A parsed file, with its functions by first line and name and its classes by qualified name."""

    filename: str
    tree: ast.Module
    functions: dict[tuple[int, str], list[ast.AST]] = field(default_factory=dict)
    classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)
    _texts: dict[int, CodeText] = field(default_factory=dict)

    def text(self, node: ast.AST) -> CodeText:
        """Return what a node of this file says."""
        found = self._texts.get(id(node))
        if found is None:
            lines = (first_line(node), getattr(node, "end_lineno", None) or 0)
            found = CodeText(digest_of(node), outside(node), lines=lines, filename=self.filename)
            self._texts[id(node)] = found
        return found


def first_line(node: ast.AST) -> int:
    """Return the line a definition starts on, which is that of its first decorator."""
    decorators = getattr(node, "decorator_list", None) or []
    lines: list[int] = [decorator.lineno for decorator in decorators]
    return min([getattr(node, "lineno", 0), *lines])


def _index(node: ast.AST, prefix: str, file: SourceFile) -> None:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            name = getattr(child, "name", "<lambda>")
            file.functions.setdefault((first_line(child), name), []).append(child)
            inner = f"{prefix}{name}.<locals>."
        elif isinstance(child, ast.ClassDef):
            file.classes.setdefault(f"{prefix}{child.name}", []).append(child)
            inner = f"{prefix}{child.name}."
        _index(child, inner, file)


# ---- files

_files: dict[str, tuple[Any, SourceFile | None]] = {}


def source_file(filename: str, module: types.ModuleType | None = None) -> SourceFile | None:
    """Return a parsed file, None if there is no such source or it cannot be parsed."""
    path = _locate(filename, module)
    stamp, read = _stamp(path, module)
    known = _files.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    file = None if stamp is None else _parse(path, read)
    _files[path] = (stamp, file)
    return file


def _locate(filename: str, module: types.ModuleType | None) -> str:
    """Return the full name of a script that was given by its relative name."""
    full = getattr(module, "__file__", None)
    if full and not os.path.isabs(filename) and os.path.basename(full) == os.path.basename(filename):
        return str(full)
    return filename


def _stamp(path: str, module: types.ModuleType | None) -> tuple[Any, str | None]:
    """Return what changes when the source changes, and the source if it is not in a file."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        lines = linecache.getlines(path, getattr(module, "__dict__", None))
        text = "".join(lines)
        return (text or None), text
    return (info.st_mtime_ns, info.st_size, info.st_ino), None


def _parse(path: str, text: str | None) -> SourceFile | None:
    try:
        if text is None:
            with tokenize.open(path) as stream:
                text = stream.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = SourceFile(path, ast.parse(text))
            _index(file.tree, "", file)
            return file
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


# ---- functions


def text_of_function(code: types.CodeType, module: types.ModuleType | None) -> CodeText:
    """Return what a function's code says."""
    file = source_file(code.co_filename, module)
    node = None if file is None else _function_node(file, code)
    if file is None or node is None:
        return CodeText(_bytecode_digest(code), Outside({(name,) for name in _global_names(code)}), bytecode=True)
    return file.text(node)


def _function_node(file: SourceFile, code: types.CodeType) -> ast.AST | None:
    nodes = file.functions.get((code.co_firstlineno, code.co_name), [])
    nodes = [node for node in nodes if _fits(node, code)]
    return nodes[0] if len(nodes) == 1 else _tell_apart(file, nodes, code)


def _fits(node: Any, code: types.CodeType) -> bool:
    arguments = node.args
    counts = (len(arguments.posonlyargs) + len(arguments.args), len(arguments.kwonlyargs))
    return counts == (code.co_argcount, code.co_kwonlyargcount)


def _tell_apart(file: SourceFile, nodes: list[ast.AST], code: types.CodeType) -> ast.AST | None:
    """Return which of several functions on one line has this code: compile the file with a line for each."""
    if not nodes:
        return None
    marks = {1_000_000_000 + index: node for index, node in enumerate(nodes)}
    before = [(node.lineno, node.end_lineno) for node in nodes]  # type: ignore[attr-defined]
    try:
        for mark, node in marks.items():
            node.lineno = node.end_lineno = mark  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = compile(file.tree, file.filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    finally:
        for node, (line, end) in zip(nodes, before, strict=True):
            node.lineno, node.end_lineno = line, end  # type: ignore[attr-defined]
    found = (inner for inner in _inner_codes(whole) if inner.co_firstlineno in marks and _same_code(inner, code))
    return next((marks[inner.co_firstlineno] for inner in found), None)


def _inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield item
            yield from _inner_codes(item)


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    return _bytecode_digest(one) == _bytecode_digest(other)


# ---- bytecode

_NAMES: Final = ("co_name", "co_names", "co_varnames", "co_freevars", "co_cellvars")
_COUNTS: Final = ("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags")


def _bytecode_digest(code: types.CodeType) -> bytes:
    named = [getattr(code, name) for name in (*_NAMES, *_COUNTS)]
    consts = [_constant(item) for item in code.co_consts]
    return hashlib.sha256(repr((named, consts, code.co_code)).encode("utf-8", "surrogatepass")).digest()


def _constant(item: Any) -> str:
    if isinstance(item, types.CodeType):
        return _bytecode_digest(item).hex()
    if isinstance(item, frozenset):
        return f"frozenset{sorted(map(_constant, item))}"
    if isinstance(item, tuple):
        return f"tuple{list(map(_constant, item))}"
    return f"{type(item).__name__} {item!r}" if type(item) is not int else f"int {item:x}"


def _global_names(code: types.CodeType) -> set[str]:
    names = {
        str(step.argval)
        for step in dis.get_instructions(code)
        if step.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"))
    }
    names.update(code.co_freevars)
    for inner in _inner_codes(code):
        names |= _global_names(inner)
    return names


# ---- classes and modules


def text_of_class(cls: type, module: types.ModuleType | None) -> CodeText | None:
    """Return what a class's definition says, None if its source is not to be found."""
    codes = [function.__code__ for function in methods(cls).values()]
    names = [code.co_filename for code in codes if not code.co_filename.startswith("<string>")]
    names.append(str(getattr(module, "__file__", None) or ""))
    for filename in dict.fromkeys(filter(None, names)):
        file = source_file(filename, module)
        node = None if file is None else _class_node(file, cls, codes)
        if file is not None and node is not None:
            return file.text(node)
    return None


def _class_node(file: SourceFile, cls: type, codes: list[types.CodeType]) -> ast.ClassDef | None:
    nodes = file.classes.get(cls.__qualname__, [])
    lines = {code.co_firstlineno for code in codes if code.co_filename == file.filename}
    lines.add(getattr(cls, "__firstlineno__", 0))
    for node in nodes:
        if any(first_line(node) <= line <= (node.end_lineno or 0) for line in lines):
            return node
    return nodes[-1] if nodes else None


def methods(cls: type) -> dict[str, types.FunctionType]:
    """Return the functions that a class defines itself, also those inside properties and static and class methods."""
    found: dict[str, types.FunctionType] = {}
    for name, item in list(vars(cls).items()):
        function = getattr(item, "__func__", None) or getattr(item, "fget", None) or getattr(item, "func", None) or item
        if isinstance(function, types.FunctionType):
            found[name] = function
    return found


def text_of_module(filename: str | None) -> CodeText | None:
    """Return what a whole file says, None if it is not source."""
    file = source_file(filename) if filename else None
    return None if file is None else file.text(file.tree)
