"""Requests, and the partitions they go to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expyre.errors import RequestError
from expyre.resources import Resources

HOUR = 3600
GB = 1024**2
PARTITIONS: dict[str, dict[str, Any]] = {
    "node16_0": {"num_cores": 16, "max_time": 168 * HOUR, "max_mem": 60 * GB},
    "node36": {"num_cores": 36, "max_time": 168 * HOUR, "max_mem": 180 * GB},
    "node32": {"num_cores": 32, "max_time": 168 * HOUR, "max_mem": 60 * GB},
    "node56": {"num_cores": 56, "max_time": 168 * HOUR, "max_mem": 250 * GB},
    "node72": {"num_cores": 72, "max_time": 168 * HOUR, "max_mem": 250 * GB},
    "node_bigmem": {"num_cores": 16, "max_time": 48 * HOUR, "max_mem": 1024 * GB},
    "node_bigmem_72": {"num_cores": 72, "max_time": None, "max_mem": 2048 * GB},
}


def whole(num_nodes: int, cores: int) -> dict[str, int]:
    return {"num_nodes": num_nodes, "num_cores": num_nodes * cores, "num_cores_per_node": cores}


@pytest.mark.parametrize(
    ("request_", "fit", "partition", "nodes"),
    [
        ({"num_cores": 16}, {}, "node16_0", whole(1, 16)),
        ({"num_cores": 32}, {}, "node16_0", whole(2, 16)),
        ({"num_cores": 36}, {}, "node36", whole(1, 36)),
        ({"num_cores": 17}, {"exact_fit": False}, "node16_0", whole(2, 16)),
        ({"num_cores": 71}, {"exact_fit": False}, "node36", whole(2, 36)),
        ({"num_nodes": 1}, {}, "node16_0", whole(1, 16)),
        ({"num_nodes": 1, "partitions": "node_bigmem"}, {}, "node_bigmem", whole(1, 16)),
        ({"num_nodes": 1, "queues": "node_bigmem"}, {}, "node_bigmem", whole(1, 16)),
        ({"num_nodes": 1, "partitions": "node_bigmem_72"}, {}, "node_bigmem_72", whole(1, 72)),
        ({"num_nodes": 1, "partitions": ["none", "node5.|x"]}, {}, "node56", whole(1, 56)),
        ({"num_nodes": 1, "max_mem_per_core": "17gb"}, {}, "node_bigmem", whole(1, 16)),
        ({"num_nodes": 2, "max_mem_tot": "121gb"}, {}, "node36", whole(2, 36)),
        ({"num_cores": 7}, {"partial_node": True}, "node16_0", whole(1, 7)),
        ({"num_cores": 40}, {"partial_node": True}, "node56", whole(1, 40)),
        ({"num_nodes": 2}, {"partial_node": True}, "node16_0", whole(2, 16)),
        ({"num_nodes": 1, "max_time": "8d"}, {}, "node_bigmem_72", whole(1, 72)),
        ({"num_nodes": 1, "max_time": None}, {}, "node16_0", whole(1, 16)),
    ],
)
def test_choice(request_: dict[str, Any], fit: dict[str, bool], partition: str, nodes: dict[str, int]) -> None:
    assert Resources(**{"max_time": "1h", **request_}).find_nodes(PARTITIONS, **fit) == (partition, nodes)


def test_17_cores_fill_no_nodes() -> None:
    with pytest.raises(RuntimeError, match="17 cores do not fill its 16-core nodes"):
        Resources("1h", num_cores=17).find_nodes(PARTITIONS)


def test_a_partial_node_is_found_where_one_is_large_enough() -> None:
    """The partition with the fewest unused cores, two nodes of 36, cannot give 70 cores of one node."""
    partitions = {"a": {"num_cores": 36, "max_time": None, "max_mem": None}, "b": PARTITIONS["node72"]}
    assert Resources(60, num_cores=70).find_nodes(partitions, partial_node=True)[0] == "b"
    with pytest.raises(ValueError, match="not a part of one of its 36-core nodes"):
        Resources(60, num_cores=100).find_nodes(partitions, partial_node=True)


def test_gpus_are_matched_and_handed_on() -> None:
    node = {"num_cores": 16, "max_time": None, "max_mem": None}
    partitions = {"cpu": node, "gpu2": {**node, "num_gpus": 2}, "gpu4": {**node, "num_gpus": 4}}
    assert Resources(60, num_nodes=1, num_gpus=3).find_nodes(partitions) == ("gpu4", {**whole(1, 16), "num_gpus": 3})
    assert Resources(60, num_nodes=1).find_nodes(partitions) == ("cpu", whole(1, 16))
    with pytest.raises(RuntimeError) as error:
        Resources(60, num_nodes=1, num_gpus=5).find_nodes(partitions)
    assert "cpu: it has no GPUs" in str(error.value)
    assert "gpu4: 5 GPUs per node are more than its 4" in str(error.value)


def test_regexps_match_the_whole_name() -> None:
    partitions = dict.fromkeys(["a1", "b", "xb"], PARTITIONS["node36"])
    assert Resources(60, num_nodes=1, partitions="x|b").find_nodes(partitions)[0] == "b"
    with pytest.raises(RuntimeError, match="matches none"):
        Resources(60, num_nodes=1, partitions="a|z").find_nodes(partitions)


def test_when_nothing_fits_each_partition_says_why() -> None:
    partitions = {name: PARTITIONS[name] for name in ("node16_0", "node_bigmem", "node_bigmem_72")}
    with pytest.raises(RequestError) as error:
        Resources("10d", num_cores=17, max_mem_tot="500GB", partitions="node.*", num_gpus=1).find_nodes(partitions)
    text = str(error.value)
    first, second, third = (next(x for x in text.splitlines() if x.strip().startswith(f"{p}:")) for p in partitions)
    assert "max_time 240:00:00 is over its limit 168:00:00" in first
    assert "max_mem_tot 500GB is over the 120GB of 2 of its nodes" in first
    assert "limit 48:00:00" in second
    assert "limit" not in third
    assert text.endswith(
        "Nearest is 'node_bigmem_72': it would fit with num_cores=72 or exact_fit=False, "
        "num_gpus of the partition set in config.json."
    )


@pytest.mark.parametrize("partitions", [None, {}])
def test_a_system_without_partitions(partitions: dict[str, Any] | None) -> None:
    with pytest.raises(RuntimeError, match="the system has no partitions"):
        Resources(60, num_nodes=1).find_nodes(partitions)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "neither num_nodes nor num_cores"),
        ({"num_nodes": 1, "num_cores": 1}, "num_nodes=1 and num_cores=1 were given"),
        ({"num_nodes": 1.0}, "num_nodes: 1.0 is not an integer"),
        ({"num_cores": 0}, "num_cores: 0 is not an integer of at least 1"),
        ({"num_cores": True}, "num_cores: True is not an integer"),
        ({"num_nodes": 1, "max_mem_tot": 1, "max_mem_per_core": 1}, "max_mem_tot=1 and max_mem_per_core=1"),
        ({"num_nodes": 1, "max_mem_tot": "5"}, "max_mem_tot: cannot read '5'"),
        ({"num_nodes": 1, "partitions": "a", "queues": "a"}, "partitions='a' and queues='a'"),
        ({"num_nodes": 1, "partitions": "("}, "is not a regular expression"),
        ({"num_nodes": 1, "partitions": 3}, "neither a regular expression nor a list"),
        ({"num_nodes": 1, "queues": []}, "queues: the list is empty"),
        ({"num_nodes": 1, "num_gpus": -1}, "num_gpus: -1"),
        ({"num_nodes": 1, "max_time": "1 week"}, "max_time: cannot read '1 week'"),
        ({"num_nodes": 1, "max_time": -5}, "max_time: -5 is less than 0"),
    ],
)
def test_mistakes(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="cannot be asked for") as error:
        Resources(**{"max_time": 60, **kwargs})
    assert message in str(error.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(RequestError) as error:
        Resources("soon", num_nodes=0, num_cores=1, max_mem_tot="much", partitions="*", num_gpus="two")  # type: ignore[arg-type]
    assert len(str(error.value).splitlines()) == 1 + 6


def test_attributes_and_text() -> None:
    resources = Resources("1:00:00", num_cores=4, max_mem_per_core="2gb", queues="a")
    assert (resources.max_time, resources.n, resources.max_mem) == (HOUR, (4, "cores"), (2 * GB, "per_core"))
    assert resources.partitions == ["a"]
    assert str(resources) == "time=3600 n=(4, 'cores') mem=(2097152, 'per_core') partitions=['a']"
    assert resources.total_mem({"num_cores": 16}) == 32 * GB


REQUESTS = st.fixed_dictionaries(
    {"max_time": st.none() | st.integers(0, 10**6)},
    optional={"partitions": st.lists(st.sampled_from(["a", "b.*"]), min_size=1), "num_gpus": st.integers(0, 8)},
).flatmap(
    lambda common: st.builds(
        lambda n, mem: common | n | mem,
        st.sampled_from(["num_nodes", "num_cores"]).flatmap(lambda k: st.fixed_dictionaries({k: st.integers(1, 500)})),
        st.just({})
        | st.sampled_from(["max_mem_tot", "max_mem_per_core"]).flatmap(
            lambda k: st.fixed_dictionaries({k: st.integers(0, 2**40)})
        ),
    )
)


@given(REQUESTS)
def test_to_dict_makes_the_same_again(kwargs: dict[str, Any]) -> None:
    resources = Resources(**kwargs)
    again = Resources(**resources.to_dict())
    assert resources.to_dict() == kwargs
    assert (str(again), again.n, again.max_mem) == (str(resources), resources.n, resources.max_mem)
    assert eval(repr(resources), {"Resources": Resources}).to_dict() == kwargs


@given(REQUESTS, st.floats(1, 10), st.floats(1, 10))
def test_scaling_never_gives_less(kwargs: dict[str, Any], time: float, mem: float) -> None:
    old, new = Resources(**kwargs), Resources(**kwargs).scaled(time, mem)
    assert (new.max_time is None) == (old.max_time is None)
    assert (new.max_time or 0) >= (old.max_time or 0)
    assert new.n == old.n
    assert (new.max_mem or (0,))[0] >= (old.max_mem or (0,))[0]


NODES = st.fixed_dictionaries(
    {
        "num_cores": st.integers(1, 128),
        "max_time": st.none() | st.integers(1, 10**6),
        "max_mem": st.none() | st.integers(1, 2**32),
        "num_gpus": st.integers(0, 8),
    }
)


@given(REQUESTS, st.dictionaries(st.sampled_from(["a", "b", "bb", "c"]), NODES), st.booleans(), st.booleans())
def test_the_choice_gives_what_was_asked_for(
    kwargs: dict[str, Any], partitions: dict[str, dict[str, Any]], exact_fit: bool, partial_node: bool
) -> None:
    resources = Resources(**kwargs)
    try:
        name, nodes = resources.find_nodes(partitions, exact_fit, partial_node)
    except RequestError as error:
        text = str(error)
        assert all(f"  {name}: " in text for name in partitions)
        return
    assert nodes["num_cores"] == nodes["num_nodes"] * nodes["num_cores_per_node"]
    assert nodes["num_cores_per_node"] <= partitions[name]["num_cores"]
    count, unit = resources.n
    assert nodes["num_nodes"] == count if unit == "nodes" else nodes["num_cores"] >= count
    if unit == "cores" and (exact_fit or partial_node):
        assert nodes["num_cores"] == count
