"""What one thread waits for: sockets, and things that other threads hand to it."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["WRITE", "Handler", "Loop"]

WRITE = selectors.EVENT_WRITE
_READ = selectors.EVENT_READ
_LONGEST = 3600.0  # seconds of one wait; what is to be waited for longer is waited for again

Handler = Callable[[int], None]
_T = TypeVar("_T")


class Loop(Generic[_T]):
    """Waits for sockets without polling, and is woken by `put`.

    Parameters
    ----------
    late
        Gets, in the thread that has put it, what is put after the end; so that nothing is ever lost.
    """

    def __init__(self, late: Callable[[_T], object]) -> None:
        self._late = late
        self._inbox: deque[_T] = deque()
        self._asleep = self._over = False
        self._selector: selectors.BaseSelector | None = None
        self._wake_r: socket.socket | None = None
        self._wake_w: socket.socket | None = None

    @property
    def has_mail(self) -> bool:
        """Whether something was put that has not been taken."""
        return bool(self._inbox)

    def put(self, item: _T) -> None:
        """Hand something to the thread; called by any other."""
        self._inbox.append(item)
        if self._asleep:
            self._asleep = False
            with contextlib.suppress(OSError, AttributeError):
                self._wake_w.send(b"x")  # type: ignore[union-attr]
        if self._over:
            self._turn_away()

    def taken(self) -> Iterator[_T]:
        """Yield what was put, until there is nothing."""
        while True:
            try:
                item = self._inbox.popleft()
            except IndexError:
                return
            yield item

    def open(self) -> None:
        """Begin; called by the thread itself, so that a loop that nobody starts has nothing to be closed."""
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = socket.socketpair()
        for sock in (self._wake_r, self._wake_w):
            sock.setblocking(False)
        self.watch(self._wake_r, self._drain)

    def watch(self, sock: socket.socket, handle: Handler) -> None:
        """Have a function called when something can be read."""
        assert self._selector is not None
        self._selector.register(sock, _READ, handle)

    def watches(self, sock: socket.socket) -> bool:
        """Return whether a socket is being watched."""
        assert self._selector is not None
        return sock in self._selector.get_map()

    def watch_room(self, sock: socket.socket, wanted: bool) -> None:
        """Have the function of a socket called also when there is room to send something, or no longer."""
        assert self._selector is not None
        with contextlib.suppress(KeyError, ValueError):  # no longer watched
            key = self._selector.get_key(sock)
            events = _READ | WRITE if wanted else _READ
            if key.events != events:
                self._selector.modify(sock, events, key.data)

    def unwatch(self, sock: socket.socket) -> None:
        """Forget a socket."""
        assert self._selector is not None
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def wait(self, timeout: float | None) -> None:
        """Wait, for ``timeout`` seconds or for ever, until there is something, and have it handled."""
        assert self._selector is not None
        self._asleep = True
        events = self._selector.select(0 if self._inbox else _LONGEST if timeout is None else min(timeout, _LONGEST))
        self._asleep = False
        for key, mask in events:
            key.data(mask)

    def _drain(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_r.recv(4096)  # type: ignore[union-attr]

    def close(self) -> None:
        """End; what is put from now on is late."""
        self._over = True
        self._turn_away()
        closing: list[Any] = [self._selector, self._wake_r, self._wake_w]
        for each in closing:
            if each is not None:
                each.close()

    def _turn_away(self) -> None:
        for item in self.taken():
            self._late(item)
