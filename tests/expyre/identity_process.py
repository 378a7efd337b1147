# ruff: noqa: E501, UP045
"""Prints digests and keys of many values; run by interpreters of all kinds, which must all print the same."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import math
import operator
import pathlib
import random
import re
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from expyre.identity import digest, identify

CUTOFF = 3.0
NAMES = {"a", "b", "c", "d", "e"}
Old = collections.namedtuple("Old", "x y")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    a: int
    b: str = "x"


@dataclasses.dataclass
class Box:
    """A box."""

    width: float
    items: list[Any] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        return f"{self.width!r:>{CUTOFF}} a" f"b{self.items=}" "c {{}}" + "\N{BULLET}"


class Model:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def run(self) -> Any:
        return helper(1)

    @functools.cached_property
    def slow(self) -> int:
        return 1


def deco(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


@deco
def decorated(*args: Any) -> Any:
    match args:
        case [x, *rest]:
            return memo(x), rest
        case {"k": value, **others}:
            return value, others
    return None


@functools.lru_cache
def memo(x: int) -> list[float]:
    return [i * CUTOFF for i in range(x) if (j := i) or j]


def helper(x: Any, y: int = 2, *, z: Any = None) -> Any:
    """Doc."""
    assert x is not None, "x"
    return math.sin(x) * y + (z or 0)


def call(a: Any, *args: Any, k: Any = None, **kwargs: Any) -> Any:
    """Doc."""
    try:
        with open(a) as file, open(a):
            return [*file], {**kwargs}, Box(1.0), Pair(1), Old(1, 2), decorated(1), Color.RED, NAMES
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{a:{k}}") from error
    finally:
        del a


def make(value: Any) -> Callable[..., Any]:
    return lambda x: (x, value, helper(x), {len(name) for name in NAMES})


def shuffled(items: list[Any]) -> list[Any]:
    random.shuffle(items)
    return items


def plain_values() -> list[Any]:
    loop: list[Any] = [1]
    loop.append({"loop": loop})
    shared = "x" * 5 if random.random() < 0.5 else "".join(["x"] * 5)
    words = [f"word{index}" for index in range(30)]
    return [
        None, True, 1, -1, 2**70, 1.5, -0.0, math.inf, math.nan, 2j, "a", "é\N{SNOWMAN}\ud800", b"a", bytearray(b"a"), ...,
        [1, 2], [1.0, 2.0], ["a", "b"], [1, "a", None], (1, "a"), {}, [], (), set(),
        set(shuffled(list(words))), frozenset(shuffled([1, "a", None, (1, 2), frozenset(words)])), {1.5, 2.5},
        dict(shuffled([(word, len(word)) for word in words])), dict(shuffled([(1, 2), ("a", 3), (None, 4), ((1,), 5)])),
        {"a": shared, "b": shared, "c": [shared, "xxxxx"]}, loop, range(3), slice(1, 2),
        Color.RED, Access.READ | Access.WRITE, Access(0), Level.LOW, Box(1.0, [1]), Pair(1), Old(1, 2),
        Model(name="x", inner=Model(names=set(words))), pathlib.PurePosixPath("a/b"), pathlib.Path("/x"),
        datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc), datetime.date(2020, 1, 2), datetime.timedelta(1.5),
        decimal.Decimal("1.50"), re.compile("a+", re.IGNORECASE), functools.partial(helper, 1, z=2), operator.itemgetter(1, 2),
        helper, call, decorated, memo, make(1), make([1]), make(set(words)), Model(a=1).run, [lambda x: x + 1, lambda x: x + 2],
        math.sin, len, "".join, Box, Model, Color, Pair, Old, int, list[int], Optional[int], int | str, collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]), collections.Counter("abca"), collections.deque([1, 2], 5), types.SimpleNamespace(a=1),
        types.MappingProxyType({"a": 1}), ValueError("x"), random.Random(3), sys.version_info and math, NotImplemented,
    ]  # fmt: skip


def science_values() -> list[Any]:
    import ase
    import numpy as np
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    atoms = ase.Atoms("CuO", positions=np.arange(6.0).reshape(2, 3), cell=[4, 5, 6], pbc=True)
    atoms.info.update(dict(shuffled([("a", 1), ("b", {"x", "y", "z"}), ("c", np.arange(3))])))
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((2, 3)))
    arrays = [np.arange(6).reshape(2, 3), np.arange(6.0), np.array(["a", "bc"]), np.array([{"a", "b", "c"}, None], dtype=object)]
    streams = [np.random.default_rng(1), np.random.RandomState(2), np.random.SeedSequence(5), np.random.PCG64(3)]
    scalars = [np.float64(1), np.float32(1), np.int64(1), np.datetime64("2020-01-01"), np.dtype("f8"), np.dtype("f8,i4"), np.float64]
    return [atoms, EMT(), *arrays, *streams, *scalars, np.sin, np.linalg.norm]


def main(science: bool) -> None:
    results = {f"plain {index}": digest(value) for index, value in enumerate(plain_values())}
    for index, value in enumerate(science_values() if science else []):
        results[f"science {index}"] = digest(value)
    for policy in ("off", "self", "reachable"):
        results[f"call {policy}"] = identify(call, (1, {"b", "a"}), {"k": Box(1.0)}, policy=policy).key
    arguments = (1, [1.0, {"a"}], {"b": (None, {"c": 2})})
    results["call golden"] = identify(math.sin, arguments, {"k": pathlib.PurePosixPath("x")}, policy="reachable").key
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main("science" in sys.argv)
