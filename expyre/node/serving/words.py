"""What a command says on its standard error, or output: it is passed on, and its end is kept for an error.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os

__all__ = ["Words"]

_KEPT = 4000  # bytes
_READ = 65536


class Words:
    """The standard error of a command, or its standard output.

    Parameters
    ----------
    to
        Descriptor that it is passed on to.

    Attributes
    ----------
    writing
        For the command; to be closed here once it is started.
    reading
        Becomes readable when there is something to `hear`; None after its end.
    quiet
        Whether it is kept, but not passed on any more.
    """

    def __init__(self, to: int = 2) -> None:
        self._to = to
        self.quiet = False
        reading, self.writing = os.pipe()
        os.set_blocking(reading, False)
        self.reading: int | None = reading
        self._tail = bytearray()

    def hear(self) -> None:
        """Pass on what has come."""
        try:
            while self.reading is not None:
                data = os.read(self.reading, _READ)
                if not data:
                    self.close()
                if not self.quiet:
                    _pass_on(data, self._to)
                self._tail += data
                del self._tail[:-_KEPT]
        except BlockingIOError:
            return

    def last(self) -> str:
        """Return the end of what was said, and hear no more."""
        self.hear()
        self.close()
        return self._tail.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Hear no more."""
        if self.reading is not None:
            os.close(self.reading)
            self.reading = None


def _pass_on(data: bytes, to: int) -> None:
    try:
        os.write(to, data)
    except OSError:
        return  # nobody listens
