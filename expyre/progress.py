"""One progress reporter for everything that waits or loops: a bar, plain lines, or nothing.

A bar (tqdm) on a terminal or in a notebook, one line now and then where the output goes to a file, nothing when the
caller asked for quiet or ``EXPYRE_PROGRESS=0`` is set.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Reporter", "reporter"]

_LINE_INTERVAL = 30.0


class Reporter(Protocol):
    """What a loop tells about its progress."""

    def update(self, n: int = 1, **info: object) -> None:
        """Count ``n`` more finished items and show ``info`` beside the count."""

    def note(self, text: str) -> None:
        """Show one line of text."""

    def __enter__(self) -> Reporter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Silent:
    def update(self, n: int = 1, **info: object) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Lines:
    """At most one line per half minute, the first after half a minute: short work stays silent."""

    def __init__(self, total: int | None, label: str) -> None:
        self.total, self.label, self.done = total, label, 0
        self._last = time.monotonic()
        self._spoke = False

    def update(self, n: int = 1, **info: object) -> None:
        self.done += n
        if time.monotonic() - self._last >= _LINE_INTERVAL:
            self._say(info)

    def _say(self, info: dict[str, object]) -> None:
        self._last, self._spoke = time.monotonic(), True
        of = "" if self.total is None else f"/{self.total}"
        words = "".join(f", {key} {value}" for key, value in info.items())
        self.note(f"{self.label}: {self.done}{of}{words}")

    def note(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spoke:
            self._say({})


class _Bar:
    """A tqdm bar, shown once the work has taken longer than a moment."""

    def __init__(self, total: int | None, label: str) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(total=total, desc=label, delay=0.5, dynamic_ncols=True, leave=False, file=sys.stderr)

    def update(self, n: int = 1, **info: object) -> None:
        if info:
            self._bar.set_postfix({key: str(value) for key, value in info.items()}, refresh=False)
        self._bar.update(n)
        if n == 0:
            self._bar.refresh()

    def note(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def reporter(total: int | None, label: str, *, quiet: bool = False) -> Reporter:
    """Return the reporter that suits where the output goes.

    Parameters
    ----------
    total
        Number of items, if known.
    label
        What is being done.
    quiet
        Say nothing.
    """
    if quiet or os.environ.get("EXPYRE_PROGRESS") == "0":
        return _Silent()
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return _Bar(total, label)
    return _Lines(total, label)
