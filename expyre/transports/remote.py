"""What every way to a host over a shell has in common: scripts, streams of files, and trying again."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from expyre.errors import TransportError
from expyre.transports.base import Completed
from expyre.transports.pack import Pack
from expyre.transports.present import present
from expyre.transports.scripts import GZIP_MISSING, fetch_script, send_script
from expyre.transports.shell import Marks
from expyre.transports.talk import NotStarted, Stream, Talk
from expyre.transports.tries import Gate, retried
from expyre.transports.unpack import Unpacker

__all__ = ["RemoteTransport"]

_VANISHED = ("No such file or directory", "file changed as we read it", "File removed before we read it")
_EPILOGUE = ("Exiting with failure status", "Removing leading", "file is the archive; not dumped", "socket ignored")

_ALL: weakref.WeakSet[RemoteTransport] = weakref.WeakSet()


class RemoteTransport:
    """A way to a host over a shell there; see `expyre.transports.Transport`.

    Parameters
    ----------
    host
        ``[user@]host``.
    """

    def __init__(self, host: str) -> None:
        self.host: str | None = host
        self.where = host
        self.round_trips = 0
        self.gate = Gate()
        self.lock = threading.RLock()
        self._packs = True
        _ALL.add(self)

    def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        """Run a shell script in the user's home."""

        def once() -> Completed:
            with self._talk(script, lambda: [stdin], timeout) as talk:
                return talk.completed()

        return retried(once, worth=NotStarted)

    def send(self, sources: Sequence[tuple[Path, str]], remote_dir: str) -> None:
        """Copy files and directories to the host."""
        try:
            pack = Pack(sources)
            compressed = self._packs and pack.shrinks()
        except OSError as error:
            message = f"cannot read what was to be sent to {self.where}: {error}"
            raise TransportError(message, transient=False) from error
        done = retried(lambda: self._sent(pack, remote_dir, compressed))
        if done.returncode == GZIP_MISSING:
            self._packs = False
            done = retried(lambda: self._sent(pack, remote_dir, False))
        if done.returncode != 0:
            message = f"cannot write into {remote_dir} on {self.where}: {done.error_text or 'no reason given'}"
            raise TransportError(message, transient=False)

    def fetch(self, remote_dir: str, names: Sequence[str], local_dir: Path, exclude: Sequence[str] = ()) -> None:
        """Copy files and directories from the host."""
        left = list(dict.fromkeys(names))

        def once() -> Completed:
            unpacker = Unpacker(local_dir, left, exclude, self.where)
            try:
                script = fetch_script(remote_dir, left, exclude, present(local_dir, left))
                with self._talk(script, list, None) as talk:
                    unpacker.take(talk)
                    return talk.completed()
            finally:
                left[:] = [name for name in left if name not in unpacker.delivered]

        if left:
            self._check_fetched(retried(once), remote_dir)

    def close(self) -> None:
        """Give up the connection."""
        raise NotImplementedError

    def forked(self) -> None:
        """Forget, in a forked child, the connection that belongs to its parent."""
        self.lock = threading.RLock()

    def _open(self, command: str) -> Stream:
        """Return a stream of a command of the login shell."""
        raise NotImplementedError

    def _sent(self, pack: Pack, remote_dir: str, compressed: bool) -> Completed:
        script = send_script(remote_dir, pack.copies, compressed)
        with self._talk(script, lambda: pack.chunks(compressed), None) as talk:
            return talk.completed()

    def _check_fetched(self, done: Completed, remote_dir: str) -> None:
        """Raise an error about what could not be read; that files come and go is no trouble."""
        lines = [line for line in done.error_text.splitlines() if not line.endswith(_VANISHED)]
        trouble = [line for line in lines if not any(words in line for words in _EPILOGUE)]
        unlisted = any(line.startswith("find: ") for line in trouble)
        if done.returncode not in (0, 1, 2) or (done.returncode == 2 and trouble) or unlisted:
            said = "\n".join(trouble) or f"exit status {done.returncode}"
            raise TransportError(f"cannot read all of {remote_dir} on {self.where}: {said}", transient=False)

    @contextmanager
    def _talk(self, script: str, source: Callable[[], Iterable[bytes]], timeout: float | None) -> Iterator[Talk]:
        marks = Marks()
        program = marks.program(script, timeout)
        stream = self._open(marks.command(program))

        def chunks() -> Iterable[bytes]:
            yield program
            yield from source()

        with Talk(stream, marks, chunks(), timeout, self.where) as talk:
            self.gate.passed()
            with self.lock:
                self.round_trips += 1
            yield talk


def _forked() -> None:
    for transport in list(_ALL):
        transport.forked()


os.register_at_fork(after_in_child=_forked)
