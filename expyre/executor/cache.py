"""Results of calls are kept, by values and code like those of jobs, and used again, also in later scripts."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre.errors import RequestError
from expyre.executor.calls import Backend, Call
from expyre.executor.requests import Request
from expyre.identity import identify
from expyre.node.runner import NotAuthentic, sign, verify
from expyre.stage.pickling import dumps

if TYPE_CHECKING:
    from expyre.executor.backends import Options

__all__ = ["Cache", "Store", "make_cache"]

log = logging.getLogger(__name__)

_KEY = ".key"


class Store:
    """Results in files of a directory that is the user's alone, one for each key.

    Each file is signed with a key that lies in the directory: one that is torn, altered or somebody else's is not
    unpickled, and its call is made again.

    Parameters
    ----------
    directory
        Made if it is not there.

    Raises
    ------
    RequestError
        It cannot be made, or belongs to, or can be written by, somebody else.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = directory.stat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                who = "it is not yours" if found.st_uid != os.getuid() else "others can write there (chmod go-w)"
                raise RequestError(f"cache_directory={directory}: {who}")
            self._key = self._own_key()
        except OSError as error:
            raise RequestError(f"cache_directory={directory}: {error.strerror or error}") from error

    def _own_key(self) -> bytes:
        path = self._directory / _KEY
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(32))
        except FileExistsError:
            pass
        key = path.read_bytes()
        if len(key) != 32:
            raise RequestError(f"{path} is damaged: remove {self._directory}, results are computed again then")
        return key

    def _path(self, key: str) -> Path:
        return self._directory / f"{key.replace(':', '_').rstrip('=')}.result"

    def read(self, key: str) -> tuple[bool, Any]:
        """Return whether there is a result of a call, and the result."""
        path = self._path(key)
        try:
            return True, pickle.loads(verify(path.read_bytes(), self._key, str(path)))
        except FileNotFoundError:
            return False, None
        except NotAuthentic as error:
            log.warning("%s; nothing was unpickled, the call is made again", error)
        except Exception as error:  # of classes that cannot be imported here
            log.warning("%s cannot be read (%s: %s); the call is made again", path, type(error).__name__, error)
        return False, None

    def write(self, key: str, value: Any) -> None:
        """Keep a result; if that is not possible it only is not kept."""
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            data = sign(dumps(value), self._key)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            temporary.replace(path)
        except Exception as error:
            temporary.unlink(missing_ok=True)
            log.warning("the result of a call could not be kept in %s: %s", path, error)


class Cache:
    """Answers calls from a store, and gives the others to a backend. Equal calls under way are made once.

    Parameters
    ----------
    backend
        Makes the calls.
    store
        Keeps what they return. Failures are not kept.
    """

    def __init__(self, backend: Backend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._under_way: dict[str, list[Call]] = {}
        self._lock = threading.Lock()
        self._close: Callable[[], None] | None = None

    @property
    def max_workers(self) -> int:
        """Most calls at a time."""
        return self._backend.max_workers

    def check(self, request: Request) -> None:
        """Raise RequestError if a request can never be met."""
        self._backend.check(request)

    def take(self, call: Call) -> None:
        """Take a call."""
        try:
            key = identify(call.function, call.args, call.kwargs).key
        except Exception as error:  # an argument has no stable value
            call.fail(error)
            return
        with self._lock:
            if key in self._under_way:
                self._under_way[key].append(call)
                return
            self._under_way[key] = []
        self._begin(key, call)

    def _begin(self, key: str, call: Call) -> None:
        known, value = self._store.read(key)
        if known:
            if call.begin():
                call.end(True, value)
            self._settle(key, known, value)
            return
        call.future.add_done_callback(partial(self._done, key))
        self._backend.take(call)

    def _done(self, key: str, future: Future[Any]) -> None:
        if future.cancelled():
            self._pass_on(key)
            return
        error = future.exception()
        if error is None:
            self._store.write(key, future.result())
            self._settle(key, True, future.result())
        else:
            self._settle(key, False, error)

    def _pass_on(self, key: str) -> None:
        """Let the next of several equal calls be made: the first one was cancelled."""
        with self._lock:
            line = [call for call in self._under_way[key] if not call.future.cancelled() or call.begin()]
            self._under_way[key] = line[1:]
        if line:
            self._begin(key, line[0])
        else:
            self._settle(key, False, None)

    def _settle(self, key: str, ok: bool, value: Any) -> None:
        with self._lock:
            calls = self._under_way.pop(key)
        for call in calls:
            if call.begin():
                call.end(ok, value)
        self._close_if_idle()

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more calls; see `Backend.close`."""
        with self._lock:
            followers = [call for calls in self._under_way.values() for call in calls] if cancel else []
            self._close = partial(self._backend.close, cancel=cancel, kill=kill)
        for call in followers:
            call.cancel()
        self._close_if_idle(at_once=cancel or kill)

    def _close_if_idle(self, *, at_once: bool = False) -> None:
        with self._lock:
            if self._under_way and not at_once:
                return
            close, self._close = self._close, None
        if close is not None:
            close()

    def join(self) -> None:
        """Wait until all is over."""
        self._backend.join()


def make_cache(options: Options, backend: Backend) -> Cache:
    """Return a backend that answers from the cache that some options name.

    Raises
    ------
    RequestError
        Its directory cannot be used.
    """
    if options.cache_directory is not None:
        return Cache(backend, Store(Path(options.cache_directory).expanduser().absolute()))
    from expyre import config

    return Cache(backend, Store(config.project().stage_root / "executor_cache"))
