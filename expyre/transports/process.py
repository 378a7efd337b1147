"""A remote shell program that runs one command, and the pipes to it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO

from expyre.errors import TransportError

__all__ = ["Process", "unstartable"]

_AT_ONCE = 1 << 18
# A program whose command has ended ends by itself, unless something that runs on over there holds its outputs.
_PATIENCE = 0.5


class Process:
    """A stream over the pipes of a process; see `expyre.transports.talk.Stream`.

    Parameters
    ----------
    argv
        The words that start it.
    failure
        Tells from what it wrote as errors what has gone wrong.
    leave
        Called once when it has been given up.
    """

    def __init__(
        self, argv: Sequence[str], failure: Callable[[str], TransportError], leave: Callable[[], None]
    ) -> None:
        self.failure, self._leave = failure, leave
        self._woken, self._waker = os.pipe()
        pipe = subprocess.PIPE
        try:
            # In a session of its own an interrupt from the keyboard does not reach it: no submission is cut in two.
            self._process = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
            )
        except OSError as error:
            self._close(self._woken, self._waker)
            raise unstartable(argv[0], error) from error
        self._input, self._output, self._errors = map(_number, self._files())
        os.set_blocking(self._input, False)
        self._ending = threading.Lock()

    def write(self, data: bytes) -> None:
        """Write all of it."""
        left = memoryview(data)
        while left:
            if not self._ready(self._input, select.POLLOUT, None):
                raise BrokenPipeError
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._input, left) :]

    def end_input(self) -> None:
        """Close the pipe."""
        for file in self._files()[:1]:
            file.close()

    def read(self, timeout: float | None) -> bytes:
        """Return some output."""
        return self._read(self._output, timeout)

    def read_error(self) -> bytes:
        """Return some of the errors."""
        return self._read(self._errors, None)

    def stop(self) -> None:
        """End the program and wake those who wait for it."""
        with self._ending:
            if self._process.returncode is None:
                self._end()
                os.write(self._waker, b"x")

    def release(self) -> None:
        """Close all pipes."""
        for file in self._files():
            file.close()
        self._close(self._woken, self._waker)
        self._leave()

    def _files(self) -> list[IO[bytes]]:
        files = (self._process.stdin, self._process.stdout, self._process.stderr)
        return [file for file in files if file is not None]

    def _read(self, number: int, timeout: float | None) -> bytes:
        return os.read(number, _AT_ONCE) if self._ready(number, select.POLLIN, timeout) else b""

    def _ready(self, number: int, event: int, timeout: float | None) -> bool:
        """Wait for a pipe; tell whether it is still of interest."""
        poll = select.poll()
        poll.register(number, event)
        poll.register(self._woken, select.POLLIN)
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        if not ready:
            raise TimeoutError
        return number in ready

    def _end(self) -> None:
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @staticmethod
    def _close(*numbers: int) -> None:
        for number in numbers:
            os.close(number)


def _number(file: IO[bytes]) -> int:
    return file.fileno()


def unstartable(program: str, error: OSError) -> TransportError:
    """Return the error about a remote shell program that cannot be started."""
    message = f"cannot start the remote shell {program!r} (remsh_cmd, EXPYRE_RSH): {error.strerror}; is it on PATH?"
    return TransportError(message, transient=False)
