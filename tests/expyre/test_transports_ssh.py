"""Logins over SSH as they are out there: shells, banners, keys, jump hosts, limits, refusals."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusters.sshd import Sshd
from ssh_tools import KINDS, SHELLS, Line, line_to, needs, opened

from expyre.errors import TransportError
from expyre.transports import connect
from expyre.transports.remote import RemoteTransport
from expyre.transports.sshconfig import target

pytest_plugins = ["ssh_fixtures"]
both = pytest.mark.parametrize("kind", KINDS)


@both
@pytest.mark.parametrize("login", ["noisy", *SHELLS])
def test_any_login_shell_does(lab: Sshd, kind: str, login: str, tmp_path: Path) -> None:
    if login in SHELLS:
        needs(login)
    (tmp_path / "it's").write_bytes(b"\0\xff")
    with opened(kind, login) as transport:
        done = transport.run('echo "it\'s $BASH_VERSION"; cat; echo ! >&2; exit 255', b"\n\0\xff")
        transport.send([(tmp_path / "it's", "a b")], str(tmp_path / "far"))
        transport.fetch(str(tmp_path / "far"), ["a b"], tmp_path)
    assert done.stdout.startswith(b"it's 5.") or done.stdout.startswith(b"it's 4.")
    assert done.stdout.endswith(b"\n\n\0\xff")
    assert (done.stderr, done.returncode) == (b"!\n", 255)
    assert (tmp_path / "a b").read_bytes() == b"\0\xff"


@both
def test_a_host_without_bash_runs_scripts_in_sh(lab: Sshd, kind: str) -> None:
    (lab.path / "tools").mkdir(exist_ok=True)
    for program in ("dd", "sleep"):
        (lab.path / "tools" / program).unlink(missing_ok=True)
        (lab.path / "tools" / program).symlink_to(shutil.which(program) or "")
    with opened(kind, "nobash") as transport:
        done = transport.run("echo $BASH_VERSION; read line; echo $line; exit 4", b"input\n", timeout=100)
    assert (done.text, done.stderr, done.returncode) == ("\ninput\n", b"", 4)


@both
def test_what_goes_on_in_the_background_does_not_hold_a_script_up(lab: Sshd, kind: str, tmp_path: Path) -> None:
    with opened(kind) as transport:
        done = transport.run(f"sleep 300 & echo $! > {tmp_path}/pid; echo done", timeout=100)
    assert done.text == "done\n"
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@both
@pytest.mark.parametrize("login", ["jumped", "twice"])
def test_hosts_behind_others_are_reached(lab: Sshd, kind: str, login: str, tmp_path: Path) -> None:
    with line_to(lab, "gate") as gate, line_to(lab, "inner") as inner:
        lab.host("jumped", ProxyJump="gate")
        lab.host("twice", ProxyJump=f"gate,{os.environ.get('USER', 'root')}@inner:{inner.port}")
        with opened(kind, login) as transport:
            assert transport.run("echo there").text == "there\n"
        assert (gate.connections, inner.connections) == (1, 1 if login == "twice" else 0)


@both
def test_hosts_are_reached_through_commands(lab: Sshd, kind: str) -> None:
    code = (
        "import socket,sys,threading,shutil\\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2]))); f=s.makefile('rwb',0)\\n"
        "threading.Thread(target=shutil.copyfileobj,args=(open(0,'rb',0),f),daemon=True).start()\\n"
        "shutil.copyfileobj(f,open(1,'wb',0))"
    )
    helper = lab.path / "proxy.py"
    helper.write_text(code.replace("\\n", "\n"))
    lab.host("proxied", ProxyCommand=f"{sys.executable} {helper} %h %p")
    with opened(kind, "proxied") as transport:
        assert transport.run("echo there").text == "there\n"


@both
def test_an_unknown_host_is_not_spoken_to(lab: Sshd, kind: str, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").touch()
    lab.host("stranger", UserKnownHostsFile=tmp_path / "known_hosts")
    with opened(kind, "stranger") as transport, pytest.raises(TransportError, match="stranger") as caught:
        transport.run("true")
    assert not caught.value.transient
    assert (tmp_path / "known_hosts").read_text() == ""
    if kind == "paramiko":
        printed = subprocess.run(
            ["ssh-keygen", "-l", "-f", lab.path / "host_key.pub"], capture_output=True, text=True, check=True
        )
        assert printed.stdout.split()[1] in str(caught.value)
        assert f"ssh -F {lab.config} stranger" in str(caught.value)
        assert f"ssh-keyscan -p {lab.port} 127.0.0.1" in str(caught.value)


@both
def test_a_host_whose_key_has_changed_is_not_spoken_to(lab: Sshd, kind: str, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    name = f"[127.0.0.1]:{lab.port}"
    (tmp_path / "known_hosts").write_text(f"{name} {(tmp_path / 'other.pub').read_text()}")
    lab.host("changed", UserKnownHostsFile=tmp_path / "known_hosts")
    with opened(kind, "changed") as transport, pytest.raises(TransportError) as caught:
        transport.run("true")
    assert not caught.value.transient
    assert "changed" in str(caught.value).lower().replace("host changed", "")
    if kind == "paramiko":
        assert f"ssh-keygen -f {tmp_path}/known_hosts -R '{name}'" in str(caught.value)


@pytest.mark.parametrize("line", ["hashed", "pattern", "negated", "revoked"])
def test_hosts_are_known_in_all_ways_that_ssh_knows(lab: Sshd, line: str, tmp_path: Path) -> None:
    key = " ".join((lab.path / "host_key.pub").read_text().split()[:2])
    known = tmp_path / "known_hosts"
    texts = {
        "hashed": f"[127.0.0.1]:{lab.port} {key}\n",
        "pattern": f"# comment\n\n[127.0.0.?]:*,other {key}\n",
        "negated": f"[127.0.0.1]:*,![127.0.0.1]:{lab.port} {key}\n",
        "revoked": f"@revoked * {key}\n[127.0.0.1]:{lab.port} {key}\n",
    }
    known.write_text(texts[line])
    if line == "hashed":
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
        assert known.read_text().startswith("|1|")
    lab.host("known", UserKnownHostsFile=known)
    with opened("paramiko", "known") as transport:
        if line in ("hashed", "pattern"):
            assert transport.run("echo x").text == "x\n"
        else:
            with pytest.raises(TransportError, match="not known" if line == "negated" else "revoked"):
                transport.run("true")


@both
@pytest.mark.parametrize("login", ["refusing", "factors"])
def test_a_host_that_refuses_us_is_asked_once(lab: Sshd, kind: str, login: str) -> None:
    with Line(lab.ports[login]) as line:
        lab.host("no-entry", Port=line.port)
        with opened(kind, "no-entry") as transport:
            for _ in range(3):
                with pytest.raises(TransportError, match="no-entry refused to let us in") as caught:
                    transport.run("true")
                assert not caught.value.transient
        assert line.connections == 1
    if kind == "paramiko" and login == "factors":
        assert "password" in str(caught.value)
        assert '"transport": "openssh"' in str(caught.value)


def test_an_encrypted_key_is_named(lab: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "locked"], check=True)
    lab.host("locked", IdentityFile=tmp_path / "locked")
    lab.config.write_text(lab.config.read_text().replace(f"    IdentityFile {lab.path}/user_key\n", ""))
    with opened("paramiko", "locked") as transport, pytest.raises(TransportError, match="ssh-add") as caught:
        transport.run("true")
    assert str(tmp_path / "locked") in str(caught.value)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    needs("ssh-agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    yield str(tmp_path / "agent")
    process.kill()
    process.communicate()


@both
@pytest.mark.parametrize("how", ["variable", "setting"])
def test_keys_of_an_agent_are_used(
    lab: Sshd, kind: str, how: str, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    shutil.copy(lab.path / "user_key", key)
    subprocess.run(["ssh-add", "-q", key], env={**os.environ, "SSH_AUTH_SOCK": agent}, check=True)
    key.unlink()
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    if how == "variable":
        monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    more = {"IdentityAgent": agent} if how == "setting" else {}
    lab.host("agent", IdentitiesOnly="no", IdentityFile=tmp_path / "none", **more)
    config = tmp_path / "config"
    config.write_text(lab.config.read_text().replace(f"{lab.path}/user_key", str(tmp_path / "none")))
    monkeypatch.setenv("EXPYRE_SSH_CONFIG", str(config))
    with opened(kind, "agent") as transport:
        assert transport.run("echo in").text == "in\n"


@both
def test_a_host_that_allows_one_session_at_a_time_serves_many_threads(lab: Sshd, kind: str) -> None:
    with Line(lab.ports["single"]) as line:
        lab.host("one", Port=line.port)
        with opened(kind, "one") as transport:
            _many(transport)
        assert line.connections == 1


@both
def test_many_threads_share_one_connection(lab: Sshd, kind: str) -> None:
    with line_to(lab, "shared") as line, opened(kind, "shared") as transport:
        _many(transport)
        assert line.connections == 1


def test_short_messages_wait_for_no_acknowledgement(lab: Sshd) -> None:
    with opened("paramiko", next(iter(lab.ports))) as transport:
        transport.run("true")
        connection = transport._connection  # type: ignore[attr-defined]
        sock = connection.transport.sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def _many(transport: RemoteTransport) -> None:
    with ThreadPoolExecutor(5) as pool:
        done = pool.map(lambda number: transport.run(f"sleep 0.02; echo {number}; cat", b"x" * 9), range(12))
    assert [each.text for each in done] == [f"{number}\n{'x' * 9}" for number in range(12)]


@both
def test_a_forked_child_opens_a_connection_of_its_own(lab: Sshd, kind: str) -> None:
    with line_to(lab, "forked") as line, opened(kind, "forked") as transport:
        transport.run("true")
        busy = threading.Thread(target=transport.run, args=("sleep 1",))
        busy.start()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = transport.run("exit 17").returncode
                transport.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        busy.join()
        assert transport.run("echo parent").text == "parent\n"
        assert line.connections == 2


@both
def test_the_same_words_give_the_same_way(lab: Sshd, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expyre.transports._open", {})
    assert connect("lab", kind) is connect("lab", kind)
    assert connect("lab", kind) is not connect("noisy", kind)


def test_the_remote_shell_may_have_words(lab: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "it's a config"
    shutil.copy(lab.config, config)
    monkeypatch.delenv("EXPYRE_SSH_CONFIG")
    monkeypatch.setenv("EXPYRE_RSH", f'ssh -F "{config}"')
    monkeypatch.setattr("expyre.transports._open", {})
    for transport in (connect("lab"), connect("lab", remsh_cmd=["ssh", "-F", str(config)])):
        assert transport.run("echo in").text == "in\n"
        transport.close()


def test_a_remote_shell_that_is_no_ssh_is_run_for_each_call(tmp_path: Path) -> None:
    stand_in = tmp_path / "rsh"
    stand_in.write_text('#!/bin/sh\necho "$1" >> "$0.log"\nshift\nexec sh -c "$*"\n')
    stand_in.chmod(0o755)
    transport = connect("somewhere", remsh_cmd=str(stand_in))
    assert transport.run("cat; exit 3", b"in").returncode == 3
    (tmp_path / "file").write_text("x")
    transport.send([(tmp_path / "file", "file")], str(tmp_path / "far"))
    transport.fetch(str(tmp_path / "far"), ["file"], tmp_path / "back")
    assert (tmp_path / "back" / "file").read_text() == "x"
    with pytest.raises(TransportError, match="killed"):
        transport.run("sleep 100", timeout=0.2)


def test_a_remote_shell_that_is_not_there_is_named() -> None:
    with pytest.raises(TransportError, match="no-such-shell") as caught:
        connect("somewhere", remsh_cmd="/no-such-shell -x").run("true")
    assert not caught.value.transient


def test_a_shared_connection_of_the_users_own_is_used(lab: Sshd) -> None:
    with line_to(lab, "own") as line:
        lab.host("own", Port=line.port, ControlPath=lab.path / "%C")
        master = ["ssh", "-F", str(lab.config), "-oControlMaster=yes", "-fN", "own"]
        subprocess.run(master, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        with opened("openssh", "own") as transport:
            assert transport.run("echo in").text == "in\n"
        assert line.connections == 1
        exit_words = ["ssh", "-F", str(lab.config), "-O", "exit", "own"]
        assert subprocess.run(exit_words, capture_output=True, check=False).returncode == 0


def test_private_connections_end_with_the_interpreter(lab: Sshd, tmp_path: Path) -> None:
    code = "from expyre.transports import connect; print(connect('lab', 'openssh').run('echo in').text)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "in\n\n"
    assert list(tmp_path.glob("xpr-*")) == []


def test_questions_are_asked_on_the_terminal(lab: Sshd, tmp_path: Path) -> None:
    """What ssh wants to know from people, here about an unknown host, they are asked when there is a terminal."""
    (tmp_path / "known_hosts").touch()
    lab.host("asking", BatchMode="no", StrictHostKeyChecking="ask", UserKnownHostsFile=tmp_path / "known_hosts")
    pid, terminal = pty.fork()
    if pid == 0:
        code = "from expyre.transports import connect; print(connect('asking', 'openssh').run('echo answer').text)"
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""
    while b"answer" not in shown:
        shown += os.read(terminal, 1000)
        if b"fingerprint])?" in shown and b"yes" not in shown.split(b"fingerprint])?")[1]:
            os.write(terminal, b"yes\n")
            shown += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitpid(pid, 0)
    assert b"authenticity" in shown
    assert (tmp_path / "known_hosts").read_text()


@both
def test_a_host_that_is_not_there_is_named(lab: Sshd, kind: str) -> None:
    lab.host("closed", Port=1)
    with opened(kind, "closed") as transport, pytest.raises(TransportError, match="closed") as caught:
        transport.run("true")
    assert caught.value.transient


def test_a_configuration_that_cannot_be_read_is_quoted(
    lab: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("Nonsense yes\n")
    monkeypatch.setenv("EXPYRE_SSH_CONFIG", str(tmp_path / "config"))
    for kind in KINDS:
        with opened(kind) as transport, pytest.raises(TransportError, match=r"(?i)nonsense") as caught:
            transport.run("true")
        assert not caught.value.transient


def test_settings_are_the_same_with_and_without_an_ssh_program(
    lab: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.host("full", Port=77, User="me", ProxyCommand="nc %h %p", ServerAliveInterval=7, ConnectTimeout=9)
    with_program = target("full")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert target("full") == with_program
        with opened("paramiko") as transport:
            assert transport.run("echo in").text == "in\n"
    assert (with_program.port, with_program.user, with_program.proxy_command) == (77, "me", "nc 127.0.0.1 77")
    assert (with_program.alive_interval, with_program.connect_timeout) == (7, 9)
    assert target("other@full").user == "other"
