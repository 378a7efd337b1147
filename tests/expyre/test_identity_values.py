# ruff: noqa: E501, UP007, UP045
"""Keys are made of values: equal values have equal keys, different values have different ones."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import math
import operator
import pathlib
import pickle
import re
import threading
import types
import typing
import uuid
from concurrent.futures import Future
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expyre.errors import ConfigError, KeyUnstableError, RequestError
from expyre.identity import Identity, differences, digest, identify, register


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Box:
    width: float
    items: list[Any] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def area(self) -> float:
        return self.width**2


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    a: int
    b: str


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def method(self) -> None: ...


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: Any) -> None:
        self.a = a


class Reduced:
    def __init__(self, a: Any) -> None:
        self._hidden = [a]

    def __reduce__(self) -> Any:
        return (Reduced, (self._hidden[0],))


class MyList(list):  # type: ignore[type-arg]
    pass


class MySet(set):  # type: ignore[type-arg]
    pass


class Addressed:
    def __init__(self) -> None:
        self.label = repr(object())


def f(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def g(*args: Any, **kwargs: Any) -> Any:
    return kwargs, args


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False, max_magnitude=1e6),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([Color.RED, Color.BLUE, Access.READ | Access.WRITE, ..., Point(1, 2), Pair(1, "a")]),
    st.builds(range, st.integers(0, 3), st.integers(0, 3)),
    st.dates(),
    st.fractions(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(scalars, inner, max_size=4),
        st.frozensets(scalars, max_size=4),
        st.builds(Box, st.just(1.0), st.lists(inner, max_size=2)),
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """Return something that is equal only for values of equal types throughout."""
    if isinstance(value, dict):
        items = {typed(key): typed(item) for key, item in value.items()}
        return ("dict", frozenset((key, repr(item)) for key, item in items.items()))
    if isinstance(value, (set, frozenset)):
        return (type(value).__name__, frozenset(map(repr, map(typed, value))))
    if type(value) in (list, tuple):
        return (type(value).__name__, tuple(map(typed, value)))
    if isinstance(value, Box):
        return ("Box", value.width, typed(value.items))
    return (type(value).__name__, repr(value))


@settings(max_examples=60, deadline=None)
@given(values)
def test_copies_have_the_same_digest(value: Any) -> None:
    assert digest(copy.deepcopy(value)) == digest(value)
    assert digest(pickle.loads(pickle.dumps(value, 2))) == digest(value)


@settings(max_examples=60, deadline=None)
@given(values, values)
def test_digests_are_equal_exactly_for_equal_values(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (repr(typed(one)) == repr(typed(other)) or typed(one) == typed(other))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_boundaries_between_strings_count(one: list[str], other: list[str]) -> None:
    assert (digest(one) == digest(other)) == (one == other)
    assert (digest(tuple(one)) == digest(tuple(other))) == (one == other)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(scalars, scalars, max_size=6), st.randoms(use_true_random=False))
def test_order_of_filling_does_not_matter(mapping: dict[Any, Any], random: Any) -> None:
    items = list(mapping.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(mapping)
    assert digest({key for key, _ in items}) == digest(set(mapping))
    strings = {str(key): value for key, value in mapping.items()}
    assert digest(dict(reversed(list(strings.items())))) == digest(strings)


@settings(max_examples=60, deadline=None)
@given(values)
def test_sharing_does_not_matter(value: Any) -> None:
    twin = copy.deepcopy(value)
    assert digest([value, value, {"a": value}]) == digest([value, twin, {"a": copy.deepcopy(value)}])
    one = identify(f, [value, value], {"x": [value]})
    other = identify(f, [value, twin], {"x": [copy.deepcopy(value)]})
    assert one == other


DIFFERENT: list[Any] = [
    None, 0, 1, -1, 2**64, 2**64 + 1, -(2**64), True, False, 1.0, 0.0, -0.0, math.inf, -math.inf, math.nan, 1j, 1 + 0j,
    "", "1", "a", b"", b"1", bytearray(b"1"), memoryview(b"1"), ..., NotImplemented,
    [], (), {}, set(), frozenset(), [1], (1,), {1}, frozenset({1}), {1: None}, {1: 1}, {"1": 1}, {"a": 1}, {"a": "1"},
    [1, 2], (1, 2), [2, 1], [[1], 2], [[1, 2]], [1, [2]], [1.0, 2.0], [1, 2.0], ["1", "2"], [b"1"], [True, False], [True],
    ["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"], [("ab",), "c"], [["a"], ["b"]], [["a", "b"]], [[], []], [[]], [[[]]],
    {"a": {"b": 1}}, {"a": {}, "b": 1}, {"a": None, "b": None}, {"ab": None}, {1: 2, 3: 4}, {1: 4, 3: 2}, {(1, 2): 3}, {(1,): 2},
    {(1, 2)}, {(2, 1)}, {1, 2}, {"1", "2"}, {1.0, 2.0}, {frozenset({1})}, {frozenset()},
    range(3), range(0, 3, 2), slice(3), slice(0, 3), Color.RED, Color.BLUE, Access.READ, Access.WRITE, Access.READ | Access.WRITE,
    Box(1.0), Box(2.0), Box(1.0, [1]), Point(1, 2), Point(2, 1), Pair(1, "a"), Pair(2, "a"), Plain(), Plain(a=1), Plain(b=1),
    Slotted(1), Slotted(2), Reduced(1), Reduced(2), MyList(), MyList([1]), MySet(), MySet({1}),
    pathlib.PurePosixPath("a"), pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("a"),
    datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.datetime(2020, 1, 1, fold=1), datetime.time(1), datetime.timedelta(1), datetime.timedelta(seconds=1),
    decimal.Decimal(1), decimal.Decimal("1.0"), fractions.Fraction(1), uuid.UUID(int=1), re.compile("a"), re.compile("a", re.I),
    re.compile(b"a"), functools.partial(f), functools.partial(f, 1), functools.partial(f, a=1), functools.partial(g, 1),
    f, g, Plain().method, Plain(a=1).method, len, math.sin, math.cos, math, [].append, [1].append, str.upper, str, int, list, Plain,
    Slotted, list[int], list[str], tuple[int, ...], typing.Optional[int], typing.Union[int, str], int | bytes, type,
    collections.OrderedDict(a=1, b=2), collections.OrderedDict([("b", 2), ("a", 1)]), collections.Counter(a=1),
    collections.defaultdict(int, a=1), collections.defaultdict(list, a=1), collections.deque([1]), collections.deque([1], 3),
    types.SimpleNamespace(a=1), types.MappingProxyType({"a": 1}), operator.itemgetter(1), operator.itemgetter("1"),
    operator.attrgetter("a"), io.BytesIO(b"1"), io.StringIO("1"), ValueError("a"), ValueError("b"), KeyError("a"),
    lambda x: x + 1, lambda x: x + 2, lambda x, y=1: x + 1, lambda x, y=2: x + 1,
]  # fmt: skip


def test_different_values_have_different_digests() -> None:
    by_digest: dict[str, Any] = {}
    for value in DIFFERENT:
        assert by_digest.setdefault(digest(value), value) is value


def test_different_arguments_have_different_keys() -> None:
    keys = {identify(f, [value], policy="self").key for value in DIFFERENT}
    keys |= {identify(f, [], {"x": value}, policy="self").key for value in DIFFERENT}
    assert len(keys) == 2 * len(DIFFERENT)


def test_nan_is_nan_and_dicts_with_several_are_stable() -> None:
    assert digest(float("nan")) == digest(math.inf - math.inf) == digest(-math.nan)
    assert digest([1.0, -math.nan]) == digest([1.0, math.nan])
    one, other = float("nan"), float("nan")
    assert digest({one: 1, other: 2}) == digest({other: 2, one: 1}) == digest({one: 2, other: 1})


def test_objects_that_contain_themselves() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    node = Plain(name="a")
    node.me = {"self": [node]}
    for value in (loop, node):
        assert digest(copy.deepcopy(value)) == digest(value)
        assert digest([value, value]) == digest([value, copy.deepcopy(value)])
    other: list[Any] = [2]
    other.append(other)
    assert digest(other) != digest(loop)


def _net(size: int) -> list[Plain]:
    nodes = [Plain(name=str(index)) for index in range(size)]
    for node in nodes:
        node.neighbours = [other for other in nodes if other is not node]
    return nodes


def test_a_net_of_objects_is_written_once_not_along_all_its_paths() -> None:
    nodes = _net(30)
    assert digest(nodes) == digest(_net(30)) == digest(copy.deepcopy(nodes))
    nodes[17].name = "x"
    assert digest(nodes) != digest(_net(30))
    assert digest(_net(6)[0]) == digest([None, _net(6)[0]][1])


def test_cached_properties_are_not_part_of_the_value() -> None:
    fresh, used = Box(2.0), Box(2.0)
    assert used.area == 4.0
    assert digest(used) == digest(fresh)
    used.extra = 1  # type: ignore[attr-defined]
    assert digest(used) != digest(fresh)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([1, {"a": threading.Lock()}], "kwargs['x'][1]['a']"),
        (Plain(inner=Plain(lock=threading.Lock())), "kwargs['x'].inner.lock"),
        (functools.partial(f, 1, k=threading.Lock()), "kwargs['x'].keywords['k']"),
        (Plain(lock=threading.Lock()).method, "kwargs['x'].__self__.lock"),
        ((item for item in [1]), "kwargs['x']"),
        (Addressed(), "kwargs['x'].label"),
        ([Future()], "kwargs['x'][0]"),
        ({threading.Lock(): 1}, "kwargs['x'].keys()"),
        (Box(1.0, [threading.Lock()]), "kwargs['x'].items[0]"),
        ([0] * 20 + [threading.Lock()], "kwargs['x'][20]"),
    ],
)
def test_an_unstable_value_is_named_with_the_way_out(value: Any, where: str) -> None:
    with pytest.raises(KeyUnstableError) as caught:
        identify(f, [], {"x": value})
    message = str(caught.value)
    assert message.startswith(f"{where} (a ")
    assert "hash_ignore=['x']" in message
    assert identify(f, [], {"x": value}, ignore=["x"]) == identify(f, [], {"x": 1}, ignore=["x"])


def test_an_open_file_as_positional_argument_is_named(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "x").open("w") as file, pytest.raises(KeyUnstableError, match=r"args\[1\] .*hash_ignore=\[1\]"):
        identify(f, [1, file])


def test_too_deep_nesting_is_an_error_not_a_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(KeyUnstableError, match="nested too deeply"):
        digest(deep, path="deep")


class Odd:
    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.Lock()


def test_a_registered_type_goes_by_its_stand_in() -> None:
    with pytest.raises(KeyUnstableError):
        digest(Odd(1))
    register(f"{Odd.__module__}:{Odd.__qualname__}", lambda odd: {"size": odd.size})
    assert digest(Odd(1)) == digest(Odd(1)) != digest(Odd(2))
    assert digest(Odd(1)) != digest({"size": 1})
    with pytest.raises(TypeError):
        register("no_colon", str)


def test_arguments_keep_their_places() -> None:
    calls = [((1, 2), {}), ((2, 1), {}), ((1,), {"b": 2}), ((), {"a": 1, "b": 2}), (((1, 2),), {})]
    assert len({identify(f, args, kwargs).key for args, kwargs in calls}) == len(calls)
    assert identify(f, (), {"a": 1, "b": 2}) == identify(f, (), {"b": 2, "a": 1})
    assert identify(f, (1, 2), ignore=[0]) == identify(f, (3, 2), ignore=[0]) != identify(f, (1, 3), ignore=[0])


def test_the_key_has_its_form() -> None:
    identity = identify(f, (1,))
    assert re.fullmatch(r"k1:[A-Za-z0-9_-]{43}=", identity.key)
    assert identity.hash44 == identity.key[3:]
    assert all(re.fullmatch("[0-9a-f]{16}", part.digest) and len(part.summary) <= 120 for part in identity.parts)
    assert Identity.from_json(identity.to_json()) == identity
    with pytest.raises(RequestError):
        Identity.from_json("{}")


def test_parts_stay_few() -> None:
    wide = {str(index): {str(inner): inner for inner in range(30)} for index in range(30)}
    identity = identify(f, [wide] * 20)
    assert len(identity.parts) <= 200
    wide["7"]["7"] = 8
    assert identify(f, [wide] * 20).key != identity.key


def test_differences_name_what_changed() -> None:
    old = identify(f, (1, [1, 2]), {"fmax": 0.05, "calc": (Plain, [], {"sigma": 1.0}), "gone": "x"})
    new = identify(f, (1, [1, 3]), {"fmax": 0.01, "calc": (Plain, [], {"sigma": 2.0}), "new": "y"})
    assert differences(old, old) == []
    assert differences(old, new) == [
        "args[1] changed: [1, 2] -> [1, 3]",
        "kwargs['calc'][2]['sigma'] changed: 1.0 -> 2.0",
        "kwargs['fmax'] changed: 0.05 -> 0.01",
        "kwargs['gone'] removed: 'x'",
        "kwargs['new'] added: 'y'",
    ]


def test_an_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_CODE_HASH", "of")
    with pytest.raises(ConfigError, match="EXPYRE_CODE_HASH is 'of'; it must be one of off, self, reachable"):
        identify(f, (1,))

