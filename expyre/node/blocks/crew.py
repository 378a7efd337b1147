"""The process in which a worker runs calls, apart from the one that claims them.

So a call that kills its process, or for which there is no time left, ends without the worker. Standard library only,
Python 3.9.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from typing import Any, Mapping, Optional  # noqa: UP035  (Python 3.9)

from ..family import end_group, end_tree, how_it_ended
from ..ranks.endings import Ending
from ..serving import messages, placing, streams, worker
from ..serving.keeper import die_with_parent

__all__ = ["Crew"]

_LAST_WORDS = 5.0  # seconds that the process has to end by itself


class Crew:
    """A forked process that serves calls.

    Parameters
    ----------
    place
        What it is given of the machine; see `expyre.node.serving.placing.settle`.
    """

    def __init__(self, place: Mapping[str, Any]) -> None:
        self._place = place
        self._pid = 0
        self._sock: Optional[socket.socket] = None  # noqa: UP045  (Python 3.9)

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._pid != 0

    def start(self) -> Optional[bytes]:  # noqa: UP045  (Python 3.9)
        """Start the process; return a message that says why it cannot be: none."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        mine, other = socket.socketpair()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            mine.close()
            self._serve(other, parent)
        other.close()
        self._sock = mine
        return None

    def _serve(self, sock: socket.socket, parent: int) -> None:
        """Serve calls in the forked process; does not return."""
        try:
            os.setsid()
            die_with_parent()
            for number in (signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            if os.getppid() != parent:
                os._exit(1)
            end = streams.Stream(sock)
            try:
                placing.settle(self._place, 0, 1)
            except Exception as error:
                end.send(messages.pack(messages.NOT_READY, payload=worker.failure(error)))
                os._exit(1)
            worker.serve(end)
            worker.end_process()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def send(self, data: bytes) -> bool:
        """Send a message; False if the process is gone."""
        assert self._sock is not None
        try:
            self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def heard(self, seconds: float) -> bool:
        """Wait so long for the process to say something, or to end."""
        assert self._sock is not None
        return bool(select.select([self._sock], [], [], seconds)[0])

    def receive(self) -> Optional[bytes]:  # noqa: UP045  (Python 3.9)
        """Return its next message, waiting for it; None if the process is gone."""
        head = self._exactly(messages.HEADER.size)
        if head is None:
            return None
        body = self._exactly(messages.HEADER.unpack(head)[5])
        return None if body is None else bytes(head + body)

    def _exactly(self, size: int) -> Optional[bytearray]:  # noqa: UP045  (Python 3.9)
        assert self._sock is not None
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            try:
                count = self._sock.recv_into(view[got:])
            except ConnectionResetError:
                count = 0
            if count == 0:
                return None
            got += count
        return data

    def stop(self) -> None:
        """End the process; it may finish what was registered to be done at its end."""
        if self.runs and self.send(b"".join(messages.pack(messages.STOP))):
            deadline = time.monotonic() + _LAST_WORDS
            while not self.heard(0.05) and time.monotonic() < deadline:
                continue
        self.kill()

    def kill(self) -> int:
        """End the process with all that it has started; return its exit status, negative for a signal."""
        if not self.runs:
            return 0
        pid, self._pid = self._pid, 0
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        end_tree(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        end_group(pid)
        return status

    def reap(self) -> Ending:
        """Return how a process that has ended by itself has done so, and end what it has left."""
        status = self._reap()
        return Ending(status, f"its process {how_it_ended(status)}")

    def _reap(self) -> int:
        deadline = time.monotonic() + _LAST_WORDS
        while self.runs and time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                end_group(pid)
                self._pid = 0
                assert self._sock is not None
                self._sock.close()
                self._sock = None
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return self.kill()
