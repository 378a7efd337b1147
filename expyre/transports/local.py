"""The way to this machine: a shell and file copies."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from expyre.errors import TransportError
from expyre.transports.base import MARKER_PREFIX, Completed

# What the kernel takes as one word of a command line is 128 KiB.
_LONGEST_WORD = 100_000


class LocalTransport:
    """Runs scripts and copies files on this machine; see `expyre.transports.Transport`."""

    host: str | None = None
    round_trips = 0

    def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        """Run a shell script in the user's home."""
        with _script_words(script) as (words, numbers):
            try:
                process = subprocess.Popen(
                    [_shell(), *words],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=Path.home(),
                    pass_fds=numbers,
                    start_new_session=True,
                )
            except OSError as exc:
                raise TransportError(f"cannot start {_shell()}: {exc}", transient=False) from exc
        return _communicate(process, stdin, timeout)

    def send(self, sources: Sequence[tuple[Path, str]], remote_dir: str) -> None:
        """Copy files and directories into ``remote_dir``."""
        for source, name in sources:
            _copy(source, _absolute(remote_dir) / name, frozenset())

    def fetch(self, remote_dir: str, names: Sequence[str], local_dir: Path, exclude: Sequence[str] = ()) -> None:
        """Copy files and directories from ``remote_dir``."""
        left_out = frozenset(exclude)
        for name in names:
            source = _absolute(remote_dir) / name
            if os.path.lexists(source):
                _copy(source, Path(local_dir) / name, left_out)

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _absolute(directory: str) -> Path:
    """Return a directory on the host as a path; home is where paths start."""
    for prefix in ("~/", "$HOME/", "${HOME}/"):
        if directory.startswith(prefix):
            return Path.home() / directory[len(prefix) :]
    return Path.home() / directory


def _shell() -> str:
    return shutil.which("bash") or "/bin/sh"


@contextlib.contextmanager
def _script_words(script: str) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Yield the words after the name of the shell and the file numbers it needs."""
    content = os.fsencode(script)
    if len(content) < _LONGEST_WORD:
        yield ["-c", script], ()
        return
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield [f"/dev/fd/{file.fileno()}"], (file.fileno(),)


def _communicate(process: subprocess.Popen[bytes], stdin: bytes, timeout: float | None) -> Completed:
    try:
        stdout, stderr = process.communicate(stdin, timeout)
    except BaseException as exc:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(exc, subprocess.TimeoutExpired):
            raise TransportError(f"a command on this machine did not end in {timeout:g} s and was killed") from None
        raise
    return Completed(process.returncode, stdout, stderr)


def _copy(source: Path, target: Path, exclude: frozenset[str]) -> None:
    try:
        _copy_tree(source, target, exclude)
    except OSError as exc:
        where = exc.filename2 or exc.filename or target
        message = f"cannot copy {source} to {target}: {exc.strerror or exc} ({where})"
        raise TransportError(message, transient=False) from exc


def _copy_tree(source: Path, target: Path, exclude: frozenset[str]) -> None:
    if source.is_symlink() and not source.is_dir():
        _replace(source, target)
    elif source.is_dir():
        _make_private(target)
        for name in _names(source):
            if name not in exclude:
                with contextlib.suppress(FileNotFoundError):  # a running job's files come and go
                    _copy_tree(source / name, target / name, exclude)
    elif source.is_file():
        _replace(source, target)


def _names(directory: Path) -> list[str]:
    """Return what is in a directory, markers last; those that appear after the other files were listed are left out."""
    markers = [name for name in os.listdir(directory) if name.startswith(MARKER_PREFIX)]
    return [name for name in sorted(os.listdir(directory)) if not name.startswith(MARKER_PREFIX)] + markers


def _make_private(directory: Path) -> None:
    """Make a directory and those above it where they are missing, for their owner only."""
    if not directory.is_dir():
        _make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _replace(source: Path, target: Path) -> None:
    """Copy one file so that whoever looks at the target sees all of it or the old one."""
    _make_private(target.parent)
    temporary = target.with_name(f".tmp_{secrets.token_hex(8)}")
    try:
        shutil.copy2(source, temporary)
        os.replace(temporary, target)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(exc, FileNotFoundError) and not source.exists():
            raise
        raise OSError(exc.errno, exc.strerror, os.fspath(target)) from exc
