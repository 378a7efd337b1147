"""Who knocks at an executor's door has to know its secret, and disturbs nobody otherwise."""

from __future__ import annotations

import os
import resource
import select
import socket
import stat
import threading

import pytest

from expyre.node.serving import handshake
from expyre.node.serving.door import Door


@pytest.fixture(params=[None, "localhost"], ids=["path", "port"])
def door(request):
    found = Door(request.param)
    yield found
    found.close()


class Guests:
    """Whoever was let in."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.here: list[tuple[int, int]] = []
        self.came = threading.Event()
        self.socks: list[socket.socket] = []

    def welcome(self, worker: int, rank: int, sock: socket.socket) -> None:
        self.here.append((worker, rank))
        self.socks.append(sock)
        self.came.set()

    def knock(self) -> socket.socket:
        sock = socket.socket(self.door.sock.family)
        sock.settimeout(20)
        address = self.door.address
        sock.connect(address if isinstance(address, str) else tuple(address))
        self.door.sock.setblocking(True)
        self.door.open(self.welcome)
        return sock

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


@pytest.fixture
def guests(door):
    found = Guests(door)
    yield found
    found.close()


def comes_in(guests: Guests, worker: int = 5, rank: int = 1) -> None:
    guests.came.clear()
    with guests.knock() as sock:
        handshake.connect(sock, guests.door.secret, worker, rank, 2)
        assert guests.came.wait(20)
    assert guests.here[-1] == (worker, rank)


def turned_away(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def turned_away_in_the_end(sock: socket.socket) -> bool:
    try:
        while sock.recv(64):
            pass
    except ConnectionError:
        pass
    return True


def test_a_worker_is_let_in(guests):
    comes_in(guests)


def test_who_does_not_know_the_secret_is_turned_away(guests):
    with guests.knock() as sock, pytest.raises((handshake.NotTrusted, OSError)):
        handshake.connect(sock, os.urandom(32), 5, 0, 1)
    assert guests.here == []
    comes_in(guests)


def test_garbage_is_turned_away(guests):
    with guests.knock() as sock:
        sock.recv(32)
        sock.sendall(b"GET / HTTP/1.1\r\n" * 100)
        assert turned_away(sock)
    assert guests.here == []
    comes_in(guests)


def test_who_says_nothing_keeps_nobody_out(guests):
    with guests.knock(), guests.knock():
        comes_in(guests)


def test_a_crowd_of_strangers_keeps_nobody_out(guests):
    crowd = [guests.knock() for _ in range(150)]
    comes_in(guests)
    assert turned_away_in_the_end(crowd[0])
    for sock in crowd:
        sock.close()
    comes_in(guests)


def test_no_more_files_can_be_open(guests):
    crowd = [guests.knock() for _ in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        worker = socket.socket(guests.door.sock.family)
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        address = guests.door.address
        worker.connect(address if isinstance(address, str) else ("127.0.0.1", address[1]))  # a name needs a file
        for _ in range(100):  # as the loop does as long as somebody knocks
            guests.door.open(guests.welcome)
            if select.select([worker], [], [], 0.05)[0]:
                break
        handshake.connect(worker, guests.door.secret, 5, 1, 2)
        assert guests.came.wait(20)
    finally:
        for filler in fillers:
            os.close(filler)
        worker.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for sock in crowd:
        sock.close()


def test_what_was_heard_once_is_no_use(guests):
    heard = []

    class Eavesdropper:
        def __init__(self, sock):
            self.sock = sock

        def recv(self, size):
            return self.sock.recv(size)

        def sendall(self, data):
            heard.append(data)
            self.sock.sendall(data)

    with guests.knock() as sock:
        handshake.connect(Eavesdropper(sock), guests.door.secret, 5, 0, 1)
        assert guests.came.wait(20)
    with guests.knock() as sock:
        sock.recv(32)
        sock.sendall(heard[0])
        assert turned_away(sock)
    assert len(guests.here) == 1


def test_a_worker_does_not_speak_to_a_stranger():
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.sendall(b"x" * 64)
        with pytest.raises(handshake.NotTrusted, match="is not there"):
            handshake.connect(theirs, os.urandom(32), 1, 0, 1)


def test_nobody_else_can_reach_a_path():
    door = Door(None)
    try:
        directory = os.path.dirname(door.address)
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    finally:
        door.close()
    assert not os.path.exists(directory)
