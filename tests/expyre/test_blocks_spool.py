"""What workers do in a spool directory, by themselves and against each other."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from expyre.errors import AuthenticationError
from expyre.executor.blocks.answers import read_answer
from expyre.executor.blocks.remote import RemoteSpool
from expyre.executor.blocks.script import Order
from expyre.node import runner
from expyre.node.blocks import spool as names
from expyre.node.blocks.spool import Label, Spool
from expyre.node.serving import messages
from expyre.transports import LocalTransport

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def remote(tmp_path):
    """A spool as a script sees it."""
    spool = RemoteSpool(LocalTransport(), str(tmp_path / "spool"))
    spool.open(None)
    return spool


def call(remote, ticket, value=0, token=1):
    pieces = messages.pack(messages.CALL, token=token, number=ticket, payload=messages.dump(((value,), {})))
    return remote.sign(pieces)


def function(remote, value=abs, token=1):
    return remote.sign(messages.pack(messages.FUNCTION, token=token, payload=messages.dump(value)))


def placed(remote, count, number=1):
    """Place so many calls of abs, whose tickets are 1, 2, …"""
    order = Order(number, calls={i: call(remote, i, -i) for i in range(1, count + 1)})
    order.functions[1] = function(remote)
    return remote.round(order)


WORKER = """
import json, sys
from expyre.node.blocks.worker import main
main(sys.argv[1], json.loads(sys.argv[2]))
"""


def worker(remote, name, **settings):
    """Start a worker in a process of its own."""
    told = {"worker": name, "idle": 600, "lease": 600, "place": {}, **settings}
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.Popen([sys.executable, "-c", WORKER, remote.path, json.dumps(told)], env=env)


def note(remote, name):
    return json.loads((Path(remote.path) / names.WORKERS / name).read_text())


def values(remote, report):
    """Return the values in all results, by ticket."""
    return {
        int(name): read_answer(remote.read(data, name), int(name), "it").value for name, data in report.results.items()
    }


def served(remote, count):
    """Have a worker serve so many calls and end; return the values by ticket."""
    process = worker(remote, "w1")
    found = {}
    while len(found) < count:
        found.update(values(remote, remote.round(Order(2))))
    remote.stop()
    assert process.wait(timeout=100) == 0
    return found


CLAIM = """
import os, sys
from expyre.node.blocks.spool import Spool
spool = Spool(sys.argv[1], sys.argv[2])
sys.stdin.read()
while line := spool.waiting():
    while (label := spool.claim(line)) is not None:
        print(label.ticket)
        if label.ticket % 7 == 0 and not label.seconds:
            spool.give_back(label, 5)
        else:
            spool.begin(label)
"""


def test_of_eight_processes_one_gets_each_call(remote):
    placed(remote, 400)
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, remote.path, f"w{i}"], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for i in range(8)
    ]  # fmt: skip
    for process in processes:
        process.stdin.close()  # all begin at once
    claims = []
    for process in processes:
        claims += map(int, process.stdout.read().split())
        process.stdout.close()
        assert process.wait(timeout=100) == 0
    again = [i for i in range(1, 401) if i % 7 == 0]
    assert sorted(claims) == sorted([*range(1, 401), *again]), "what was given back was claimed once more"
    begun = remote.round(Order(2)).begun
    assert sorted(Label.read(name).ticket for name in begun) == list(range(1, 401))


def test_a_worker_alone_serves_calls_in_the_order_of_submission(remote):
    placed(remote, 30)
    placed_later = {i: call(remote, i) for i in range(31, 41)}
    remote.round(Order(2, calls=placed_later))
    spool = Spool(remote.path, "w1")
    line = spool.waiting()
    assert [spool.claim(line).ticket for _ in range(40)] == list(range(1, 41))


def test_workers_serve_all_calls_once_and_end_when_told_to(remote):
    placed(remote, 60)
    workers = [worker(remote, f"w{i}") for i in range(2)]
    found = {}
    while len(found) < 60:
        report = remote.round(Order(2, seen=list(found)))
        found.update(values(remote, report))
    assert found == {i: i for i in range(1, 61)}
    remote.stop()
    assert [each.wait(timeout=100) for each in workers] == [0, 0]
    assert all(note(remote, f"w{i}")["why"] == "it was told to" for i in range(2))
    assert sum(note(remote, f"w{i}")["served"] for i in range(2)) == 60
    report = remote.round(Order(3, seen=list(found)))
    assert not report.claimed
    assert not report.begun
    assert not report.results


def test_a_worker_without_calls_ends(remote):
    assert worker(remote, "w1", idle=0.2).wait(timeout=100) == 0
    assert note(remote, "w1")["why"] == "there was nothing to do for 0.2 s"


def test_a_worker_that_hears_nothing_of_the_script_takes_no_more_calls(remote):
    placed(remote, 0)
    process = worker(remote, "w1", lease=0.3)
    assert process.wait(timeout=100) == 0
    assert note(remote, "w1")["why"] == "nothing was heard of the script for 0.3 s"


def test_a_worker_ends_when_its_spool_is_gone(remote):
    process = worker(remote, "w1")
    while not (Path(remote.path) / names.WORKERS / "w1").exists():
        assert process.poll() is None
    remote.remove()
    process.wait(timeout=100)
    assert not Path(remote.path).exists()


@pytest.mark.parametrize("damage", ["torn", "of another", "not signed", "of another key", "empty"])
def test_a_worker_unpickles_no_call_that_is_not_from_the_script(remote, damage):
    good = call(remote, 1)
    stranger = RemoteSpool(LocalTransport(), remote.path)
    bad = {
        "torn": good[:-40],
        "of another": call(remote, 2),
        "not signed": b"".join(messages.pack(messages.CALL, token=1, number=1, payload=messages.dump(((0,), {})))),
        "of another key": call(stranger, 1),
        "empty": b"",
    }[damage]
    remote.round(Order(1, calls={1: bad, 3: call(remote, 3, -3)}, functions={1: function(remote)}))
    found = served(remote, 2)
    assert isinstance(found[1], AuthenticationError)
    assert found[3] == 3


def test_a_function_that_is_not_from_the_script_is_not_unpickled(remote):
    stranger = RemoteSpool(LocalTransport(), remote.path)
    remote.round(Order(1, calls={1: call(remote, 1)}, functions={1: function(stranger)}))
    process = worker(remote, "w1")
    while not (found := values(remote, remote.round(Order(2)))):
        continue
    remote.stop()
    assert process.wait(timeout=100) == 0
    assert isinstance(found[1], AuthenticationError)


def test_the_script_unpickles_no_result_that_is_not_from_a_worker(remote):
    spool = Spool(remote.path, "w1")
    good = b"".join(messages.pack(messages.RESULT, number=1, payload=messages.dump("good")))
    spool.leave("000000000001", good)
    results = Path(remote.path) / names.RESULTS
    signed = (results / "000000000001").read_bytes()
    files = {2: signed[:-1], 3: good, 4: runner.sign(good, secrets.token_bytes(32)), 5: b""}
    for ticket, data in files.items():
        (results / names.result_name(ticket)).write_bytes(data)
    (results / names.result_name(6)).write_bytes(signed)  # right, but of another call
    report = remote.round(Order(1))
    assert len(report.results) == 6
    assert read_answer(remote.read(report.results["000000000001"], "1"), 1, "it").value == "good"
    for ticket in files:
        with pytest.raises(AuthenticationError):
            remote.read(report.results[names.result_name(ticket)], "it")
    stolen = read_answer(remote.read(report.results[names.result_name(6)], "6"), 6, "it")
    assert isinstance(stolen.value, AuthenticationError)


def test_calls_are_placed_once_however_often_a_round_is_tried(remote):
    order = Order(1, calls={i: call(remote, i) for i in range(1, 4)})
    remote.round(order)
    spool = Spool(remote.path, "w1")
    for _ in range(3):
        label = spool.claim(spool.waiting())
        assert spool.begin(label)
        spool.finish(label, b"x")
    report = remote.round(order)  # the answer to the first try was lost on its way, say
    assert not spool.waiting()
    assert len(report.results) == 3


def test_a_call_that_is_withdrawn_before_it_is_claimed_is_never_begun(remote):
    placed(remote, 3)
    spool = Spool(remote.path, "w1")
    spool.give_back(spool.claim([each for each in spool.waiting() if each.label.ticket == 3]), 12)
    remote.round(Order(2, withdrawn=[(1, 1), (1, 3)]))
    assert [each.label for each in spool.waiting()] == [Label(2)]


def test_claims_of_workers_that_are_no_more_are_put_back_or_forgotten(remote):
    placed(remote, 2)
    spool = Spool(remote.path, "w1")
    first, second = spool.claim(spool.waiting()[:1]), spool.claim(spool.waiting())
    spool.begin(second)
    report = remote.round(Order(2))
    assert (report.claimed, report.begun) == ([f"{first}@w1"], [f"{second}@w1"])
    report = remote.round(Order(3, returned=report.claimed, forgotten=report.begun))
    assert (report.claimed, report.begun) == ([], [])
    assert [each.label for each in spool.waiting()] == [first]
    assert not spool.begin(first), "the old claim is worth nothing any more"


def test_a_job_that_the_queue_starts_again_settles_what_it_left(remote):
    placed(remote, 2)
    spool = Spool(remote.path, "w1")
    spool.claim(spool.waiting()[:1])
    spool.begin(spool.claim(spool.waiting()))
    found = served(remote, 2)
    assert found[1] == 1, "that had not begun"
    assert "started the worker's job again" in str(found[2])


def test_batches_that_are_empty_go_away(remote):
    placed(remote, 1)
    spool = Spool(remote.path, "w1")
    assert spool.claim(spool.waiting())
    assert (Path(remote.path) / "calls/1").is_dir()
    remote.round(Order(2, spent=[1]))
    assert sorted(os.listdir(Path(remote.path) / "calls")) == [names.BACK]


def test_files_are_for_their_owner_only(remote):
    placed(remote, 1)
    modes = {path.stat().st_mode & 0o077 for path in Path(remote.path).rglob("*")}
    assert modes == {0}
    assert Path(remote.path).stat().st_mode & 0o077 == 0
