"""Results of calls in files, one for each key; nothing is unpickled that was not written by the same user.

Each file carries an HMAC over key and content, with a secret of its directory that only the owner can read. A file that
was cut off, altered, swapped with another or put there by somebody else counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from expyre.errors import RequestError
from expyre.executor.pickles.loading import value_in
from expyre.node.serving import messages

__all__ = ["MISSING", "Results"]

log = logging.getLogger(__name__)

MISSING: Any = object()
"""What stands for a result that is not there."""

_MARK = b"expyre1\n"
_MAC = hashlib.sha256().digest_size
_FLAGS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)


class Results:
    """A directory of results.

    Parameters
    ----------
    directory
        Made if it is not there, open to its owner only.

    Raises
    ------
    RequestError
        It cannot be used, or others can get at it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "results"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_others(self._directory)
            self._secret = _secret(self._directory / "secret")
        except OSError as error:
            raise RequestError(f"results cannot be kept in {directory}: {error.strerror} ({error.filename})") from error

    def _path(self, key: str) -> str:
        name = hashlib.sha256(key.encode()).hexdigest()
        return f"{self._directory}/{name[:2]}/{name[2:]}"

    def load(self, key: str) -> Any:
        """Return the result of a key; `MISSING` without one that can be trusted and read."""
        path = self._path(key)
        try:
            data = _read(path)
        except FileNotFoundError:
            return MISSING
        except OSError as error:
            log.warning("the result in %s is not used: %s; the call is computed again", path, error)
            return MISSING
        return self._value(key, path, data)

    def _value(self, key: str, path: str, data: bytearray) -> Any:
        view = memoryview(data)
        start = len(_MARK) + _MAC
        signature = self._mac(key, [view[start:]])
        if view[: len(_MARK)] != _MARK or not hmac.compare_digest(view[len(_MARK) : start], signature):
            log.warning("%s was cut off, altered, or is not of this directory; the call is computed again", path)
            return MISSING
        try:
            header = messages.HEADER.unpack_from(view, start)
            return value_in(messages.unpack(header, view[start + messages.HEADER.size :]))
        except Exception as error:  # of classes that are not there any more
            log.warning("the result in %s cannot be read (%s); the call is computed again", path, error)
            return MISSING

    def _mac(self, key: str, pieces: list[Any]) -> bytes:
        mac = hmac.new(self._secret, b"%d:%s" % (len(key.encode()), key.encode()), hashlib.sha256)
        for piece in pieces:
            mac.update(piece)
        return mac.digest()

    def store(self, key: str, value: Any) -> None:
        """Keep a result, at one stroke. Not waited for: that it is on disk; what a power cut spoils counts as none.

        Raises
        ------
        Exception
            It has no pickle.
        OSError
            It cannot be written.
        """
        payload = messages.dump(value)
        pieces = messages.pack(messages.RESULT, token=payload.by_value, payload=payload)
        path = self._path(key)
        temporary = f"{path}.{secrets.token_hex(4)}"
        try:
            number = _create(temporary)
            try:
                _write(number, [_MARK, self._mac(key, pieces), *pieces])
            finally:
                os.close(number)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _refuse_others(directory: Path) -> None:
    found = directory.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise RequestError(
            f"results cannot be kept in {directory}: others may write there or read it; it has to be yours, with mode "
            "700 (chmod 700)"
        )


def _secret(path: Path) -> bytes:
    """Return what only the owner of the directory knows; made if it is not there, whole or not at all."""
    if not path.exists():
        temporary = f"{path}.{secrets.token_hex(4)}"
        number = _create(temporary)
        try:
            _write(number, [secrets.token_bytes(32)])
        finally:
            os.close(number)
        with contextlib.suppress(FileExistsError):  # somebody else was first
            os.link(temporary, path)
        os.unlink(temporary)
    data = bytes(_read(str(path)))
    if len(data) != 32:
        raise RequestError(f"{path} is damaged; remove it, and the results beside it are computed again")
    return data


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, flags, 0o600)


def _write(number: int, pieces: list[Any]) -> None:
    for piece in pieces if sum(map(len, pieces)) > 1 << 16 else [b"".join(pieces)]:
        view = memoryview(piece).cast("B")
        while view:
            view = view[os.write(number, view) :]


def _read(path: str) -> bytearray:
    """Return the content of a file of one's own.

    Raises
    ------
    OSError
        There is none, or it is somebody else's.
    """
    number = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        found = os.fstat(number)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022:
            raise PermissionError(f"{path} belongs to somebody else, or others may write to it")
        data = bytearray(found.st_size)
        view, done = memoryview(data), 0
        while done < len(data) and (count := os.readv(number, [view[done:]])):
            done += count
        view.release()
        del data[done:]
        return data
    finally:
        os.close(number)
