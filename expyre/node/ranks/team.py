"""The ranks that serve the calls of one process: started by a command, connected to it by sockets.

All get the same messages; an answer is there when all ranks have answered, or when it is known that not all will.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple  # noqa: UP035  (Python 3.9)

from ..family import end_group, end_tree
from ..serving import messages, streams
from ..serving.door import Door
from ..serving.keeper import end_with_parent
from ..serving.messages import Message
from ..serving.rank import VARIABLE
from ..serving.words import Words
from ..starters.base import Starter, python_command
from .endings import Ending, ending_of
from .request import Ranks

__all__ = ["Answer", "NotStarted", "Team"]

_GRACE = 2.0  # seconds that the other ranks have to answer once one has failed or gone
_PATIENCE_WITH_MPI = 300.0  # seconds for ranks to find each other
_PATIENCE = 420.0  # seconds for all ranks to come in
_LAST_WORDS = 5.0  # seconds that the command has to end once it was told to, or its ranks have ended
_STOPPING = 10.0  # seconds that ranks have to end by themselves
_LOOK = 1.0  # seconds between two looks at the clock
_READ = 256 * 1024


class NotStarted(Exception):
    """Raised when ranks did not come in; says what the command that was to start them said.

    Attributes
    ----------
    ending
        How that has ended; None if it could not be started, or had to be ended.
    """

    def __init__(self, text: str, ending: Optional[Ending] = None) -> None:  # noqa: UP045
        super().__init__(text)
        self.ending = ending


class Answer(NamedTuple):
    """What ranks have answered; without either some of them have ended.

    Attributes
    ----------
    messages
        Those of all ranks, by rank.
    failure
        That of the rank that has failed first.
    """

    messages: Optional[List[Message]] = None  # noqa: UP006, UP045
    failure: Optional[Message] = None  # noqa: UP045


class Team:
    """MPI ranks.

    Parameters
    ----------
    ranks
        What they are to be like.
    starter
        Knows the command that starts them.
    place
        What they are given of the machine; see `expyre.node.serving.placing`.
    host
        Name of this machine for ranks on others; None if all are on this one.
    """

    def __init__(
        self,
        ranks: Ranks,
        starter: Starter,
        place: Mapping[str, Any],
        host: Optional[str] = None,  # noqa: UP045  (Python 3.9)
    ) -> None:
        self.size = ranks.cores
        self._ranks = ranks
        self._starter = starter
        self._place = place
        self._host = host
        self._launcher = ""
        self._process: Optional[subprocess.Popen[bytes]] = None  # noqa: UP045
        self._forget()

    def _forget(self) -> None:
        self._socks: List[Tuple[int, socket.socket]] = []  # noqa: UP006
        self._arrived: List[Tuple[int, socket.socket]] = []  # noqa: UP006
        self._selector = selectors.DefaultSelector()
        self._words: List[Words] = []  # noqa: UP006  standard output and error
        self._lost: List[int] = []  # noqa: UP006
        self._ask()

    def _ask(self) -> None:
        """Have no answer yet."""
        self._answers: Dict[int, Message] = {}  # noqa: UP006
        self._failure: Optional[Message] = None  # noqa: UP045
        self._faltering_since: Optional[float] = time.monotonic() if self._lost else None  # noqa: UP045

    @property
    def runs(self) -> bool:
        """Whether there are ranks."""
        return self._process is not None

    # -- the start

    def start(self) -> Optional[Message]:  # noqa: UP045
        """Start the ranks and wait until all have come in; return the failure of one that cannot begin.

        Raises
        ------
        NotStarted
            The command has ended, or was not heard of for too long.
        CannotStart
            There is no such command.
        """
        command = self._starter.command(self._ranks)
        self._launcher = os.path.basename(command[0])
        door = Door(self._host)
        try:
            self._launch([*command, *python_command(_code())], door)
            self._wait_for_all(door)
        except BaseException:
            self.kill()
            raise
        finally:
            door.close()
        return self._failure

    def _launch(self, command: List[str], door: Door) -> None:  # noqa: UP006
        task = {
            "address": door.address,
            "secret": door.secret.hex(),
            "worker": 1,
            "size": self.size,
            "place": dict(self._place),
            "path": [os.path.abspath(path) for path in sys.path],
            "pythonpath": os.environ.get("PYTHONPATH"),
            "patience": _PATIENCE_WITH_MPI,
            "restored": {name: os.environ[name] for name in self._starter.restored},
        }
        hidden = set(self._starter.hidden)
        environ = {name: value for name, value in os.environ.items() if name not in hidden}
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._words = [Words(_number(sys.stdout, 1)), Words(_number(sys.stderr, 2))]
        try:
            self._process = subprocess.Popen(
                command,
                env={**environ, VARIABLE: json.dumps(task)},
                stdin=subprocess.DEVNULL,
                stdout=self._words[0].writing,
                stderr=self._words[1].writing,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            raise NotStarted(f"{command[0]} cannot be started: {error.strerror}") from error
        finally:
            for words in self._words:
                os.close(words.writing)
        for words in self._words:
            assert words.reading is not None
            self._selector.register(words.reading, selectors.EVENT_READ, words)

    def _wait_for_all(self, door: Door) -> None:
        deadline = time.monotonic() + _PATIENCE
        self._selector.register(door.sock, selectors.EVENT_READ, door)
        while len(self._socks) < self.size and self._failure is None:
            self._pump(0.05)
            assert self._process is not None
            if self._process.poll() is not None and not self._arrived:
                self._pump(0)
                ending = self.end()
                raise NotStarted(f"{self.size} ranks did not start: {ending.text}", ending)
            if time.monotonic() > deadline:
                raise NotStarted(f"{self.size} ranks were to start, {len(self._socks)} have within {_PATIENCE:g} s")
        self._selector.unregister(door.sock)

    def _welcome(self, _worker: int, rank: int, sock: socket.socket) -> None:
        self._arrived.append((rank, sock))  # in a thread of the door

    def _let_in(self) -> None:
        while self._arrived:
            rank, sock = self._arrived.pop(0)
            sock.settimeout(None)
            self._socks.append((rank, sock))
            self._selector.register(sock, selectors.EVENT_READ, (rank, streams.Assembler()))

    # -- messages

    def send(self, data: Any) -> None:
        """Send all ranks a message."""
        for _, sock in self._socks:
            try:
                sock.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                continue  # seen when it is read

    def heard(self, seconds: float) -> bool:
        """Wait so long for an answer, or for it to be certain that there will be none."""
        deadline = time.monotonic() + seconds
        while not self._is_settled():
            left = deadline - time.monotonic()
            if self._faltering_since is not None:
                left = min(left, self._faltering_since + _GRACE - time.monotonic())
            self._pump(max(0.0, min(left, _LOOK)))
            if time.monotonic() >= deadline:
                return self._is_settled()
        return True

    @property
    def falters(self) -> bool:
        """Whether a rank has failed, or ended, since the last answer."""
        return self._faltering_since is not None

    def _is_settled(self) -> bool:
        missing = self.size - len(self._answers)
        if missing == 0:
            return True
        if self._process is not None and self._process.poll() is not None and self._faltering_since is None:
            self._faltering_since = time.monotonic()
        if self._faltering_since is None:
            return False
        return missing <= len(self._lost) or time.monotonic() >= self._faltering_since + _GRACE

    def _pump(self, seconds: float) -> None:
        """Take in what comes within some seconds."""
        self._let_in()
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, Words):
                key.data.hear()
                if key.data.reading is None:
                    self._selector.unregister(key.fd)
            elif isinstance(key.data, Door):
                key.data.open(self._welcome)
            else:
                self._read(key.fileobj, *key.data)

    def _read(self, sock: Any, rank: int, assembler: streams.Assembler) -> None:
        try:
            data = sock.recv(_READ)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            self._lost.append(rank)
            self._faltering_since = self._faltering_since or time.monotonic()
            return
        for message in assembler.feed(data):
            self._answers[rank] = message
            if message.kind in (messages.FAILURE, messages.NOT_READY) and self._faltering_since is None:
                self._failure = message
                self._faltering_since = time.monotonic()

    def answer(self) -> Answer:
        """Return what the ranks have answered, waiting for it; ranks that wait for one that has failed are ended."""
        while not self.heard(_LOOK):
            continue
        answers, failure = self._answers, self._failure
        if len(answers) < self.size:
            if failure is not None:
                self.kill()
            return Answer(failure=failure)
        self._ask()
        return Answer(failure=failure) if failure is not None else Answer([answers[i] for i in range(self.size)])

    # -- the end

    def stop(self) -> None:
        """Have the ranks end; they may finish what was registered to be done at their end."""
        self.send(b"".join(messages.pack(messages.STOP)))
        self._await_end(_STOPPING)
        self.kill()

    def _await_end(self, seconds: float) -> bool:
        """Give the command some seconds to end; return whether it has."""
        deadline = time.monotonic() + seconds
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
            self._pump(0.02)
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End the ranks with all that they have started."""
        process = self._process
        if process is not None and process.poll() is None:
            for words in self._words:
                words.quiet = True  # what follows would look like the cause
            self._hang_up()
            _signal_group(process.pid)
            if not self._await_end(_LAST_WORDS):
                end_tree(process.pid)
                process.wait()
        if process is not None:
            end_group(process.pid)
        self._hang_up()
        for words in self._words:
            words.last()
        self._process = None
        self._selector.close()
        self._forget()

    def _hang_up(self) -> None:
        """Close the connections: ranks end then, also those on other nodes."""
        for _, sock in [*self._socks, *self._arrived]:
            if sock in self._selector.get_map():
                self._selector.unregister(sock)
            sock.close()
        self._socks, self._arrived = [], []

    def end(self) -> Ending:
        """End what is left of ranks of which some have ended by themselves; return how those have."""
        by_itself, process = self._await_end(_LAST_WORDS), self._process
        lost, said = self._lost[:1] or list(range(self.size)), [words.last() for words in self._words]
        self.kill()
        status = process.returncode if by_itself and process is not None else None
        return ending_of(lost, self.size, self._launcher, status, *said)


def _signal_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return


def _number(stream: Any, default: int) -> int:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return default


def _code() -> str:
    """Return what a rank runs, wherever this package lies and whatever it is called there."""
    root = str(Path(__file__).parents[__name__.count(".")])
    package = __name__.rpartition(".")[0].rpartition(".")[0]
    return f"import sys; sys.path.insert(0, {root!r}); from {package}.serving.rank import main; main()"
