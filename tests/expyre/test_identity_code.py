# ruff: noqa: E501
"""Code is in the key: what a function says, what it reaches, and nothing that does not matter."""

from __future__ import annotations

import importlib
import linecache
import os
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from expyre.errors import KeyUnstableError
from expyre.identity import Identity, differences, digest, identify

Load = Callable[..., types.ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Write modules given as ``name=source`` and import the first afresh."""
    monkeypatch.syspath_prepend(tmp_path)
    written: set[str] = set()

    def write_and_import(**sources: str) -> types.ModuleType:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
            written.add(name)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        return importlib.import_module(next(iter(sources)))

    before = sys.dont_write_bytecode
    yield write_and_import
    sys.dont_write_bytecode = before
    for name in written:
        sys.modules.pop(name, None)


def _paths(identity: Identity) -> set[str]:
    return {part.path for part in identity.parts}


FUNCTION = """
    import math

    CUTOFF = 3.0

    def helper(x, scale=2):
        return math.sin(x) * scale

    def f(x):
        return helper(x) + CUTOFF
"""


def test_comments_docstrings_and_blank_lines_do_not_matter(load: Load) -> None:
    key = identify(load(mymod_a=FUNCTION).f, (1,)).key
    same = FUNCTION.replace("def f(x):", '# new\n\n\n    def f(x):\n        """Doc."""\n        # comment\n')
    same = same.replace("def helper(x, scale=2):", "def helper(x,\n               scale=2):\n        'doc'\n        pass\n")
    assert identify(load(mymod_a=same).f, (1,)).key == key
    unrelated = FUNCTION + "\n    def other(): return 7\n"
    assert identify(load(mymod_a=unrelated).f, (1,)).key == key


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("math.sin", "math.cos", "code of mymod_b.helper changed"),
        ("scale=2", "scale=3", "code of mymod_b.helper changed"),
        ("= 3.0", "= 4.0", "constant mymod_b.CUTOFF changed: 3.0 -> 4.0"),
        ("helper(x) +", "helper(x) -", "code of mymod_b.f changed"),
    ],
)
def test_a_change_of_code_is_seen_and_named(load: Load, old: str, new: str, line: str) -> None:
    first = load(mymod_b=FUNCTION).f
    before = {policy: identify(first, (1,), policy=policy) for policy in ("off", "self", "reachable")}
    second = load(mymod_b=FUNCTION.replace(old, new)).f
    after = {policy: identify(second, (1,), policy=policy) for policy in before}
    assert line in differences(before["reachable"], after["reachable"])
    assert before["off"] == after["off"]
    assert (before["self"].key == after["self"].key) == ("mymod_b.f " not in line)


def test_what_is_reached_through_modules_classes_closures_and_decorators(load: Load) -> None:
    main = """
        import functools
        import mymod_h as helpers
        from mymod_h import Base, table

        def deco(function):
            @functools.wraps(function)
            def inner(*args):
                return function(*args)
            return inner

        class Model(Base):
            def run(self):
                return helpers.deep.by_attribute()

        @deco
        def f(x):
            import mymod_l
            return Model().run(), [table[k](x) for k in table]
    """
    helpers = """
        import mymod_d as deep

        def in_table(x):
            return x + 1

        class Base:
            def start(self):
                return from_base()

        def from_base():
            return 1

        table = {"a": in_table}
    """
    sources = {
        "mymod_c": main,
        "mymod_h": helpers,
        "mymod_d": "def by_attribute(): return 2",
        "mymod_l": "def late(): return 3",
    }
    before = identify(load(**sources).f, (1,))
    for name, old, expected in [
        ("mymod_d", "2", "code of mymod_d.by_attribute changed"),
        ("mymod_h", "return 1", "code of mymod_h.from_base changed"),
        ("mymod_h", "x + 1", "code of mymod_h.in_table changed"),
        ("mymod_l", "3", "code of mymod_l changed"),
        ("mymod_c", "function(*args)", "code of mymod_c.deco changed"),
        ("mymod_c", "Model().run()", "code of mymod_c.f"),
    ]:
        changed = {**sources, name: sources[name].replace(old, f"{old} + 40")}
        importlib.import_module("mymod_l")
        lines = differences(before, identify(load(**changed).f, (1,)))
        assert any(line.startswith(expected) for line in lines), (name, old, lines)
        from expyre.identity import packages

        packages.find_spec.cache_clear()
    assert identify(load(**sources).f, (1,)) == before


def test_whether_a_lazily_imported_module_is_loaded_does_not_matter(load: Load) -> None:
    sources = {"mymod_e": "def f():\n    import mymod_lazy\n    return mymod_lazy.x\n", "mymod_lazy": "x = 1\n"}
    before = identify(load(**sources).f)
    assert "code:mymod_lazy" in _paths(before)
    assert "mymod_lazy" not in sys.modules
    importlib.import_module("mymod_lazy")
    assert identify(load(mymod_e=sources["mymod_e"]).f) == before


def test_installed_packages_go_by_version_and_ours_too() -> None:
    import yaml

    import expyre.identity.model as ours

    assert {"package:yaml"} == {path for path in _paths(identify(yaml.safe_load, ("x",))) if ":" in path}
    found = identify(ours.differences, (1, 2))
    assert {path for path in _paths(found) if ":" in path} == {"package:expyre"}
    assert not [path for path in _paths(identify(textwrap.dedent, ("x",))) if ":" in path]


def test_a_constant_that_the_code_changes_is_state(load: Load) -> None:
    source = """
        CACHE = {}
        COUNT = 0
        SEEN = []
        def f(x):
            global COUNT
            COUNT += 1
            SEEN.append(x)
            CACHE[x] = COUNT
            return CACHE[x], g()
        def g():
            return COUNT, CACHE
    """
    module = load(mymod_g=source)
    before = identify(module.f, (1,))
    module.f(1)
    assert identify(module.f, (1,)) == before


def test_a_changed_constant_is_noticed_at_once(load: Load) -> None:
    module = load(mymod_i="LIST = [1]\nN = 1\ndef f(): return LIST, N\ndef g(): return f()\n")
    keys = [identify(module.g).key, identify(module.g).key]
    module.LIST.append(2)
    keys.append(identify(module.g).key)
    module.N = 2
    keys.append(identify(module.g).key)
    module.f = lambda: 5
    keys.append(identify(module.g).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_a_constant_without_stable_value_counts_by_its_type(load: Load) -> None:
    module = load(mymod_j="import threading\nLOCK = threading.Lock()\ndef f():\n    with LOCK: return 1\n")
    part = next(part for part in identify(module.f).parts if part.path == "const:mymod_j.LOCK")
    assert part.summary == "lock (not by value)"
    assert identify(load(mymod_j=(Path(module.__file__ or "").read_text())).f) == identify(module.f)


def test_a_function_may_be_closed_over_a_lock_but_an_argument_may_not() -> None:
    import threading

    lock = threading.Lock()

    def f() -> Any:
        return lock

    assert identify(f) == identify(f)
    with pytest.raises(KeyUnstableError, match=r"args\[0\]\.__closure__\['lock'\]"):
        identify(digest, (f,))


def test_closures_and_defaults_go_by_value() -> None:
    def make(value: Any, other: Any = None) -> Callable[[], Any]:
        def inner(x: Any = other) -> Any:
            return value, x

        return inner

    assert digest(make(1)) == digest(make(1))
    assert len({digest(make(*args)) for args in ((1,), (2,), ([1],), ([2],), (1, 2), (1, [2]), (1, [3]))}) == 7
    for policy in ("off", "self"):
        assert digest(make(1), policy=policy) != digest(make(2), policy=policy)


def test_lambdas_on_one_line_are_told_apart() -> None:
    k = 1
    pair = [lambda x: x + 1, lambda x: x + 2, lambda x: x - 1, lambda x: x + k, lambda x, y: x, lambda x, *, y: x]
    assert len({digest(one) for one in pair}) == len(pair)
    assert len({digest(one, policy="off") for one in pair}) == len(pair)
    assert identify(digest, (pair[0],)).key != identify(digest, (pair[1],)).key


def test_recursive_functions() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert digest([even, odd]) == digest([even, odd]) != digest([odd, even])


CLASS = """
    from functools import cached_property

    STEP = 1

    class A:
        '''Doc.'''
        size = STEP
        def go(self):
            return self.size
        @property
        def half(self):
            return self.go() / 2
        @staticmethod
        def fixed():
            return 1

    class B(A):
        pass
"""


@pytest.mark.parametrize(
    ("old", "new"), [("self.go() / 2", "self.go() / 3"), ("STEP = 1", "STEP = 2"), ("return 1", "return 2"), ("size = STEP", "size = 1")]
)
def test_the_code_of_an_objects_class_is_in_the_key(load: Load, old: str, new: str) -> None:
    keys = []
    for source in (CLASS, CLASS.replace("'''Doc.'''", "# none"), CLASS.replace(old, new)):
        module = load(mymod_k=source)
        keys.append((identify(digest, (module.B(),)).key, identify(digest, (module.B,)).key))
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[2][0]
    assert keys[0][1] != keys[2][1]


def test_a_method_put_into_a_class_later_is_seen(load: Load) -> None:
    module = load(mymod_n=CLASS + "\n    def extra(self): return 1\n    def other(self): return 2\n")
    before = digest(module.A())
    module.A.go = module.extra
    first = digest(module.A())
    module.A.go = module.other
    assert len({before, first, digest(module.A())}) == 3


def test_notebook_cells_go_by_their_text() -> None:
    def cell(text: str, number: int) -> dict[str, Any]:
        name = f"<ipython-input-{number}-abc>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), names)
        return names

    texts = ["def f(x):\n    return x + 1\n", "\n\n# c\ndef f(x):\n    'doc'\n    return x + 1\n", "def f(x):\n    return x + 2\n"]
    cells = [cell(text, number) for number, text in enumerate(texts)]
    keys = [identify(names["f"], (1,)).key for names in cells]
    assert keys[0] == keys[1] != keys[2]
    classes = [cell(f"class C:\n    def m(self):\n        return {n}\n", 10 + n)["C"] for n in (1, 1, 2)]
    digests = [digest(cls()) for cls in classes]
    assert digests[0] == digests[1] != digests[2]


def test_code_without_source_goes_by_bytecode_and_says_so() -> None:
    def make(text: str) -> Any:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(text, names)
        return names["f"]

    text = "def g(x): return x in {'a', 'b', 'c'}\ndef f(x): return g(x)\n"
    found = identify(make(text), (1,))
    assert found == identify(make(text), (1,))
    assert any("bytecode" in part.summary for part in found.parts)
    assert identify(make(text.replace("'c'", "'d'")), (1,)).key != found.key
    assert identify(make(text.replace("g(x)\n", "g(x) + 1\n")), (1,)).key != found.key


def test_a_reloaded_module_is_seen_and_the_second_look_is_quick(load: Load) -> None:
    module = load(mymod_m="def h(): return 1\ndef f(): return h()\n")
    before = identify(module.f)
    assert identify(module.f) == before
    Path(module.__file__ or "").write_text("def h(): return 222\ndef f(): return h()\n")
    os.utime(module.__file__ or "", (1, 1))
    importlib.reload(module)
    assert differences(before, identify(module.f)) == ["code of mymod_m.h changed"]
