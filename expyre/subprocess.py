"""Shell commands and file copies, on this machine or on another one through a remote shell."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from expyre.errors import RequestError, TransportError
from expyre.patience import tries_and_pause
from expyre.transports.sshconfig import config_words
from expyre.util import remsh_cmd as default_remsh_cmd

__all__ = ["FailedSubprocessWarning", "subprocess_copy", "subprocess_run"]

_ESCAPED = re.compile(r"""(['" ()])""")
_SSH_FAILED = 255


class FailedSubprocessWarning(RuntimeWarning):
    """Given each time a command fails, whether it is tried again or not."""


warnings.filterwarnings("always", category=FailedSubprocessWarning)


def subprocess_run(
    host: str | None,
    args: Iterable[str | os.PathLike[str]],
    script: str | None = None,
    shell: str = "bash -c",
    remsh_cmd: str | Sequence[str] | None = None,
    retry: tuple[int, float] | None = None,
    in_dir: str | os.PathLike[str] = "_HOME_",
    dry_run: bool = False,
    verbose: bool = False,
    *,
    timeout: float | None = None,
) -> tuple[Any, Any]:
    """Run a shell command.

    Parameters
    ----------
    host
        ``[user@]host`` to run on, None for this machine.
    args
        Words of the command. Quotes, blanks and parentheses in them are escaped; all else means what it means to the
        shell (``;``, ``&&``, ``|``, ``>``, ``$NAME``, globs), so words from outside must be quoted by the caller.
    script
        Text for the command's standard input.
    shell
        Shell that takes the command line as its next argument.
    remsh_cmd
        Remote shell, default the environment variable ``EXPYRE_RSH``, else ``ssh``; a string is split at blanks.
    retry
        How many tries, and how many seconds between them; default the environment variable ``EXPYRE_RETRY``
        (``"tries seconds"``), else 3 and 5.
    in_dir
        Where to run: ``_HOME_`` the home directory, ``_PWD_`` the current directory (this machine only), or a path.
    dry_run
        Run nothing.
    verbose
        Write the command and its output to stdout.
    timeout
        Seconds that one try may take, None for no limit.

    Returns
    -------
    stdout, stderr : str
        Output of the command; bytes that are not UTF-8 are replaced. In a dry run the argument list of the process and
        the bytes for its standard input (None for none).

    Raises
    ------
    RuntimeError
        The command failed at every try, or cannot be started at all; a `TransportError` where it was the connection.
    """
    argv = _argv(host, _command_line(host, args, in_dir), shell, remsh_cmd)
    stdin = None if script is None else script.encode()
    if verbose:
        sys.stdout.write(f"{'DRY-RUN' if dry_run else 'RUNNING'} COMMAND: {' '.join(argv)}\n")
    if dry_run:
        return argv, stdin
    stdout, stderr = _Command(argv, stdin, host, timeout).run(*tries_and_pause(retry))
    if verbose:
        sys.stdout.write(f"STDOUT:\n{stdout}\nSTDERR:\n{stderr}\n")
    return stdout, stderr


def subprocess_copy(
    from_files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    to_file: str | os.PathLike[str],
    from_host: str | None = "_LOCAL_",
    to_host: str | None = "_LOCAL_",
    rcp_args: str = "-a",
    rcp_cmd: str = "rsync",
    remsh_cmd: str | Sequence[str] | None = None,
    retry: tuple[int, float] | None = None,
    remsh_flags: str = "-e",
    delete: bool = False,
    verbose: bool = False,
    dry_run: bool = False,
    *,
    timeout: float | None = None,
) -> tuple[Any, Any]:
    """Copy files from, to or on this machine.

    Parameters
    ----------
    from_files, to_file
        One or several sources (globs work) and the destination.
    from_host, to_host
        ``_LOCAL_``: this machine, paths relative to the current directory; None: this machine, relative to the home
        directory; else ``[user@]host``. At least one is ``_LOCAL_``.
    rcp_args, rcp_cmd
        Copy program and its options.
    remsh_cmd, remsh_flags
        Remote shell (default as in `subprocess_run`), and the option of the copy program that takes it (empty: none).
    delete
        Delete what is in the destination and not in the sources.
    retry, verbose, dry_run, timeout
        As in `subprocess_run`.

    Returns
    -------
    stdout, stderr : str
        As in `subprocess_run`, also in a dry run.

    Raises
    ------
    RuntimeError
        Neither end is ``_LOCAL_``, or the copy failed at every try.
    """
    if "_LOCAL_" not in (from_host, to_host):
        raise RequestError(f"cannot copy from {from_host!r} to {to_host!r}: one of the two has to be '_LOCAL_'")
    several = [from_files] if isinstance(from_files, (str, os.PathLike)) else list(from_files)
    paths = [*(_place(from_host, path) for path in several), _place(to_host, to_file)]
    remsh = default_remsh_cmd(remsh_cmd)
    through = [*remsh_flags.split(), remsh if isinstance(remsh, str) else " ".join(remsh)] if remsh_flags else []
    words = [*rcp_cmd.split(), *through, *rcp_args.split(), *(["--delete"] if delete else []), *paths]
    return subprocess_run(None, words, retry=retry, in_dir="_PWD_", dry_run=dry_run, verbose=verbose, timeout=timeout)


def _command_line(host: str | None, args: Iterable[str | os.PathLike[str]], in_dir: str | os.PathLike[str]) -> str:
    command = " ".join(_escaped(arg) for arg in args)
    if in_dir == "_PWD_":
        if host is not None:
            raise AssertionError(f"in_dir='_PWD_' is a directory of this machine and means nothing on {host!r}")
        return command
    return f"cd {'$HOME' if in_dir == '_HOME_' else _escaped(in_dir)} && {command}"


def _escaped(word: str | os.PathLike[str]) -> str:
    return _ESCAPED.sub(r"\\\1", os.fspath(word))


def _argv(host: str | None, command: str, shell: str, remsh_cmd: str | Sequence[str] | None) -> list[str]:
    if host is None:
        return [*shell.split(), command]
    if host.startswith("-"):
        raise RequestError(f"{host!r} is not the name of a host")
    remsh = default_remsh_cmd(remsh_cmd)
    words = remsh.split() if isinstance(remsh, str) else list(remsh)
    if os.path.basename(words[0]) == "ssh" and "-F" not in words:
        words[1:1] = config_words()
    # The remote shell joins its arguments with blanks for a shell over there: one more layer of quotes.
    quoted = "'" + command.replace("'", "'\"'\"'") + "'"
    return [*words, host, *shell.split(), quoted]


def _place(host: str | None, path: str | os.PathLike[str]) -> str:
    if host == "_LOCAL_":
        return os.fspath(path)
    return os.path.join(os.path.expanduser("~"), path) if host is None else f"{host}:{os.fspath(path)}"


class _Command:
    """One process to run, and to run again."""

    def __init__(self, argv: list[str], stdin: bytes | None, host: str | None, timeout: float | None) -> None:
        self.argv = argv
        self.stdin = stdin
        self.host = host
        self.timeout = timeout

    def run(self, tries: int, wait: float) -> tuple[str, str]:
        failure: RuntimeError | None = None
        for attempt in range(1, tries + 1):
            returncode, stdout, stderr = self._once()
            if returncode == 0:
                if failure is not None:
                    _warn(f"succeeded at try {attempt} of {tries}: {shlex.join(self.argv)}")
                return stdout, stderr
            failure = self._failure(returncode, stdout, stderr)
            _warn(f"try {attempt} of {tries}: {failure}")
            if attempt < tries:
                time.sleep(wait)
        raise failure if failure is not None else RuntimeError("no tries")

    def _once(self) -> tuple[int | None, str, str]:
        """Return exit status (None when time ran out), stdout and stderr of one try."""
        with self._start() as process:
            try:
                stdout, stderr = process.communicate(self.stdin, timeout=self.timeout)
                return process.returncode, _decoded(stdout), _decoded(stderr)
            except subprocess.TimeoutExpired as expired:
                return None, _decoded(expired.stdout), _decoded(expired.stderr)
            finally:
                self._kill(process)

    def _start(self) -> subprocess.Popen[bytes]:
        stdin = subprocess.DEVNULL if self.stdin is None else subprocess.PIPE
        # Local commands with a time limit get a session, so that all of it can be killed. A remote shell must stay on
        # the terminal: it may have to ask for a password.
        alone = self.timeout is not None and self.host is None
        try:
            return subprocess.Popen(
                self.argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=alone
            )
        except OSError as error:
            what = "remote shell (remsh_cmd, EXPYRE_RSH)" if self.host is not None else "shell"
            raise RuntimeError(f"cannot start the {what} {self.argv[0]!r}: {error.strerror}; is it on PATH?") from error

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        if self.timeout is not None and self.host is None:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()

    def _failure(self, returncode: int | None, stdout: str, stderr: str) -> RuntimeError:
        how = f"took more than {self.timeout} s" if returncode is None else f"failed with exit status {returncode}"
        where = "" if self.host is None else f" on {self.host}"
        text = f"command{where} {how}: {shlex.join(self.argv)}\nstdout: {stdout}\nstderr: {stderr}"
        connection = self.host is not None and returncode in (None, _SSH_FAILED)
        return TransportError(text) if connection else RuntimeError(text)


def _decoded(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")


def _warn(message: str) -> None:
    warnings.warn(message, FailedSubprocessWarning, stacklevel=4)
    if "pytest" in sys.modules:  # which collects warnings away from the output of the test they belong to
        sys.stderr.write(f"{message}\n")
