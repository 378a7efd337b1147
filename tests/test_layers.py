"""Imports run downwards only, through the floors of the house as they are listed here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A module imports from its own floor or from those before it.
EXPYRE = (
    "errors",
    "owners",
    "steps",
    "states",
    "units",
    "patience",
    "identity",
    "resources",
    "retry",
    "jobsdb",
    "node",
    "pickles",
    "stage",
    "transports",
    "util",
    "subprocess",
    "schedulers",
    "system",
    "config",
    "progress",
    "calls",
    "plan",
    "checkup",
    "launch",
    "starting",
    "outcome",
    "gather",
    "func",
    "executor",
    "__init__",
    "cli",
)
WFL = (
    "__init__",
    "configset",
    "autoparallelize",
    "utils",
    "map",
    "calculators",
    "generate",
    "select",
    "descriptors",
    "fit",
    "cli",
)
FLOORS = tuple(f"expyre.{name}" for name in EXPYRE) + tuple(f"wfl.{name}" for name in WFL)

# Imports inside functions that go upwards all the same, as (file, floor); better none.
UPWARD_IN_FUNCTIONS: frozenset[tuple[str, str]] = frozenset()

MODULES = sorted((*ROOT.glob("expyre/**/*.py"), *ROOT.glob("wfl/**/*.py")))


def floor_of(module: str) -> str:
    """Return the floor of a dotted name: its first two parts, or that of the package's own file."""
    parts = module.split(".")
    floor = ".".join(parts[:2])
    return floor if len(parts) > 1 and exists(floor) else f"{parts[0]}.__init__"


def exists(floor: str) -> bool:
    path = ROOT / floor.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_for_checkers_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST, path: Path, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield every module that is imported when the program runs, and whether it is inside of a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, in_function) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = absolute(child, path)
            yield from ((f"{base}.{alias.name}" if "." not in base else base, in_function) for alias in child.names)
        elif not is_for_checkers_only(child):
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(child, path, in_function or function)


def absolute(node: ast.ImportFrom, path: Path) -> str:
    package = path.relative_to(ROOT).parent.parts
    base = package[: len(package) - node.level + 1] if node.level else ()
    return ".".join([*base, *([node.module] if node.module else [])])


def own_imports(path: Path) -> Iterator[tuple[str, bool]]:
    for module, in_function in imports(ast.parse(path.read_text()), path):
        if module.split(".")[0] in ("expyre", "wfl"):
            yield floor_of(module), in_function


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_downwards(path: Path) -> None:
    floor = floor_of(name_of(path))
    assert floor in FLOORS, f"say in this test on which floor {floor} is"
    here = str(path.relative_to(ROOT))
    upward = {
        target
        for target, in_function in own_imports(path)
        if FLOORS.index(target) > FLOORS.index(floor) and not (in_function and (here, target) in UPWARD_IN_FUNCTIONS)
        if not (in_function and floor.endswith("__init__"))  # a package's own file offers what is inside, lazily
    }
    assert not upward, f"{here} imports upwards, from {', '.join(sorted(upward))}"


def test_what_runs_on_the_node_stands_alone() -> None:
    allowed = {*sys.stdlib_module_names, "cloudpickle", "mpi4py"}
    for path in ROOT.glob("expyre/node/**/*.py"):
        for module, _ in imports(ast.parse(path.read_text()), path):
            inside = module.startswith("expyre.node")
            assert inside or module.split(".")[0] in allowed, f"{path.name} imports {module}"


def test_the_list_of_exceptions_is_not_out_of_date() -> None:
    for here, target in UPWARD_IN_FUNCTIONS:
        assert (target, True) in set(own_imports(ROOT / here)), f"{here} does not import {target} any more"
