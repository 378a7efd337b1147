"""A server for the tests of the ways to hosts, and the ways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from clusters.sshd import Sshd, missing, private_sshd
from ssh_tools import KINDS, LOGINS, opened

from expyre.transports import LocalTransport
from expyre.transports.remote import RemoteTransport


@pytest.fixture(scope="session")
def server() -> Iterator[Sshd]:
    """A server of the tests' own; ``lab`` is its ordinary login."""
    if reason := missing():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        try:
            sshd = stack.enter_context(private_sshd(LOGINS))
        except OSError as error:
            pytest.skip(f"no SSH server can be started here: {error}")
        yield sshd


@pytest.fixture
def lab(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """The server, running before and after, whose hosts are known to the transports of this test."""
    monkeypatch.setenv("EXPYRE_SSH_CONFIG", str(server.config))
    monkeypatch.setenv("EXPYRE_RETRY", "3 0.1")
    server.repair()
    yield server
    server.start()


@pytest.fixture(scope="session", params=["local", *KINDS])
def transport(request: pytest.FixtureRequest) -> Iterator[LocalTransport | RemoteTransport]:
    """Each of the ways, kept open."""
    if request.param == "local":
        yield LocalTransport()
        return
    server = request.getfixturevalue("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPYRE_SSH_CONFIG", str(server.config))
        with opened(request.param) as transport:
            transport.run("true")
            yield transport
