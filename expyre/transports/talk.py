"""One script on its way: its input is written and its errors are read while the caller reads its output."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

from expyre.errors import TransportError
from expyre.transports.base import Completed
from expyre.transports.shell import Between, Marks

__all__ = ["Busy", "NotStarted", "Stale", "Stream", "Talk"]

# The end of the errors is on its way when the output has ended.
_PATIENCE = 60.0


class NotStarted(TransportError):
    """Raised when it is certain that the other side has not begun with the script: it can be sent again."""


class Busy(NotStarted):
    """Raised when the host takes no further session for the moment."""


class Stale(NotStarted):
    """Raised when a connection that had been open turned out to be gone."""


class Stream(Protocol):
    """A command on the host: its standard input, output and errors. Usable from three threads, one for each."""

    def write(self, data: bytes) -> None:
        """Write all of it; raises OSError when nobody reads any more."""

    def end_input(self) -> None:
        """Tell the command that there is no more input."""

    def read(self, timeout: float | None) -> bytes:
        """Return some output, nothing at its end; raises TimeoutError when none comes."""

    def read_error(self) -> bytes:
        """Return some of the errors, nothing at their end."""

    def stop(self) -> None:
        """Give up the command, whether it has ended or not; whoever reads or writes is woken."""

    def release(self) -> None:
        """Let go of everything; nobody reads or writes any more."""

    def failure(self, said: str) -> TransportError:
        """Return why the stream has ended before its time; ``said`` is what came as errors."""


class Talk:
    """A script that runs on the host; a file of its output for those who read it piece by piece.

    Parameters
    ----------
    stream
        Where the command of ``marks`` runs.
    marks
        The marks to look for.
    chunks
        The input of the command: the program, then the script's own.
    timeout
        Seconds that it may all take.
    where
        The host, for messages.
    """

    def __init__(
        self, stream: Stream, marks: Marks, chunks: Iterable[bytes], timeout: float | None, where: str
    ) -> None:
        self._stream, self._chunks, self._where, self._timeout = stream, chunks, where, timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._out, self._errors = Between(marks), Between(marks)
        self._error_text = bytearray()
        self._source_error: BaseException | None = None
        self._first = b""
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._listen)]

    def __enter__(self) -> Talk:
        try:
            for thread in self._threads:
                thread.start()
            self._first = self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and what runs here for it."""
        self._stream.stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_PATIENCE)
        self._stream.release()

    def read(self, size: int = -1) -> bytes:
        """Return some of the script's output, of any length; nothing at its end.

        Raises
        ------
        TransportError
            The output has no end: it was cut off.
        """
        if self._first:
            data, self._first = self._first, b""
            return data
        while self._out.status is None:
            data = self._out.feed(self._next())
            if data:
                return data
        return b""

    def completed(self) -> Completed:
        """Return how the script ended, with what of its output has not been read yet."""
        output = bytearray()
        while data := self.read():
            output += data
        self._threads[1].join(_PATIENCE)
        if self._errors.status is None or self._out.status is None:
            raise self._broken()
        return Completed(self._out.status, bytes(output), bytes(self._error_text))

    def _begin(self) -> bytes:
        data = b""
        while not self._out.begun:
            data = self._out.feed(self._next())
        return data

    def _next(self) -> bytes:
        try:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            data = self._stream.read(left)
        except TimeoutError:
            raise TransportError(
                f"a command on {self._where} did not end in {self._timeout:g} s and was killed"
            ) from None
        if not data:
            raise self._broken()
        return data

    def _broken(self) -> TransportError:
        """Return why there is no end."""
        self._threads[1].join(1.0)
        if self._source_error is not None:
            return TransportError(
                f"cannot read what was to be sent to {self._where}: {self._source_error}", transient=False
            )
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return TransportError(f"a command on {self._where} did not end in {self._timeout:g} s and was killed")
        said = bytes(self._error_text) + self._errors.noise
        return self._stream.failure(said.decode("utf-8", "replace").strip())

    def _write(self) -> None:
        try:
            for chunk in self._checked_chunks():
                self._stream.write(chunk)
            self._stream.end_input()
        except OSError:
            pass  # nobody reads: the script has ended, or the connection; the output tells
        except _SourceError as error:
            self._source_error = error.__cause__
            self._stream.stop()

    def _checked_chunks(self) -> Iterable[bytes]:
        """Yield the input; trouble on this side is told from trouble with the stream."""
        source = iter(self._chunks)
        while True:
            try:
                chunk = next(source, None)
            except Exception as error:
                raise _SourceError from error
            if chunk is None:
                return
            yield chunk

    def _listen(self) -> None:
        try:
            while self._errors.status is None and (data := self._stream.read_error()):
                self._error_text += self._errors.feed(data)
        except OSError:
            pass  # the missing end mark tells


class _SourceError(Exception):
    """What was to be written could not be read."""
