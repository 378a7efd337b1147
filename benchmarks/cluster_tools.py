"""A queue and a login for benchmarks: a private Slurm, a private sshd on loopback, a link that counts and delays.

Everything is started by the benchmark and stopped after it, however it ends. Needs the packages that
``tests/clusters`` needs. ``BENCH_DIR`` in the environment is where files go, by default the directory for temporary
ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from clusters.slurm import SlurmCluster, running_slurm
from clusters.slurm_ssh import SlurmOverSsh, make_project, slurm_login

from expyre import transports
from expyre.calls import Call
from expyre.config import Project

TRANSPORTS = ("openssh", "paramiko")


@dataclass
class Clock:
    """Time since it was made: elapsed, and of the processor for this process and the programs that it has run."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=lambda: sum(os.times()[:4]))

    def __str__(self) -> str:
        return f"{self.elapsed():8.2f} s, {self.used():6.2f} s CPU"

    def elapsed(self) -> float:
        """Return seconds."""
        return time.perf_counter() - self.wall

    def used(self) -> float:
        """Return seconds of the processor."""
        return sum(os.times()[:4]) - self.cpu


class Bench:
    """A cluster, the login to it, and directories for projects.

    Parameters
    ----------
    cluster
        The Slurm.
    login
        The login.
    root
        Directory of everything.
    """

    def __init__(self, cluster: SlurmCluster, login: SlurmOverSsh, root: Path) -> None:
        self.cluster, self.login, self.root = cluster, login, root
        self.host, self.config = login.host, login.ssh_config
        self._numbers = iter(range(1_000_000))

    def directory(self, name: str) -> Path:
        """Return a new directory."""
        path = self.root / f"{name}{next(self._numbers)}"
        path.mkdir()
        return path

    def project(self, transport: str, ssh_config: Path | None = None, **more: object) -> Project:
        """Return a new project with a system ``slurm``; nothing is connected yet."""
        transports.close_all()
        os.environ["EXPYRE_SSH_CONFIG"] = str(ssh_config or self.config)
        root = self.directory("project")
        return make_project(root, {"slurm": self.login.system(root / "rundir", transport, **more)})

    def ssh(self, *options: str) -> list[str]:
        """Return the words of the ssh program."""
        return ["ssh", "-F", str(self.config), *options]

    def over_ssh(self, script: str, stdin: bytes = b"", options: Sequence[str] = ()) -> bytes:
        """Run a script through the ssh program, on a connection of its own, and return what it writes."""
        command = [*self.ssh(*options), self.host, script]
        return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout


@contextlib.contextmanager
def bench(cpus: int = 32) -> Iterator[Bench]:
    """Give a cluster of two nodes with that many pretended processors each."""
    for name in [name for name in os.environ if name.startswith(("EXPYRE_", "SLURM_"))]:
        del os.environ[name]
    if missing := SlurmCluster.missing():
        sys.exit(missing)
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR"), ignore_cleanup_errors=True) as directory,
        running_slurm(cpus=cpus, settings={"MaxJobCount": 30000, "MaxArraySize": 20001}) as cluster,
        slurm_login(cluster) as login,
    ):
        try:
            yield Bench(cluster, login, Path(directory))
        finally:
            transports.close_all()
            cluster.scancel_all()


def calls(count: int, name: str = "bench", **more: object) -> list[Call]:
    """Return calls of abs."""
    return [Call(name, abs, (-i,), **more) for i in range(count)]  # type: ignore[arg-type]


RESOURCES = {"max_time": "10m", "num_cores": 1}
SHAPE = {"exact_fit": False, "partial_node": True}


def round_trips(project: Project) -> int:
    """Return how many calls have crossed the wire."""
    return project.systems["slurm"].transport.round_trips


def line(what: str, clock: Clock | float, note: str = "") -> None:
    """Print one result."""
    seconds = clock if isinstance(clock, float) else clock.elapsed()
    cpu = "" if isinstance(clock, float) else f"{clock.used():8.2f} s CPU"
    print(f"  {what:<52}{seconds:9.3f} s{cpu:>14}   {note}", flush=True)


# -- the link ----------------------------------------------------------------------------------------------------


class Link:
    """A port that leads to a login's sshd; counts what passes, and delays it.

    Only the delay of a long line is emulated: any amount of data may be on its way.

    Parameters
    ----------
    bench
        Whose login.
    delay
        Seconds in each direction.

    Attributes
    ----------
    config
        Configuration of ssh in which the host of the login is reached over this link.
    """

    def __init__(self, bench: Bench, delay: float = 0.0) -> None:
        target = _port_in(bench.config)
        words = [sys.executable, __file__, str(target), str(delay)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        port = int(self._ask())
        directory = bench.directory("link")
        host_key = (bench.config.parent / "host_key.pub").read_text().split()[:2]
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
        text = bench.config.read_text().replace(f"Port {target}", f"Port {port}")
        text = text.replace(str(bench.config.parent / "known_hosts"), str(directory / "known_hosts"))
        self.config = directory / "ssh_config"
        self.config.write_text(text)

    def counted(self) -> tuple[int, int]:
        """Return how many bytes have gone to the host and come from it."""
        assert self._process.stdin is not None
        self._process.stdin.write("count\n")
        sent, received = self._ask().split()
        return int(sent), int(received)

    def _ask(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        """End it, and all connections over it."""
        transports.close_all()
        self._process.kill()
        self._process.wait()


def _port_in(ssh_config: Path) -> int:
    return next(int(line.split()[1]) for line in ssh_config.read_text().splitlines() if line.split()[:1] == ["Port"])


class _Proxy:
    """The process behind a `Link`."""

    def __init__(self, target: int, delay: float) -> None:
        self._target, self._delay = target, delay
        self._counts = [0, 0]

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        threading.Thread(target=self._answer, daemon=True).start()
        await server.serve_forever()

    def _answer(self) -> None:
        for _ in sys.stdin:
            print(*self._counts, flush=True)
        os._exit(0)

    async def _connection(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * self._delay)  # a connection is made in one round trip
        there, forth = await asyncio.open_connection("127.0.0.1", self._target)
        for writer in (back, forth):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self._pump(here, forth, 0), self._pump(there, back, 1), return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int) -> None:
        pending: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        late = asyncio.create_task(self._deliver(pending, writer))
        data = b"first"
        while data:
            data = await reader.read(1 << 18)
            self._counts[way] += len(data)
            pending.put_nowait((time.monotonic() + self._delay, data))
        await late

    @staticmethod
    async def _deliver(pending: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        data = b"first"
        while data:
            due, data = await pending.get()
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            writer.write(data)
            await writer.drain()
        writer.close()


if __name__ == "__main__":
    asyncio.run(_Proxy(int(sys.argv[1]), float(sys.argv[2])).serve())
